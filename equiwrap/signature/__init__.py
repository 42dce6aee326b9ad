"""Signatures: einops patterns that know a group, parsed once and run often."""

from .grammar import Axis, Pattern, parse_pattern
from .infer import infer_outputs, looks_like_images, trial_input
from .signature import Signature
from .types import TensorType

__all__ = [
    "Axis",
    "Pattern",
    "Signature",
    "TensorType",
    "infer_outputs",
    "looks_like_images",
    "parse_pattern",
    "trial_input",
]
