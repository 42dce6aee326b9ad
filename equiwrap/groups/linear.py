"""The linear groups of R^d and their affine extension: GL(d), SL(d), Aff(d)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GroupError
from .base import Device, Group, working_dtype
from .orthogonal import Orthogonal, homogeneous

__all__ = ["Linear"]

SPREAD = math.log(3.0)  # singular values of samples lie between 1/3 and 3


@dataclass(frozen=True)
class Linear(Group):
    """*GL(d), the invertible matrices; SL(d), those with determinant 1; Aff(d): x → Ax + t.*

    Not compact: `sample` draws g = Q₁ diag(s) Q₂ with Haar rotations and log s uniform within
    ±log 3 (condition number at most 9), and t standard normal.
    """

    d: int
    special: bool = False
    moves_positions: bool = False

    def __post_init__(self) -> None:
        if self.d < 1:
            raise GroupError(f"{self.name} was asked for; the dimension must be at least 1.")

    @property
    def name(self) -> str:
        kind = "Aff" if self.moves_positions else "SL" if self.special else "GL"
        return f"{kind}({self.d})"

    @property
    def dim(self) -> int:
        return self.d

    @property
    def affine(self) -> bool:
        return self.moves_positions

    @property
    def compact(self) -> bool:
        return False

    @property
    def orthogonal(self) -> bool:
        return False

    @property
    def reflections(self) -> bool:
        return not self.special

    def generators(self, device: Device = None) -> Tensor:
        mirror = self.identity(device)
        mirror[0, 0] = -1.0
        return mirror[None][: 0 if self.special else 1]

    def algebra(self, device: Device = None) -> Tensor:
        """`[a, m, m]`: the unit matrices E_ij (traceless for SL), then the translations."""
        d = self.d
        unit = torch.eye(d * d, dtype=working_dtype(device), device=device).reshape(-1, d, d)
        if self.special:
            trace = unit.diagonal(dim1=-2, dim2=-1).sum(-1)
            flat = unit - trace[:, None, None] * torch.eye(d, dtype=unit.dtype, device=device) / d
            unit = flat[: d * d - 1]
        if not self.affine:
            return unit
        shift = torch.zeros(d, d + 1, d + 1, dtype=unit.dtype, device=device)
        axis = torch.arange(d, device=device)
        shift[axis, axis, d] = 1.0
        return torch.cat([torch.nn.functional.pad(unit, (0, 1, 0, 1)), shift])

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        at = generator.device if generator is not None else device
        outer = Orthogonal(self.d, self.special).sample(count, generator=generator, device=device)
        inner = Orthogonal(self.d, True).sample(count, generator=generator, device=device)
        size = torch.rand(count, self.d, generator=generator, dtype=outer.dtype, device=at)
        size = SPREAD * (2 * size.to(outer.device) - 1)
        if self.special:
            size = size - size.mean(-1, keepdim=True)
        g = (outer * size.exp().unsqueeze(-2)) @ inner
        if not self.affine:
            return g
        shift = torch.randn(count, self.d, generator=generator, dtype=g.dtype, device=at)
        return homogeneous(g, shift.to(g.device))

    def inverse(self, g: Tensor) -> Tensor:
        """g⁻¹ by elimination."""
        return torch.linalg.inv(g)

    def distance(self, g: Tensor) -> Tensor:
        """Distance of the determinant from the group's (0 only counts as outside for GL)."""
        det = torch.linalg.det(self.linear(g))
        off = (det - 1).abs() if self.special else torch.where(det == 0, 1.0, 0.0).to(g.dtype)
        if not self.affine:
            return off
        last = torch.eye(self.size, dtype=g.dtype, device=g.device)[self.d]
        return off + (g[..., self.d, :] - last).norm(dim=-1)
