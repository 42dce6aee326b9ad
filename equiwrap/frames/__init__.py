"""Frames: maps from inputs to measures on a group, and the one equation that averages over them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .average import average, mask_among, read_inputs
from .axes import Axes
from .base import Frame, GroupMeasure, TypedInput, refuse
from .canonicalize import Canonical, Canonicalize
from .complex_axes import ComplexAxes
from .confidence import Confidence
from .defaults import defaults, frame_for, names
from .drawn import Drawn, Partial
from .graphs import Labelled, automorphisms
from .joint import Joint
from .keys import Key
from .learned import Learned
from .linear import Whitened
from .orbits import Orbits
from .pca import PCA
from .ragged import RaggedCanonical, RaggedCanonicalize, RaggedRestore, pad_inputs
from .restframe import Rest
from .restore import Restore
from .scaling import Size
from .separated import Separated
from .shifts import Shift
from .sorting import Sorted
from .upright import UprightNet, fit_upright
from .weighted import Weighted
from .whole import Haar, Whole

if TYPE_CHECKING:
    from .continuity import ContinuityReport, continuity_report
    from .spectral import Eigenspaces, SpectralAverage, eigenspaces, normalized_laplacian

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

# imported where first used: what no wrapping needs
_LATER = dict.fromkeys(("ContinuityReport", "continuity_report"), "continuity")
_LATER |= dict.fromkeys(("Eigenspaces", "SpectralAverage", "eigenspaces"), "spectral")
_LATER |= {"normalized_laplacian": "spectral"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return found
