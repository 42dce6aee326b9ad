"""Representations: how one axis of a tensor is moved by a group element."""

from .algebra import Dual, Representation, Sum, TensorProduct, Trivial
from .letters import Axial, Defining, Permuted, Position, Regular, Scaled, letters

__all__ = [
    "Axial",
    "Defining",
    "Dual",
    "Permuted",
    "Position",
    "Regular",
    "Representation",
    "Scaled",
    "Sum",
    "TensorProduct",
    "Trivial",
    "letters",
]
