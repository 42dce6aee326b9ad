"""The algebra of representations: ρ ⊕ σ, ρ ⊗ σ, ρ*, and the trivial one.

A representation ρ maps elements `g[..., m, m]` to matrices `ρ(g)[..., s, s]` and acts on the last
axis of a tensor whose leading axes are those of g: `x[..., *rest, s] → ρ(g) x`. All are immutable
values; `+`, `*` and `dual` build new ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Elements

__all__ = ["Dual", "Representation", "Sum", "TensorProduct", "Trivial", "apply"]


class Representation(ABC):
    """ρ: G → GL(s), with `size` s; `act` is the action and `matrix` the same thing written out."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Length s of the axis it acts on; 0 where it fits any length (see `of_size`)."""

    @abstractmethod
    def matrix(self, g: Elements) -> Tensor:
        """`g[..., m, m] → ρ(g)[..., s, s]`."""

    def act(self, g: Elements, x: Tensor) -> Tensor:
        """`g[*lead, m, m], x[*lead, *rest, s] → [*lead, *rest, s]`; leading axes broadcast."""
        return apply(self.matrix(g), x)

    @property
    def moves(self) -> bool:
        """False where every element acts as the identity."""
        return True

    @property
    def rank(self) -> int:
        """Highest order l of the rotations' irreps inside: 1 for a vector, 2 for v ⊗ v."""
        return 1

    @property
    def permutes(self) -> bool:
        """True where the action only reorders entries, of any dtype."""
        return False

    def of_size(self, size: int) -> Representation:
        """The representation for an axis of this length; most have only one."""
        return self

    def __add__(self, other: Representation) -> Sum:
        return Sum((self, other))

    def __mul__(self, other: Representation) -> TensorProduct:
        return TensorProduct((self, other))

    @property
    def dual(self) -> Representation:
        """ρ*(g) = ρ(g⁻¹)ᵀ."""
        return Dual(self)


def apply(matrix: Tensor, x: Tensor) -> Tensor:
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
        return prod([part.size for part in self.parts])

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
