"""Positive factors, R+: the group of changes of unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Device, Group, working_dtype

__all__ = ["Scale"]


@dataclass(frozen=True)
class Scale(Group):
    """*R+: x → s x, s > 0, on vectors of any length.* Elements are `[..., 1, 1]`.

    Not compact: `sample` draws log s uniform in [−1, 1]. s = 0 is the limit that takes everything
    to zero; its "inverse" is 0 as well.
    """

    @property
    def name(self) -> str:
        return "R+"

    @property
    def dim(self) -> int:
        return 1

    @property
    def compact(self) -> bool:
        return False

    @property
    def orthogonal(self) -> bool:
        return False

    @property
    def reflections(self) -> bool:
        return False

    def generators(self, device: Device = None) -> Tensor:
        return self.identity(device)[None][:0]

    def algebra(self, device: Device = None) -> Tensor:
        return self.identity(device)[None]

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        at = generator.device if generator is not None else device
        log = (
            2 * torch.rand(count, 1, 1, generator=generator, dtype=working_dtype(at), device=at) - 1
        )
        return log.exp().to(device or at)

    def inverse(self, g: Tensor) -> Tensor:
        return torch.where(g == 0, g, 1 / torch.where(g == 0, 1.0, g))

    def distance(self, g: Tensor) -> Tensor:
        return torch.where(g[..., 0, 0] >= 0, 0.0, 1.0).to(g.dtype)
