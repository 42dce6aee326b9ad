"""equiwrap: model code that already exists, made exactly equivariant in one line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import frames, groups, measure, representations
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

if TYPE_CHECKING:
    from . import testing
    from .integrations.loop import EquivarianceCallback
    from .penalty import EquivarianceDecay
    from .wrap.soft_build import project_

__version__ = "0.1.0"

__all__ = [
    "equivariantize",
    "equivariantize_",
    "project_",
    "EquivarianceDecay",
    "EquivarianceCallback",
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

# imported where first used: what no averaging needs
_LATER = {
    "EquivarianceCallback": (".integrations.loop", "EquivarianceCallback"),
    "EquivarianceDecay": (".penalty", "EquivarianceDecay"),
    "project_": (".wrap.soft_build", "project_"),
    "penalty": (".penalty", ""),
    "reynolds": (".reynolds", ""),
    "testing": (".testing", ""),
}


def __getattr__(name: str) -> Any:
    """The names above, from their files.

    Raises:
        AttributeError: no such name.
    """
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    path, inside = _LATER[name]
    module = import_module(path, __name__)
    return getattr(module, inside) if inside else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
