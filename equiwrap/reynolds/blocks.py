"""Direct sums of representations on both axes: every block onto its few intertwiners, no more.

An axis is a sum of *pieces* `(l, ρ)` or `(l, ρ, j)`: l copies, each ρ's entries, j copies within,
`(l v j)`: copies in front run slowest, so that `(8, v)` is the `(c v)` of einops with c = 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..errors import SignatureError
from ..groups import Group
from ..representations import Representation, Sum, TensorProduct, Trivial
from .intertwiners import intertwiners
from .projector import Projector, wide

__all__ = ["Blocks", "Homs", "cut_pieces", "pieces", "project_blocks"]

Piece = tuple[int, Any] | tuple[int, Any, int]


@dataclass(frozen=True, eq=False)
class Homs:
    """*I_n/√n ⊗ Q[q, o, i, x]*: an orthonormal basis of the equivariant maps of one block.

    x are the pixels of a kernel that turns, one of them where it rests; `whole` where Q is all.
    """

    basis: Tensor
    n: int = 1
    whole: bool = False

    @property
    def count(self) -> int:
        """The dimension q of Hom."""
        return len(self.basis)


Table = tuple[tuple[Homs, ...], ...]  # one row a piece of the outputs


def pieces(rep: Representation) -> tuple[Piece, ...]:
    """*ρ as a sum of copies*: `(c v)` → ((c, v),), `(2 v + 3)` → ((2, v), (3, 1)).

    A factor on which nothing happens becomes copies, in front or within; equal neighbours join.
    """
    if not rep.moves:
        return ((rep.size, Trivial(1)),)
    if isinstance(rep, Sum):
        found: list[Piece] = []
        for piece in (p for part in rep.parts for p in pieces(part)):
            last = found[-1] if found else (0, None)
            if last[1] == piece[1] and len(last) == len(piece) == 2:
                found[-1] = (last[0] + piece[0], piece[1])
            else:
                found.append(piece)
        return tuple(found)
    if not isinstance(rep, TensorProduct):
        return ((1, rep),)
    parts = list(rep.parts)
    before, after = 1, 1
    while not parts[0].moves:
        before *= parts.pop(0).size
    while not parts[-1].moves:
        after *= parts.pop().size
    inner = pieces(parts[0]) if len(parts) == 1 else ((1, TensorProduct(tuple(parts))),)
    if len(inner) == 1:
        (copies, base, *rest) = inner[0]
        before, after = before * copies, after * prod(rest)
        return ((before, base),) if after == 1 else ((before, base, after),)
    if before == after == 1:
        return inner
    return ((before, parts[0], after),) if after > 1 else ((before, parts[0]),)


def sizes(piece: Piece) -> tuple[int, int, int]:
    """(l, size of ρ, j)."""
    return (piece[0], piece[1].size, piece[2] if len(piece) == 3 else 1)


def table_of(
    out: Sequence[Piece], into: Sequence[Piece], find: Callable[[Any, Any], Homs]
) -> Table:
    """What commutes between every two pieces, `find(ρ_out, ρ_in)`."""
    return tuple(tuple(find(a[1], b[1]) for b in into) for a in out)


def rank_of(out: Sequence[Piece], into: Sequence[Piece], table: Table) -> int:
    """*Σ l j l' j' dim Hom* over the pairs of pieces."""
    rows, columns = ([prod(sizes(p)[::2]) for p in side] for side in (out, into))
    return sum(
        a * b * homs.count
        for a, row in zip(rows, table, strict=True)
        for b, homs in zip(columns, row, strict=True)
    )


def cut_pieces(projector: Any, dim: int, lengths: Sequence[int]) -> Sequence[Projector] | None:
    """`Projector.cut` where an axis is one piece (l, ρ, j): whole copies l are alone."""
    if dim > 1 or len(side := (projector.out, projector.into)[dim]) > 1:
        return None
    (piece,), name = side, ("out", "into")[dim]
    unit = prod(sizes(piece)[1:])
    if any(length % unit for length in lengths):
        return None
    return [replace(projector, **{name: ((n // unit, *piece[1:]),)}) for n in lengths]


def check_shape(weight: Tensor, o: int, i: int, kernel: tuple[int, ...] = ()) -> None:
    """Nothing, or a sentence: `[o, i, *kernel]`, or a bias `[o]` where i = 1.

    Raises:
        SignatureError: the weight has another shape.
    """
    shape = tuple(weight.shape)
    if shape != (o, i, *kernel) and not (shape == (o,) and i == 1 and not kernel):
        raise SignatureError(
            f"A weight of shape {list(shape)} was given to a projection of weights of shape "
            f"{[o, i, *kernel]}{f' or [{o}]' if i == 1 and not kernel else ''}: the "
            "representations and the kernel must be those of its axes."
        )


def project_blocks(
    weight: Tensor,
    out: Sequence[Piece],
    into: Sequence[Piece],
    table: Table,
    kernel: tuple[int, ...] = (),
) -> Tensor:
    """*(PW)[block] = Σ_q ⟨Q_q, W[block]⟩ Q_q*: `W[o, i, *kernel]`, or a bias `[o]` → the same.

    O(|W| q), in float32 at least, under autocast too; no basis of more than one pair of
    representations is ever built.

    Raises:
        SignatureError: the pieces are not those of the axes of W.
    """
    rows, columns = ([prod(sizes(p)) for p in side] for side in (out, into))
    check_shape(weight, sum(rows), sum(columns), kernel)
    view = wide(weight).reshape(sum(rows), sum(columns), -1)
    found = []
    with torch.autocast(weight.device.type, enabled=False):
        for a, row, homs in zip(out, view.split(rows), table, strict=True):
            blocks = zip(row.split(columns, 1), into, homs, strict=True)
            found.append(torch.cat([_block(x, a, b, h) for x, b, h in blocks], 1))
    return torch.cat(found).reshape(weight.shape).to(weight.dtype)


def _block(block: Tensor, out: Piece, into: Piece, homs: Homs) -> Tensor:
    """One pair: `W[(p n o j), (m n i k), (r x)]`, both n traced out and put back."""
    if homs.whole:
        return block
    if homs.count == 0:
        return block.masked_fill(block.new_ones((), dtype=torch.bool), 0)  # in the graph
    basis, n = _cast(homs, block.dtype, str(block.device)), homs.n
    (p, _, j), (m, _, k) = sizes(out), sizes(into)
    _, o, i, x = basis.shape
    view = block.reshape(p, n, o, j, m, n, i, k, -1, x)
    view = view.diagonal(dim1=1, dim2=5).mean(-1)  # [p, o, j, m, i, k, r, x]
    part = torch.einsum("qoix,pojmikrx->qpjmkr", basis.conj(), view)
    part = torch.einsum("qoix,qpjmkr->pojmikrx", basis, part)
    if n > 1:
        part = torch.diag_embed(part.unsqueeze(-1).expand(*part.shape, n), dim1=1, dim2=5)
    return part.reshape(block.shape)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def _cast(homs: Homs, dtype: torch.dtype, device: str) -> Tensor:
    """The basis beside the weight; it is copied to another device once, and is no inference tensor.

    Raises:
        SignatureError: the basis is complex and the weight is real.
    """
    if homs.basis.is_complex() and not dtype.is_complex:
        raise SignatureError(
            "A real weight was given where only complex matrices commute with the group: make the "
            "weight complex."
        )
    return homs.basis.to(device=device, dtype=dtype)


@dataclass(frozen=True)
class Blocks(Projector):
    """*P on `W[o, i, *kernel]` between sums of representations.*

    `out` and `into` are pieces, as ((8, v), (16, Trivial(1))), for a bias `[o]` the second is
    ((1, Trivial(1)),); pixels of the kernel rest. Where v
    has only multiples of one among its maps, P is a block trace, (PW)[a, b] = tr W[a, b]/d · 1.

    Metric: Frobenius's, for every group: P² = P = Pᵀ. Where both representations are orthogonal or
    unitary, P is the mean over the group; for Lorentz, GL and SL, the mean over the compact dual
    (Weyl): their tensors are closed under transposition. A weight is real, or complex; for complex
    groups a real one stays real.

    Error: rounding of the dtype; 1e-15 relative in float64.
    Source: Schur; Finzi, Welling and Wilson 2021; Weyl's unitary trick for the compact dual.
    """

    group: Group
    out: tuple[Piece, ...]
    into: tuple[Piece, ...]
    kernel: tuple[int, ...] = ()
    table: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        find = partial(homs_of, self.group)
        object.__setattr__(self, "table", table_of(self.out, self.into, find))

    @property
    def rank(self) -> int:
        """*Σ over pairs of copies · dim Hom.*"""
        return rank_of(self.out, self.into, self.table) * prod(self.kernel)

    def cut(self, dim: int, sizes: Sequence[int]) -> Sequence[Projector] | None:
        return cut_pieces(self, dim, sizes)

    def __call__(self, weight: Tensor) -> Tensor:
        return project_blocks(weight, self.out, self.into, self.table, self.kernel)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight.detach().lerp_(self(weight.detach()), t)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)
def homs_of(group: Group, rep_out: Representation, rep_in: Representation) -> Homs:
    """`intertwiners`, with the two cases that need no product: all of them, and multiples of 1."""
    basis = intertwiners(group, rep_out, rep_in)
    q, o, i = basis.shape
    if q == o * i:
        return Homs(basis.unsqueeze(-1), whole=True)
    one = torch.eye(o, i, dtype=basis.dtype) / o**0.5
    if q == 1 and o == i and (basis[0] * basis[0].trace().sgn() - one).abs().amax() < 1e-12:
        return Homs(torch.ones(1, 1, 1, 1, dtype=torch.float64), n=o)
    return Homs(basis.unsqueeze(-1))
