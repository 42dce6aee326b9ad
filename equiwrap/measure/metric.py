"""The relative equivariance error as a torchmetrics metric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .accumulator import Accumulator

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError(
        "EquivarianceMetric is a torchmetrics metric, and torchmetrics is not installed: pip "
        "install torchmetrics, or use ew.measure.Accumulator, which needs nothing."
    ) from error

__all__ = ["EquivarianceMetric"]


class EquivarianceMetric(Metric):
    """*sqrt( Σ‖f(gx) − ρ_out(g) f(x)‖² / Σ‖f(gx)‖² )*, pooled over every update and process.

    `metric.update(model(x.rot90(1, (2, 3))), model(x))` for an invariant output. `update` never
    waits for the device; `compute` gives a tensor on it.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    sums: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("sums", torch.zeros(1, 2), dist_reduce_fx="sum")

    def update(self, moved: Tensor, expected: Tensor) -> None:
        """`moved = f(gx), expected = ρ_out(g) f(x)`, of one shape."""
        with torch.no_grad():
            sums = Accumulator(1, moved.device)
            sums.add((moved - expected).abs().float().square(), moved.abs().float().square(), 0)
            self.sums = self.sums + sums.sums

    def compute(self) -> Tensor:
        """The pooled relative error, a scalar."""
        num, den = self.sums[0]
        return (num / den.clamp(min=torch.finfo(den.dtype).tiny)).sqrt()
