"""Frames: maps from inputs to measures on a group, and the one equation that averages over them."""

from .average import average, mask_among, read_inputs
from .axes import Axes
from .base import Frame, GroupMeasure, TypedInput, refuse
from .canonicalize import Canonical, Canonicalize
from .complex_axes import ComplexAxes
from .defaults import defaults, frame_for, names
from .joint import Joint
from .keys import Key
from .learned import Learned, UprightNet, fit_upright
from .linear import Whitened
from .orbits import Orbits
from .pca import PCA
from .ragged import RaggedCanonical, RaggedCanonicalize, RaggedRestore, pad_inputs
from .restframe import Rest
from .restore import Restore
from .scaling import Size
from .shifts import Shift
from .sorting import Sorted
from .whole import Haar, Whole

__all__ = [
    "PCA",
    "Axes",
    "Canonical",
    "Canonicalize",
    "ComplexAxes",
    "Frame",
    "GroupMeasure",
    "Haar",
    "Joint",
    "Key",
    "Learned",
    "Orbits",
    "RaggedCanonical",
    "RaggedCanonicalize",
    "RaggedRestore",
    "Rest",
    "Restore",
    "Shift",
    "Size",
    "Sorted",
    "TypedInput",
    "UprightNet",
    "Whitened",
    "Whole",
    "average",
    "defaults",
    "fit_upright",
    "frame_for",
    "mask_among",
    "names",
    "pad_inputs",
    "read_inputs",
    "refuse",
]
