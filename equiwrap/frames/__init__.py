"""Frames: maps from inputs to measures on a group, and the one equation that averages over them."""

from .average import Canonical, Canonicalize, Restore, average, mask_among, read_inputs
from .axes import Axes
from .base import Frame, GroupMeasure, TypedInput, refuse
from .defaults import defaults, frame_for, names
from .joint import Joint
from .keys import Key
from .learned import Learned, UprightNet, fit_upright
from .linear import Whitened
from .orbits import Orbits
from .pca import PCA
from .scaling import Size
from .shifts import Shift
from .sorting import Sorted
from .whole import Haar, Whole

__all__ = [
    "PCA",
    "Axes",
    "Canonical",
    "Canonicalize",
    "Frame",
    "GroupMeasure",
    "Haar",
    "Joint",
    "Key",
    "Learned",
    "Orbits",
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
    "read_inputs",
    "refuse",
]
