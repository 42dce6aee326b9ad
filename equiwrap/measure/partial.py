"""Sets of elements that are no group: turns, or boosts, of limited size."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import (
    Device,
    Euclidean,
    Group,
    Lorentz,
    Orthogonal,
    boost,
    homogeneous,
    parse_group,
    working_dtype,
)

__all__ = ["PartialSet", "one_parameter", "unit_of"]


def unit_of(group: Group) -> str:
    """The sign of degrees for groups that rotate, none for rapidities and the like."""
    return "°" if isinstance(group, (Orthogonal, Euclidean)) else ""


def one_parameter(
    group: Group, t: Tensor, *, generator: torch.Generator | None = None, device: Device = None
) -> Tensor:
    """*exp(t X), X a random axis for each*: `t[b] → elements[b, m, m]`.

    Rotations by t degrees of a uniform plane (SO, O, SE, E), boosts of rapidity t in a uniform
    direction (Lorentz); elsewhere X is a uniform unit vector of `group.algebra()`.

    Raises:
        GroupError: the group has no one-parameter subgroups, or is a product.
    """
    t = t.to(device)
    if isinstance(group, Euclidean):
        turn = one_parameter(group.rotations, t, generator=generator, device=device)
        return homogeneous(turn, torch.zeros_like(turn[..., 0]))
    if isinstance(group, (Orthogonal, Lorentz)) and group.d > 1:
        q = Orthogonal(group.d, True).sample(len(t), generator=generator, device=device)
        if isinstance(group, Lorentz):
            return boost(torch.cat([t.cosh()[:, None], t.sinh()[:, None] * q[..., 0]], -1))
        angle = torch.zeros_like(q)
        angle[:, 1, 0], angle[:, 0, 1] = t * (pi / 180), -t * (pi / 180)
        return q @ torch.linalg.matrix_exp(angle) @ q.mT
    basis = group.algebra(device)
    if not basis.numel() or basis.ndim != 3:
        raise GroupError(
            f"{group} has no one-parameter subgroups, so nothing is measured against an angle: "
            "use ew.measure.profile, element by element."
        )
    at = generator.device if generator is not None else device
    mix = torch.randn(len(t), len(basis), generator=generator, dtype=t.dtype, device=at).to(t)
    mix = (t[:, None] * mix / mix.norm(dim=-1, keepdim=True)).to(basis)
    return torch.linalg.matrix_exp(torch.einsum("ba,aij->bij", mix, basis))


@dataclass(frozen=True)
class PartialSet:
    """*{exp(tX): |t| ≤ reach}*, t and the axis X uniform; prints as `Partial(SO(2), ±45°)`.

    `PartialSet("SO(2)", 45)`: degrees for groups that rotate, rapidity for Lorentz groups. Not a
    group: means over it are no projections, and what is measured under it says so.

    Raises:
        GroupError: the group is unknown, or the reach is not positive.
    """

    group: Group
    reach: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", parse_group(self.group))
        if not self.reach > 0:
            raise GroupError(f"{self} was asked for; a partial set needs a positive reach.")
        one_parameter(self.group, torch.zeros(1, dtype=torch.float64))

    @property
    def name(self) -> str:
        """As it prints."""
        return f"Partial({self.group}, ±{self.reach:g}{unit_of(self.group)})"

    def sample(
        self, count: int, *, generator: torch.Generator | None = None, device: Device = None
    ) -> Tensor:
        """`[count, m, m]` independent elements."""
        at, dtype = generator.device if generator is not None else device, working_dtype(device)
        t = self.reach * (2 * torch.rand(count, generator=generator, dtype=dtype, device=at) - 1)
        return one_parameter(self.group, t, generator=generator, device=device)

    def __str__(self) -> str:
        return self.name
