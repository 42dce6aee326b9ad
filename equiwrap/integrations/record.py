"""The rows of a training: what is measured on the holdout and on the weights, and λ by it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from torch import nn

from ..penalty.value import energies
from .curves import Row
from .pull import Pull
from .steer import Steering
from .watch import Watch

__all__ = ["Record"]


class Record:
    """*measure(step, epoch) → Row*, kept in `rows`; the controller sees each, and sets λ."""

    def __init__(
        self,
        watch: Watch | None,
        pull: Pull | None,
        steering: Steering,
        layers: bool,
        model: nn.Module,
    ) -> None:
        self.watch, self.pull, self.steering, self.layers = watch, pull, steering, layers
        self.model = model
        self.targets = getattr(getattr(model, "equiwrap", None), "targets", ())
        self.rows: list[Row] = []

    def measure(self, step: int, epoch: int, data: bool, steer: bool = True) -> Row:
        """The error and the weights', with `data` α* too; what is not defined is left out."""
        row: Row = {"step": step, "epoch": epoch}
        if self.watch is not None:
            row |= self._held_out(self.watch, data, steer)
        if self.targets:
            row |= self._weights(step)
        row = {name: value for name, value in row.items() if isfinite(value)}
        self.rows.append(row)
        return row

    def _held_out(self, watch: Watch, data: bool, steer: bool) -> Row:
        found = watch.error()
        if not isfinite(found.value):
            return {}  # the model or the data are not: nothing to steer by
        row: Row = {"equiv/error": found.value, "equiv/error_half_width": found.half_width}
        if self.pull is not None and steer:
            self.steering.settle(bool(watch.labelled), found.value)
            self._steer(self.steering.by_error(found.value))
        said = watch.data() if data else None
        if said is None:
            return row
        dial = said.dial
        if steer:
            self._steer(self.steering.by_alpha(dial.value))
        return row | {
            "equiv/alpha_star": dial.value,
            "equiv/alpha_star_low": dial.low,
            "equiv/alpha_star_high": dial.high,
            "equiv/data_error": said.value,
        }

    def _weights(self, step: int) -> Row:
        found = energies(self.model, self.targets)
        defect, total = sum(e.defect for e in found), sum(e.total for e in found)
        row: Row = {"equiv/ratio": defect / total if total else 0.0}
        strength = self.pull.now(step) if self.pull is not None else None
        if strength is not None:
            row |= {"equiv/strength": strength, "equiv/penalty": strength * defect}
        if self.layers:
            row |= {f"equiv/layer/{e.path}": e.ratio**0.5 for e in found}
        return row

    def _steer(self, strength: float | None) -> None:
        if strength is not None and self.pull is not None:
            self.pull.strength = strength

    @property
    def line(self) -> str:
        """The last error, λ and α*, where they were measured."""
        last: Row = {}
        for row in self.rows[-20:]:
            last |= row
        names = (("error", "equiv/error"), ("λ", "equiv/strength"), ("α*", "equiv/alpha_star"))
        return " · ".join(f"{short} {last[name]:.3g}" for short, name in names if name in last)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"steering": self.steering.state_dict(), "history": [dict(r) for r in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.rows = [dict(row) for row in state["history"]]
        self.steering.load_state_dict(state["steering"])
