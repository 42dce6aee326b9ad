"""Rotations, reflections and rigid motions of R^d: SO(d), O(d), SE(d), E(d)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GroupError
from .base import Device, Group, working_dtype

__all__ = ["Euclidean", "Orthogonal", "homogeneous", "skew_basis"]


def homogeneous(rotation: Tensor, translation: Tensor) -> Tensor:
    """`R[..., d, d], t[..., d] → [[R, t], [0, 1]][..., d+1, d+1]`."""
    top = torch.cat([rotation, translation.unsqueeze(-1)], -1)
    d = rotation.shape[-1]
    last = torch.eye(d + 1, dtype=top.dtype, device=top.device)[d:]
    return torch.cat([top, last.expand(*top.shape[:-2], 1, d + 1)], -2)


def _haar(count: int, d: int, generator: torch.Generator | None, device: Device) -> Tensor:
    """Haar on O(d): QR of a Gaussian matrix with R's diagonal made positive (Mezzadri 2007)."""
    at = generator.device if generator is not None else device
    dtype = working_dtype(device)
    a = torch.randn(count, d, d, generator=generator, dtype=dtype, device=at)
    q, r = torch.linalg.qr(a)
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(dtype)
    return (q * sign.unsqueeze(-2)).to(device)


def _quaternions(count: int, generator: torch.Generator | None, device: Device) -> Tensor:
    """Haar on SO(3): the rotation of a uniform unit quaternion (Shoemake 1992)."""
    at = generator.device if generator is not None else device
    dtype = working_dtype(device)
    q = torch.randn(count, 4, generator=generator, dtype=dtype, device=at)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).to(device).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def skew_basis(d: int, size: int, device: Device) -> Tensor:
    """`[d(d−1)/2, size, size]`: the skew matrices E_ji − E_ij, i < j ≤ d."""
    i, j = torch.triu_indices(d, d, 1, device=device)
    basis = torch.zeros(len(i), size, size, dtype=working_dtype(device), device=device)
    index = torch.arange(len(i), device=device)
    basis[index, i, j], basis[index, j, i] = -1.0, 1.0
    return basis


def _reflection(d: int, size: int, device: Device) -> Tensor:
    g = torch.eye(size, dtype=working_dtype(device), device=device)
    g[0, 0] = -1.0
    return g[None]


def _orthogonality(g: Tensor, special: bool) -> Tensor:
    eye = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    off = (g @ g.mT - eye).flatten(-2).norm(dim=-1)
    return off + (torch.linalg.det(g) - 1).abs() if special else off


@dataclass(frozen=True)
class Orthogonal(Group):
    """*O(d), the matrices with gᵀg = 1; SO(d), those with determinant 1.*"""

    d: int
    special: bool = False

    def __post_init__(self) -> None:
        if self.d < 1:
            raise GroupError(f"{self.name} was asked for; the dimension must be at least 1.")

    @property
    def name(self) -> str:
        return f"{'S' if self.special else ''}O({self.d})"

    @property
    def dim(self) -> int:
        return self.d

    @property
    def reflections(self) -> bool:
        return not self.special

    def generators(self, device: Device = None) -> Tensor:
        return _reflection(self.d, self.d, device)[: 0 if self.special else 1]

    def algebra(self, device: Device = None) -> Tensor:
        """`[d(d−1)/2, d, d]`: the skew matrices E_ji − E_ij."""
        return skew_basis(self.d, self.d, device)

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        if self.special and self.d == 3:
            return _quaternions(count, generator, device)
        g = _haar(count, self.d, generator, device)
        if not self.special:
            return g
        first = torch.cat([torch.linalg.det(g).unsqueeze(-1), g.new_ones(count, self.d - 1)], -1)
        return g * first.unsqueeze(-2)  # flip one column where det = −1

    def distance(self, g: Tensor) -> Tensor:
        return _orthogonality(g, self.special)


@dataclass(frozen=True)
class Euclidean(Group):
    """*E(d): x → Rx + t with R in O(d); SE(d): with R in SO(d). Homogeneous matrices [[R, t], [0,
    1]].*

    Not compact: `sample` draws R from Haar and t from a standard normal law.
    """

    d: int
    special: bool = False

    def __post_init__(self) -> None:
        if self.d < 1:
            raise GroupError(f"{self.name} was asked for; the dimension must be at least 1.")

    @property
    def name(self) -> str:
        return f"{'S' if self.special else ''}E({self.d})"

    @property
    def dim(self) -> int:
        return self.d

    @property
    def affine(self) -> bool:
        return True

    @property
    def reflections(self) -> bool:
        return not self.special

    @property
    def rotations(self) -> Orthogonal:
        """The point group: O(d) or SO(d)."""
        return Orthogonal(self.d, self.special)

    def generators(self, device: Device = None) -> Tensor:
        return _reflection(self.d, self.d + 1, device)[: 0 if self.special else 1]

    def algebra(self, device: Device = None) -> Tensor:
        """`[d(d+1)/2, d+1, d+1]`: rotations, then translations."""
        shift = torch.zeros(
            self.d, self.size, self.size, dtype=working_dtype(device), device=device
        )
        axis = torch.arange(self.d, device=device)
        shift[axis, axis, self.d] = 1.0
        return torch.cat([skew_basis(self.d, self.size, device), shift])

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        rotation = self.rotations.sample(count, generator=generator, device=device)
        at = generator.device if generator is not None else device
        shift = torch.randn(count, self.d, generator=generator, dtype=rotation.dtype, device=at)
        return homogeneous(rotation, shift.to(rotation.device))

    def inverse(self, g: Tensor) -> Tensor:
        """[[R, t], [0, 1]] → [[Rᵀ, −Rᵀt], [0, 1]]."""
        rotation = self.linear(g).mT
        return homogeneous(rotation, -(rotation @ g[..., : self.d, self.d :]).squeeze(-1))

    def distance(self, g: Tensor) -> Tensor:
        last = torch.eye(self.size, dtype=g.dtype, device=g.device)[self.d]
        off = (g[..., self.d, :] - last).norm(dim=-1)
        return off + _orthogonality(self.linear(g), self.special)
