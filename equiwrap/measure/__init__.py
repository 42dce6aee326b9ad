"""Numbers with their floors: the model's equivariance error, and what limits it."""

from .error import ErrorEstimate, equivariance_error
from .floors import dtype_floor, interpolation_floor
from .orbit import OrbitAccuracy, orbit_accuracy

__all__ = [
    "ErrorEstimate",
    "OrbitAccuracy",
    "dtype_floor",
    "equivariance_error",
    "interpolation_floor",
    "orbit_accuracy",
]
