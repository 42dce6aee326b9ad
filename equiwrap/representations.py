"""Representations: how one axis of a tensor is moved by a group element.

A representation ρ maps elements `g[..., m, m]` to matrices `ρ(g)[..., s, s]` and acts on the last
axis of a tensor whose leading axes are those of g: `x[..., *rest, s] → ρ(g) x`. All are immutable
values;
`+`, `*` and `dual` build new ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .errors import GroupError
from .groups import Elements, Group, Product

__all__ = [
    "Axial",
    "Defining",
    "Dual",
    "Position",
    "Regular",
    "Representation",
    "Sum",
    "TensorProduct",
    "Trivial",
    "letters",
]


class Representation(ABC):
    """ρ: G → GL(s), with `size` s; `act` is the action and `matrix` the same thing written out."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Length s of the axis it acts on."""

    @abstractmethod
    def matrix(self, g: Elements) -> Tensor:
        """`g[..., m, m] → ρ(g)[..., s, s]`."""

    def act(self, g: Elements, x: Tensor) -> Tensor:
        """`g[*lead, m, m], x[*lead, *rest, s] → [*lead, *rest, s]`; leading axes broadcast."""
        return _apply(self.matrix(g), x)

    @property
    def moves(self) -> bool:
        """False where every element acts as the identity."""
        return True

    @property
    def rank(self) -> int:
        """Highest order l of the rotations' irreps inside: 1 for a vector, 2 for v ⊗ v."""
        return 1

    def __add__(self, other: Representation) -> Sum:
        return Sum((self, other))

    def __mul__(self, other: Representation) -> TensorProduct:
        return TensorProduct((self, other))

    @property
    def dual(self) -> Representation:
        """ρ*(g) = ρ(g⁻¹)ᵀ."""
        return Dual(self)


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    """`matrix[*lead, i, j], x[*lead, *rest, j] → x[*lead, *rest, i]`, in the wider dtype, x's back.

    The elements are float64, so that autocast leaves the product alone.
    """
    dtype = torch.promote_types(matrix.dtype, x.dtype)
    rest = x.ndim - matrix.ndim + 1  # axes of x between the leading ones and the last
    matrix = matrix.to(dtype).reshape(*matrix.shape[:-2], *[1] * rest, *matrix.shape[-2:])
    return torch.einsum("...ij,...j->...i", matrix, x.to(dtype)).to(x.dtype)


@dataclass(frozen=True)
class Trivial(Representation):
    """*Nothing moves: ρ(g) = 1 on `count` channels.*"""

    count: int = 1

    @property
    def size(self) -> int:
        return self.count

    @property
    def moves(self) -> bool:
        return False

    @property
    def rank(self) -> int:
        return 0

    def matrix(self, g: Elements) -> Tensor:
        first = g
        while isinstance(first, tuple):
            first = first[0]
        eye = torch.eye(self.count, dtype=first.dtype, device=first.device)
        return eye.expand(*first.shape[:-2], self.count, self.count)

    def act(self, g: Elements, x: Tensor) -> Tensor:
        return x

    def __str__(self) -> str:
        return str(self.count)


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
        return (_apply(self.group.linear(g), x.to(dtype)) + shift).to(x.dtype)

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
class Dual(Representation):
    """*ρ*(g) = ρ(g⁻¹)ᵀ.*"""

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
        return torch.linalg.inv(self.base.matrix(g)).mT

    def __str__(self) -> str:
        return f"{self.base}*"


@dataclass(frozen=True)
class Sum(Representation):
    """*A direct sum on one axis: the summands' entries follow one another.*"""

    parts: tuple[Representation, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def moves(self) -> bool:
        return any(part.moves for part in self.parts)

    @property
    def rank(self) -> int:
        return max(part.rank for part in self.parts)

    def matrix(self, g: Elements) -> Tensor:
        blocks = [part.matrix(g) for part in self.parts]
        _refuse_affine(blocks, self)
        out = blocks[0].new_zeros(*blocks[0].shape[:-2], self.size, self.size)
        at = 0
        for block in blocks:
            s = block.shape[-1]
            out[..., at : at + s, at : at + s] = block
            at += s
        return out

    def act(self, g: Elements, x: Tensor) -> Tensor:
        pieces = x.split([part.size for part in self.parts], -1)
        acted = [part.act(g, piece) for part, piece in zip(self.parts, pieces, strict=True)]
        lead = torch.broadcast_shapes(*[piece.shape[:-1] for piece in acted])
        return torch.cat([piece.expand(*lead, piece.shape[-1]) for piece in acted], -1)

    def __str__(self) -> str:
        return f"({' + '.join(str(part) for part in self.parts)})"


@dataclass(frozen=True)
class TensorProduct(Representation):
    """*A product on one flattened axis, the last factor fastest: `(c v)` is 1^c ⊗ v.*"""

    parts: tuple[Representation, ...]

    @property
    def size(self) -> int:
        return prod(part.size for part in self.parts)

    @property
    def moves(self) -> bool:
        return any(part.moves for part in self.parts)

    @property
    def rank(self) -> int:
        return sum(part.rank for part in self.parts)

    def matrix(self, g: Elements) -> Tensor:
        blocks = [part.matrix(g) for part in self.parts]
        _refuse_affine(blocks, self)
        out = blocks[0]
        for block in blocks[1:]:
            out = torch.einsum("...ij,...kl->...ikjl", out, block).flatten(-4, -3).flatten(-2)
        return out

    def act(self, g: Elements, x: Tensor) -> Tensor:
        x = x.unflatten(-1, [part.size for part in self.parts])
        for i, part in enumerate(self.parts):
            if part.moves:
                axis = i - len(self.parts)
                x = part.act(g, x.movedim(axis, -1)).movedim(-1, axis)
        return x.flatten(-len(self.parts))

    def __str__(self) -> str:
        return f"({' '.join(str(part) for part in self.parts)})"


def _refuse_affine(blocks: list[Tensor], rep: Sum | TensorProduct) -> None:
    if any(block.shape[-1] != part.size for block, part in zip(blocks, rep.parts, strict=True)):
        raise GroupError(
            f"{rep} contains positions, which move affinely: it acts (`act`), but it has no matrix."
        )


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
