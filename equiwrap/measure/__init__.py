"""Numbers with their floors: the symmetry errors of models and of data, and what limits them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .error import ErrorEstimate, equivariance_error
from .floors import dtype_floor, interpolation_floor
from .orbit import OrbitAccuracy, orbit_accuracy
from .partial import PartialSet

if TYPE_CHECKING:
    from .accumulator import Accumulator
    from .data import DataError, data_error
    from .estimate import Estimate
    from .lie import LieDerivative, infinitesimal, lie_derivative
    from .metric import EquivarianceMetric
    from .model import label_consistency, model_error, r2
    from .profiles import Profile, error_against_angle, profile

__all__ = [
    "Accumulator",
    "DataError",
    "EquivarianceMetric",
    "ErrorEstimate",
    "Estimate",
    "LieDerivative",
    "OrbitAccuracy",
    "PartialSet",
    "Profile",
    "data_error",
    "dtype_floor",
    "equivariance_error",
    "error_against_angle",
    "infinitesimal",
    "interpolation_floor",
    "label_consistency",
    "lie_derivative",
    "model_error",
    "orbit_accuracy",
    "profile",
    "r2",
]

# imported where first used: what no wrapping needs, and what needs torchmetrics
_LATER = {
    "Accumulator": "accumulator",
    "DataError": "data",
    "data_error": "data",
    "EquivarianceMetric": "metric",
    "Estimate": "estimate",
    "LieDerivative": "lie",
    "infinitesimal": "lie",
    "lie_derivative": "lie",
    "label_consistency": "model",
    "model_error": "model",
    "r2": "model",
    "Profile": "profiles",
    "error_against_angle": "profiles",
    "profile": "profiles",
}


def __getattr__(name: str) -> Any:
    """The names above, from their files.

    Raises:
        AttributeError: no such name.
    """
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)
