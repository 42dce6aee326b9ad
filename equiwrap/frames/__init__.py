"""Frames: maps from inputs to measures on a group, and the one equation that averages over them."""

from .average import average, mask_among, read_inputs
from .axes import Axes
from .base import Frame, GroupMeasure, TypedInput, refuse
from .canonicalize import Canonical, Canonicalize
from .complex_axes import ComplexAxes
from .confidence import Confidence
from .continuity import ContinuityReport, continuity_report
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
from .spectral import Eigenspaces, SpectralAverage, eigenspaces, normalized_laplacian
from .upright import UprightNet, fit_upright
from .weighted import Weighted
from .whole import Haar, Whole

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
