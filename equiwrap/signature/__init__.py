"""Signatures: einops patterns that know a group, parsed once and run often."""

from .grammar import Axis, Pattern, parse_pattern
from .signature import Signature
from .types import TensorType

__all__ = ["Axis", "Pattern", "Signature", "TensorType", "parse_pattern"]
