"""equiwrap: model code that already exists, made exactly equivariant in one line."""

from . import frames, groups, measure, representations, testing
from .audit import audit
from .errors import (
    CaptureError,
    EquivarianceError,
    EquiwrapError,
    EquiwrapWarning,
    FrameError,
    GroupError,
    NoEffectWarning,
    SignatureError,
)
from .graph import opaque
from .signature import Signature
from .wrap import Config, disabled, equivariantize, equivariantize_, unwrap

__version__ = "0.1.0"

__all__ = [
    "equivariantize",
    "equivariantize_",
    "unwrap",
    "disabled",
    "audit",
    "opaque",
    "frames",
    "groups",
    "representations",
    "measure",
    "testing",
    "Signature",
    "Config",
    "EquiwrapError",
    "GroupError",
    "SignatureError",
    "CaptureError",
    "EquivarianceError",
    "FrameError",
    "EquiwrapWarning",
    "NoEffectWarning",
]
