"""Frames: maps from inputs to measures on a group, and the one equation that averages over them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .average import average, mask_among, read_inputs
from .axes import Axes
from .base import Frame, GroupMeasure, TypedInput, refuse
from .canonicalize import Canonical, Canonicalize
from .defaults import defaults, frame_for, names
from .keys import Key
from .orbits import Orbits
from .ragged import RaggedCanonical, RaggedCanonicalize, RaggedRestore, pad_inputs
from .restore import Restore
from .whole import Haar, Whole

if TYPE_CHECKING:
    from .complex_axes import ComplexAxes
    from .confidence import Confidence
    from .continuity import ContinuityReport, continuity_report
    from .drawn import Drawn, Partial
    from .graphs import Labelled, automorphisms
    from .joint import Joint
    from .learned import Learned
    from .linear import Whitened
    from .pca import PCA
    from .restframe import Rest
    from .scaling import Size
    from .separated import Separated
    from .shifts import Shift
    from .sorting import Sorted
    from .spectral import Eigenspaces, SpectralAverage, eigenspaces, normalized_laplacian
    from .upright import UprightNet, fit_upright
    from .weighted import Weighted

__all__ = [
    "PCA",
    "Axes",
    "Canonical",
    "Canonicalize",
    "ComplexAxes",
    "Confidence",
    "ContinuityReport",
    "Drawn",
    "Eigenspaces",
    "Frame",
    "GroupMeasure",
    "Haar",
    "Joint",
    "Key",
    "Labelled",
    "Learned",
    "Orbits",
    "Partial",
    "RaggedCanonical",
    "RaggedCanonicalize",
    "RaggedRestore",
    "Rest",
    "Restore",
    "Separated",
    "Shift",
    "Size",
    "Sorted",
    "TypedInput",
    "UprightNet",
    "Weighted",
    "SpectralAverage",
    "Whitened",
    "Whole",
    "automorphisms",
    "average",
    "continuity_report",
    "defaults",
    "eigenspaces",
    "fit_upright",
    "frame_for",
    "mask_among",
    "names",
    "normalized_laplacian",
    "pad_inputs",
    "read_inputs",
    "refuse",
]

# imported where first used: a wrapping needs one frame of them
_ROOMS = {
    "complex_axes": ("ComplexAxes",),
    "confidence": ("Confidence",),
    "continuity": ("ContinuityReport", "continuity_report"),
    "drawn": ("Drawn", "Partial"),
    "graphs": ("Labelled", "automorphisms"),
    "joint": ("Joint",),
    "learned": ("Learned",),
    "linear": ("Whitened",),
    "pca": ("PCA",),
    "restframe": ("Rest",),
    "scaling": ("Size",),
    "separated": ("Separated",),
    "shifts": ("Shift",),
    "sorting": ("Sorted",),
    "spectral": ("Eigenspaces", "SpectralAverage", "eigenspaces", "normalized_laplacian"),
    "upright": ("UprightNet", "fit_upright"),
    "weighted": ("Weighted",),
}
_LATER = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return found
