"""Rotations and reflections of the plane by multiples of 2π/n: C_n and D_n.

Coordinates are those of an image: x to the right, y down. The generator turns counter-clockwise as
seen on the screen, like `torch.rot90` over (h, w), so that its matrix is [[cos, sin], [−sin, cos]].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GroupError
from .base import Device, Group, working_dtype

__all__ = ["Cyclic", "Dihedral", "choose_element", "nearest", "rotations"]


def rotations(angle: Tensor) -> Tensor:
    """`angle[...] (radians) → [..., 2, 2]`: counter-clockwise on the screen."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, s], -1), torch.stack([-s, c], -1)], -2)


def _turns(index: Tensor, n: int) -> Tensor:
    g = rotations(index * (2 * torch.pi / n))
    return g.round() if n in (1, 2, 4) else g  # quarter turns are exact


@dataclass(frozen=True)
class Cyclic(Group):
    """*C_n: the n rotations of the plane by multiples of 2π/n.*"""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise GroupError(f"C{self.n} was asked for; C_n needs n ≥ 1.")

    @property
    def name(self) -> str:
        return f"C{self.n}"

    @property
    def dim(self) -> int:
        return 2

    @property
    def order(self) -> int:
        return self.n

    @property
    def lattice(self) -> bool:
        return self.n in (1, 2, 4)

    @property
    def reflections(self) -> bool:
        return False

    def generators(self, device: Device = None) -> Tensor:
        return self.elements(device)[1 % self.n][None]

    def elements(self, device: Device = None) -> Tensor:
        """`[n, 2, 2]`, by increasing angle."""
        return _turns(torch.arange(self.n, device=device, dtype=working_dtype(device)), self.n)

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        return choose_element(self.elements(device), count, generator)

    def distance(self, g: Tensor) -> Tensor:
        return nearest(self.elements(g.device), g)


@dataclass(frozen=True)
class Dihedral(Group):
    """*D_n: the n rotations of C_n, then each of them after the flip x → −x; 2n elements.*"""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise GroupError(f"D{self.n} was asked for; D_n needs n ≥ 1.")

    @property
    def name(self) -> str:
        return f"D{self.n}"

    @property
    def dim(self) -> int:
        return 2

    @property
    def order(self) -> int:
        return 2 * self.n

    @property
    def lattice(self) -> bool:
        return self.n in (1, 2, 4)

    def generators(self, device: Device = None) -> Tensor:
        g = self.elements(device)
        return torch.stack([g[1 % self.n], g[self.n]])

    def elements(self, device: Device = None) -> Tensor:
        """`[2n, 2, 2]`: the rotations by increasing angle, then the reflections."""
        dtype = working_dtype(device)
        turn = _turns(torch.arange(self.n, device=device, dtype=dtype), self.n)
        sign = 1 - 2 * torch.arange(2, device=device, dtype=dtype)  # [1, −1]
        flip = torch.stack([sign.flip(0), torch.ones_like(sign)])  # columns' scales: (−1, 1)
        return torch.cat([turn, turn * flip[:, 0]])

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        return choose_element(self.elements(device), count, generator)

    def distance(self, g: Tensor) -> Tensor:
        return nearest(self.elements(g.device), g)


def choose_element(elements: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` independent uniform rows of `elements[|G|, …]`."""
    at = generator.device if generator is not None else elements.device
    index = torch.randint(elements.shape[0], (count,), generator=generator, device=at)
    return elements[index.to(elements.device)]


def nearest(elements: Tensor, g: Tensor) -> Tensor:
    """`g[..., m, m] → [...]`: the distance to the nearest of `elements[|G|, m, m]`."""
    return (g.unsqueeze(-3) - elements).flatten(-2).norm(dim=-1).amin(-1)
