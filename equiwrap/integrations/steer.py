"""Who sets λ while a model trains: α* on held-out targets, or a goal for the error."""

from __future__ import annotations

import warnings
from math import isfinite
from typing import Any

from ..errors import EquiwrapWarning
from ..penalty.control import AlphaController, DefectController

__all__ = ["Steering"]

Controller = AlphaController | DefectController


class Steering:
    """*steer= → λ*: None where λ is left alone.

    True          by α* each epoch where the holdout has targets; else towards a tenth of the error
                  that was measured first
    a number      towards this relative error
    a controller  `penalty.AlphaController` by α*, `penalty.DefectController` by the error
    """

    def __init__(self, steer: Any, strength: Any) -> None:
        self.asked = steer
        self.controller: Controller | None = None
        if isinstance(steer, (AlphaController, DefectController)):
            self.controller = steer
            steer.strength = strength
        elif isinstance(steer, bool) or steer is None:
            self.asked = bool(steer)
        elif isinstance(steer, (int, float)) and 0 < steer < float("inf"):
            self.controller = DefectController(float(steer), strength)
        else:
            raise ValueError(
                f"steer={steer!r} was asked for: True (by α* of the holdout), the relative error "
                "to be held (as in steer=0.05), or a controller of equiwrap.penalty."
            )
        if self.asked and not (isinstance(strength, (int, float)) and strength > 0):
            raise ValueError(
                f"steer= moves one strength from where it starts, and penalty={strength!r} is "
                "none: give a positive number, as in penalty=1e-2."
            )
        self.start = strength

    def settle(self, labelled: bool, error: float | None) -> None:
        """The controller of `steer=True`, once the holdout was seen.

        Raises:
            ValueError: a controller by α*, and the holdout has no targets.
        """
        if isinstance(self.controller, AlphaController) and not labelled:
            raise ValueError(
                "An AlphaController reads α*, which needs targets: holdout=(x, y), or a loader of "
                "such pairs."
            )
        if self.controller is not None or not self.asked:
            return
        if labelled:
            self.controller = AlphaController(self.start)
            return
        goal = 0.1 * error if error else 1e-3
        self.controller = DefectController(goal, self.start)
        warnings.warn(
            "steer=True finds λ from the data where the holdout has targets, holdout=(x, y), and "
            f"there are none: λ holds the error at {goal:.2g}, a tenth of what was measured first "
            "(steer=0.05 would name another goal).",
            EquiwrapWarning,
            stacklevel=5,
        )

    def by_error(self, error: float) -> float | None:
        """The next λ after a measured error, None where the error does not set it."""
        if not isinstance(self.controller, DefectController):
            return None
        return self.controller.update(error)

    def by_alpha(self, alpha: float) -> float | None:
        """The next λ after a measured α*, None where it does not set it, or is not defined."""
        if not isinstance(self.controller, AlphaController) or not isfinite(alpha):
            return None
        return self.controller.update(alpha)

    def state_dict(self) -> dict[str, Any]:
        """Kind, goal, and the controller's own numbers."""
        c = self.controller
        if c is None:
            return {}
        goal = c.target if isinstance(c, DefectController) else None
        return {"kind": type(c).__name__, "goal": goal, **c.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        if not state:
            return
        held = dict(state)
        kind, goal = held.pop("kind"), held.pop("goal")
        if type(self.controller).__name__ != kind:
            alpha = kind == "AlphaController"
            self.controller = AlphaController() if alpha else DefectController(goal)
        if isinstance(self.controller, DefectController):
            self.controller.target = goal
        assert self.controller is not None
        self.controller.load_state_dict(held)
