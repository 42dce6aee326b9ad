"""The letters that groups declare: vectors, positions, axial quantities, the regular action."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Elements, Group, Product
from .algebra import Representation, apply

__all__ = ["Axial", "Defining", "Position", "Regular", "letters"]


@dataclass(frozen=True)
class Defining(Representation):
    """*A vector: ρ(g) = the d × d linear part of g.*"""

    group: Group

    @property
    def size(self) -> int:
        return self.group.dim

    def matrix(self, g: Elements) -> Tensor:
        return self.group.linear(g)

    def __str__(self) -> str:
        return "v"


@dataclass(frozen=True)
class Position(Representation):
    """*A position: x → Rx + t.* Affine; `matrix` is the homogeneous [[R, t], [0, 1]]."""

    group: Group

    @property
    def size(self) -> int:
        return self.group.dim

    def matrix(self, g: Elements) -> Tensor:
        return g

    def act(self, g: Elements, x: Tensor) -> Tensor:
        d = self.group.dim
        dtype = torch.promote_types(g.dtype, x.dtype)
        shift = g[..., :d, d].reshape(*g.shape[:-2], *[1] * (x.ndim - g.ndim + 1), d)
        return (apply(self.group.linear(g), x.to(dtype)) + shift).to(x.dtype)

    def __str__(self) -> str:
        return "p"


@dataclass(frozen=True)
class Axial(Representation):
    """*A pseudo-quantity: det(g)·g in three dimensions (size 3), det(g) in two (size 1).*"""

    group: Group

    @property
    def size(self) -> int:
        return 3 if self.group.dim == 3 else 1

    @property
    def rank(self) -> int:
        return 1 if self.group.dim == 3 else 0

    def matrix(self, g: Elements) -> Tensor:
        linear = self.group.linear(g)
        # torch.linalg.det factorises; orthogonal matrices this small have a closed form
        if self.group.dim == 3:
            det = (linear[..., 0, :] * linear[..., 1, :].cross(linear[..., 2, :], -1)).sum(-1)
            return det[..., None, None] * linear
        det = linear[..., 0, 0] * linear[..., 1, 1] - linear[..., 0, 1] * linear[..., 1, 0]
        return det[..., None, None]

    def __str__(self) -> str:
        return "a"


@dataclass(frozen=True)
class Regular(Representation):
    """*Functions on a finite group: ρ(g) e_h = e_{gh}, in the order of `group.elements()`.*"""

    group: Group

    @property
    def size(self) -> int:
        if self.group.order is None:
            raise GroupError(
                f"{self.group} is infinite: it has no regular representation of finite size. The "
                "letter r is for finite groups; use v, a or plain channels."
            )
        return self.group.order

    @property
    def rank(self) -> int:
        return 0

    def matrix(self, g: Elements) -> Tensor:
        table = self.group.elements(g.device)
        moved = g.unsqueeze(-3) @ table  # [..., h, m, m] = g h
        gap = (moved.unsqueeze(-3) - table.unsqueeze(-4)).abs().flatten(-2).sum(-1)  # [..., h, h']
        index = gap.argmin(-1)  # g h = elements[index[h]]
        row = torch.arange(self.size, device=g.device).unsqueeze(-1)
        return (row == index.unsqueeze(-2)).to(g.dtype)  # ρ[h', h] = 1 where g h = h'

    def __str__(self) -> str:
        return "r"


@dataclass(frozen=True)
class _Factor(Representation):
    """A representation of one factor of a product group."""

    index: int
    base: Representation

    @property
    def size(self) -> int:
        return self.base.size

    @property
    def moves(self) -> bool:
        return self.base.moves

    @property
    def rank(self) -> int:
        return self.base.rank

    def matrix(self, g: Elements) -> Tensor:
        return self.base.matrix(g[self.index])

    def act(self, g: Elements, x: Tensor) -> Tensor:
        return self.base.act(g[self.index], x)

    def __str__(self) -> str:
        return str(self.base)


def letters(group: Group) -> dict[str, Representation]:
    """*The letters that a group declares for a single axis: v, p, a, r, as far as they make sense.*

    A letter that two factors of a product declare belongs to the last of them that does.
    """
    if isinstance(group, Product):
        found: dict[str, Representation] = {}
        for index, factor in enumerate(group.factors):
            found |= {k: _Factor(index, rep) for k, rep in letters(factor).items()}
        return found
    found = {"v": Defining(group)}
    if group.affine:
        found["p"] = Position(group)
    if group.reflections and group.dim in (2, 3):
        found["a"] = Axial(group)
    if group.order is not None:
        found["r"] = Regular(group)
    return found
