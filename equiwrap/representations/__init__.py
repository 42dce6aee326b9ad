"""Representations: how one axis of a tensor is moved by a group element."""

from .algebra import Dual, Representation, Sum, TensorProduct, Trivial
from .letters import Axial, Defining, Position, Regular, letters

__all__ = [
    "Axial",
    "Defining",
    "Dual",
    "Position",
    "Regular",
    "Representation",
    "Sum",
    "TensorProduct",
    "Trivial",
    "letters",
]
