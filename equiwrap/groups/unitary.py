"""The unitary groups of C^d: U(d) and SU(d)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GroupError
from .base import Device, Group

__all__ = ["Unitary"]


@dataclass(frozen=True)
class Unitary(Group):
    """*U(d), the complex matrices with g*g = 1; SU(d), those with determinant 1.* complex128."""

    d: int
    special: bool = False

    def __post_init__(self) -> None:
        if self.d < 1:
            raise GroupError(f"{self.name} was asked for; the dimension must be at least 1.")

    @property
    def name(self) -> str:
        return f"{'S' if self.special else ''}U({self.d})"

    @property
    def dim(self) -> int:
        return self.d

    @property
    def complex(self) -> bool:
        return True

    @property
    def orthogonal(self) -> bool:
        return False

    @property
    def reflections(self) -> bool:
        return False

    def identity(self, device: Device = None) -> Tensor:
        return torch.eye(self.d, dtype=torch.complex128, device=device)

    def generators(self, device: Device = None) -> Tensor:
        return self.identity(device)[None][:0]

    def algebra(self, device: Device = None) -> Tensor:
        """`[d² or d² − 1, d, d]`: E_ji − E_ij and i(E_ij + E_ji) for i < j, then diagonal ones."""
        d, found = self.d, []
        for i in range(d):
            for j in range(i + 1, d):
                real, imaginary = torch.zeros(2, d, d, dtype=torch.float64)
                real[i, j], real[j, i] = -1.0, 1.0
                imaginary[i, j], imaginary[j, i] = 1.0, 1.0
                found += [real + 0j, 1j * imaginary]
        for i in range(d - self.special):
            phase = torch.zeros(d, d, dtype=torch.float64)
            phase[i, i] = 1.0
            if self.special:
                phase[i + 1, i + 1] = -1.0
            found.append(1j * phase)
        empty = torch.zeros(0, d, d, dtype=torch.complex128)
        return (torch.stack(found) if found else empty).to(device)

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        """Haar: QR of a complex Gaussian matrix, R's diagonal positive; SU: over a root of det."""
        at = generator.device if generator is not None else device
        pair = torch.randn(2, count, self.d, self.d, generator=generator, device=at).double()
        q, r = torch.linalg.qr(torch.complex(*pair.to(device or at)))
        diagonal = r.diagonal(dim1=-2, dim2=-1)
        g = q * (diagonal / diagonal.abs()).unsqueeze(-2)
        if not self.special:
            return g
        return g * torch.linalg.det(g)[:, None, None] ** (-1 / self.d)

    def inverse(self, g: Tensor) -> Tensor:
        """g⁻¹ = g*, the conjugate transpose."""
        return g.mH

    def distance(self, g: Tensor) -> Tensor:
        eye = torch.eye(self.d, dtype=g.dtype, device=g.device)
        off = (g @ g.mH - eye).flatten(-2).norm(dim=-1)
        return off + (torch.linalg.det(g) - 1).abs() if self.special else off
