"""Soft symmetry of weights: |W − PW|² as a loss, as a decay after each step, or as a ball."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .targets import Target, live, read, targets_of

if TYPE_CHECKING:
    from .attention import circuits, circuits_penalty
    from .control import AlphaController, DefectController, LearnedStrengths, james_stein
    from .decay import EquivarianceDecay
    from .moments import Moments, data_penalty
    from .sampled import sampled_penalty
    from .schedule import Schedule, as_schedule, recalibrate, snap
    from .value import energies, penalty

__all__ = [
    "AlphaController",
    "DefectController",
    "EquivarianceDecay",
    "LearnedStrengths",
    "Moments",
    "Schedule",
    "Target",
    "as_schedule",
    "circuits",
    "circuits_penalty",
    "data_penalty",
    "energies",
    "james_stein",
    "live",
    "penalty",
    "read",
    "recalibrate",
    "sampled_penalty",
    "snap",
    "targets_of",
]

# imported where first used: what no wrapping needs
_LATER = {
    "circuits": "attention",
    "circuits_penalty": "attention",
    "AlphaController": "control",
    "DefectController": "control",
    "LearnedStrengths": "control",
    "james_stein": "control",
    "EquivarianceDecay": "decay",
    "Moments": "moments",
    "data_penalty": "moments",
    "sampled_penalty": "sampled",
    "Schedule": "schedule",
    "as_schedule": "schedule",
    "recalibrate": "schedule",
    "snap": "schedule",
    "energies": "value",
    "penalty": "value",
}


def __getattr__(name: str) -> Any:
    """The names above, from their files.

    Raises:
        AttributeError: no such name.
    """
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)
