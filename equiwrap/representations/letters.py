"""The letters that groups declare: vectors, positions, axial quantities, rows, regular actions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Elements, Group, Permutations, Product, Scale, Shifts
from .algebra import Representation, apply

__all__ = ["Axial", "Defining", "Permuted", "Position", "Regular", "Scaled", "letters"]


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
class Permuted(Representation):
    """*The rows of a set: (g x)_i = x_{p_i}.* Fits an axis of any length, entries of any dtype."""

    group: Permutations
    length: int = 0

    @property
    def size(self) -> int:
        return self.group.n or self.length

    @property
    def rank(self) -> int:
        return 0

    @property
    def permutes(self) -> bool:
        return True

    def of_size(self, size: int) -> Representation:
        return replace(self, length=size)

    def matrix(self, g: Elements) -> Tensor:
        return self.group.linear(g)

    def act(self, g: Elements, x: Tensor) -> Tensor:
        lead = torch.broadcast_shapes(g.shape[:-1], x.shape[: g.ndim - 1])
        shape = (*lead, *x.shape[g.ndim - 1 :])
        index = g.reshape(*g.shape[:-1], *[1] * (x.ndim - g.ndim), g.shape[-1])
        return x.expand(shape).gather(-1, index.expand(shape))

    def __str__(self) -> str:
        return "n"


@dataclass(frozen=True)
class Scaled(Representation):
    """*A quantity with a unit: ρ(s) = s.* Fits an axis of any length."""

    group: Scale
    length: int = 0

    @property
    def size(self) -> int:
        return self.length

    def of_size(self, size: int) -> Representation:
        return replace(self, length=size)

    def matrix(self, g: Elements) -> Tensor:
        return g * torch.eye(self.length or 1, dtype=g.dtype, device=g.device)

    def act(self, g: Elements, x: Tensor) -> Tensor:
        dtype = torch.promote_types(g.dtype, x.dtype)
        return (g.reshape(*g.shape[:-2], *[1] * (x.ndim - g.ndim + 2)) * x.to(dtype)).to(x.dtype)

    def __str__(self) -> str:
        return "v"


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

    @property
    def permutes(self) -> bool:
        return self.base.permutes

    def of_size(self, size: int) -> Representation:
        return replace(self, base=self.base.of_size(size))

    def matrix(self, g: Elements) -> Tensor:
        return self.base.matrix(g[self.index])

    def act(self, g: Elements, x: Tensor) -> Tensor:
        return self.base.act(g[self.index], x)

    def __str__(self) -> str:
        return str(self.base)


@dataclass(frozen=True)
class _Both(Representation):
    """One letter that two factors of a product move, as R+ and O(3) move a vector."""

    first: Representation
    second: Representation

    @property
    def size(self) -> int:
        return self.first.size or self.second.size

    @property
    def rank(self) -> int:
        return max(self.first.rank, self.second.rank)

    def of_size(self, size: int) -> Representation:
        return _Both(self.first.of_size(size), self.second.of_size(size))

    def matrix(self, g: Elements) -> Tensor:
        whole = self.of_size(self.size)
        assert isinstance(whole, _Both)
        return whole.first.matrix(g) @ whole.second.matrix(g)

    def act(self, g: Elements, x: Tensor) -> Tensor:
        return self.first.act(g, self.second.act(g, x))

    def __str__(self) -> str:
        return str(self.first)


def letters(group: Group) -> dict[str, Representation]:
    """*The letters that a group declares for a single axis: v, p, a, r, n, where they make sense.*

    A letter that two factors of a product declare belongs to the last of them that does; only R+
    shares its v.
    """
    if isinstance(group, Product):
        found: dict[str, Representation] = {}
        for index, factor in enumerate(group.factors):
            for letter, base in letters(factor).items():
                rep: Representation = _Factor(index, base)
                shared = found.get(letter)
                if shared is not None and 0 in (shared.size, rep.size):
                    rep = _Both(shared, rep)
                found[letter] = rep
        return found
    if isinstance(group, Permutations):
        return {"n": Permuted(group)}
    if isinstance(group, Scale):
        return {"v": Scaled(group)}
    if isinstance(group, Shifts):
        return {}
    found = {"v": Defining(group)}
    if group.affine:
        found["p"] = Position(group)
    if group.reflections and group.dim in (2, 3) and group.orthogonal:
        found["a"] = Axial(group)
    if group.order is not None:
        found["r"] = Regular(group)
    return found
