"""Sums of squares that stay on the device until somebody reads them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Accumulator"]


class Accumulator:
    """*sqrt(Σ num / Σ den) of n quantities*, in one tensor `sums[n, 2]` in float32.

    `add` never waits for the device and keeps no graph; `read` waits once. The first `add` settles
    the device.

    Error: the sums are those of float32: an addend below 6e-8 of its sum is lost.
    """

    def __init__(self, count: int = 1, device: torch.device | str | None = None) -> None:
        self.sums = torch.zeros(count, 2, device=device)

    @torch.no_grad()
    def add(self, num: Tensor, den: Tensor, row: int | None = None) -> None:
        """`num, den`: of any shape, summed into one row; `[n]` each, a row for each, without it."""
        if self.sums.device != num.device:
            self.sums = self.sums.to(num.device)
        pair = torch.stack([num, den], -1).to(self.sums.dtype)
        if row is None and len(self.sums) > 1:
            self.sums += pair
        else:
            self.sums[row or 0] += pair.reshape(-1, 2).sum(0)

    def relative(self) -> Tensor:
        """`[n]` on the device: sqrt(Σ num / Σ den), 0 where nothing was added."""
        num, den = self.sums.unbind(-1)
        return (num / den.clamp(min=torch.finfo(den.dtype).tiny)).sqrt()

    def read(self) -> list[float]:
        """The same as numbers: one wait for the device."""
        return self.relative().tolist()

    def reset(self) -> None:
        """Nothing added."""
        self.sums.zero_()
