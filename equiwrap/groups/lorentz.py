"""The Lorentz groups: what keeps the interval t² − x₁² − … − x_d²."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GroupError
from .base import Device, Group, working_dtype
from .orthogonal import Orthogonal, skew_basis

__all__ = ["Lorentz", "boost", "metric"]

RAPIDITY = 2.0  # samples are boosted by at most so much: γ = 3.8, β = 0.96


def metric(size: int, device: Device = None) -> Tensor:
    """*η = diag(1, −1, …, −1)*: `[size, size]`."""
    sign = -torch.ones(size, dtype=working_dtype(device), device=device)
    sign[0] = 1.0
    return sign.diag()


def boost(u: Tensor) -> Tensor:
    """*The symmetric boost that takes (1, 0, …) to u*, u·u = 1, u₀ > 0: `u[..., m] → [..., m, m]`.

    Λ = [[γ, γβᵀ], [γβ, 1 + γβ γβᵀ/(γ + 1)]] with u = (γ, γβ).
    """
    energy, momentum = u[..., :1], u[..., 1:]
    d = momentum.shape[-1]
    outer = momentum.unsqueeze(-1) * momentum.unsqueeze(-2) / (energy.unsqueeze(-1) + 1)
    block = torch.eye(d, dtype=u.dtype, device=u.device) + outer
    top = u.unsqueeze(-2)
    return torch.cat([top, torch.cat([momentum.unsqueeze(-1), block], -1)], -2)


@dataclass(frozen=True)
class Lorentz(Group):
    """*O(1, d): the matrices with gᵀηg = η; `special`: det g = 1; `orthochronous`: and g₀₀ > 0.*

    Signature (+, −, …, −), time first. Not compact: `sample` draws a Haar rotation, an isotropic
    boost of rapidity uniform in [0, 2], another rotation, and the reflections that the group has.
    """

    d: int
    special: bool = False
    orthochronous: bool = False

    def __post_init__(self) -> None:
        if self.d < 1:
            raise GroupError(f"{self.name} was asked for; it needs at least one space dimension.")
        if self.orthochronous and not self.special:
            raise GroupError("The orthochronous group here is SO+(1,d): write that.")

    @property
    def name(self) -> str:
        plus = "+" if self.orthochronous else ""
        return f"{'S' if self.special else ''}O{plus}(1,{self.d})"

    @property
    def dim(self) -> int:
        return self.d + 1

    @property
    def compact(self) -> bool:
        return False

    @property
    def orthogonal(self) -> bool:
        return False

    @property
    def reflections(self) -> bool:
        return not self.special

    @property
    def rotations(self) -> Orthogonal:
        """The subgroup that keeps the time axis and its direction: SO(d) or O(d)."""
        return Orthogonal(self.d, self.special)

    def generators(self, device: Device = None) -> Tensor:
        """`[0, 1 or 2, m, m]`: a mirror, and time reversal (with a mirror in SO(1, d))."""
        one = self.identity(device)
        time, mirror = one.clone(), one.clone()
        time[0, 0], mirror[1, 1] = -1.0, -1.0
        if self.orthochronous:
            return one[None][:0]
        return (time @ mirror)[None] if self.special else torch.stack([time, mirror])

    def algebra(self, device: Device = None) -> Tensor:
        """`[d(d+1)/2, m, m]`: the d boosts, then the rotations of space."""
        boosts = torch.zeros(self.d, self.dim, self.dim, dtype=working_dtype(device), device=device)
        axis = torch.arange(self.d, device=device)
        boosts[axis, 0, axis + 1], boosts[axis, axis + 1, 0] = 1.0, 1.0
        turns = torch.nn.functional.pad(skew_basis(self.d, self.d, device), (1, 0, 1, 0))
        return torch.cat([boosts, turns])

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        at = generator.device if generator is not None else device
        turn = self._space(self.rotations.sample(count, generator=generator, device=device))
        other = Orthogonal(self.d, True).sample(count, generator=generator, device=device)
        rapidity = RAPIDITY * torch.rand(count, 1, generator=generator, dtype=turn.dtype, device=at)
        rapidity = rapidity.to(turn.device)
        u = torch.cat([rapidity.cosh(), other[..., 0] * rapidity.sinh()], -1)
        g = turn @ boost(u) @ self._space(other)
        if self.orthochronous:
            return g
        back = (torch.rand(count, generator=generator, device=at) < 0.5).to(g.device)
        reversal = self.generators(device)[0]
        return torch.where(back[:, None, None], reversal @ g, g)

    def _space(self, rotation: Tensor) -> Tensor:
        full = torch.nn.functional.pad(rotation, (1, 0, 1, 0))
        full[..., 0, 0] = 1.0
        return full

    def inverse(self, g: Tensor) -> Tensor:
        """g⁻¹ = η gᵀ η."""
        eta = metric(self.dim, g.device).diagonal().to(g.dtype)
        return eta.unsqueeze(-1) * g.mT * eta

    def distance(self, g: Tensor) -> Tensor:
        """‖gᵀηg − η‖ / ‖g‖², plus what is missing from the determinant and the time's direction."""
        eta = metric(self.dim, g.device).to(g.dtype)
        off = (g.mT @ eta @ g - eta).flatten(-2).norm(dim=-1) / g.flatten(-2).square().sum(-1)
        if self.special:
            off = off + torch.where(torch.linalg.det(g) > 0, 0.0, 2.0).to(off)
        if self.orthochronous:
            off = off + torch.where(g[..., 0, 0] > 0, 0.0, 2.0).to(off)
        return off
