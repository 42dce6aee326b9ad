"""Everything that touches torch.fx."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .marks import opaque
from .rewrite import Averaged, averaged_graph

if TYPE_CHECKING:
    from .captured import Captured, capture

__all__ = ["Averaged", "Captured", "averaged_graph", "capture", "opaque"]

_LATER = ("Captured", "capture")  # what no wrapping needs, imported where first used


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(".captured", __name__), name)
    return found
