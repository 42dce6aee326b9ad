"""Everything that touches torch.fx."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .rewrite import Averaged, averaged_graph

if TYPE_CHECKING:
    from .capture import Captured, capture, opaque

__all__ = ["Averaged", "Captured", "averaged_graph", "capture", "opaque"]

_LATER = ("Captured", "capture", "opaque")  # what no wrapping needs, imported where first used


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(".capture", __name__), name)
    return found
