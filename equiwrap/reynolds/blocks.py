"""Direct sums of representations on both axes: every block onto its few intertwiners, no more.

An axis is a sum of *pieces* `(l, ρ)` or `(l, ρ, j)`: l copies, each ρ's entries, j copies within,
`(l v j)`: copies in front run slowest, so that `(8, v)` is the `(c v)` of einops with c = 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..errors import SignatureError
from ..groups import Group
from ..representations import Representation, Sum, TensorProduct, Trivial
from .intertwiners import intertwiners
from .projector import Projector, wide

__all__ = ["Blocks", "Homs", "pieces", "project_blocks"]

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


Find = Callable[[Any, Any], Homs]  # (ρ_out, ρ_in) of two pieces → their Homs


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


def pairs(
    out: Sequence[Piece], into: Sequence[Piece], find: Find
) -> Iterator[tuple[Piece, Piece, Homs]]:
    """Every pair of pieces, row by row, with what commutes between them."""
    for a in out:
        for b in into:
            yield a, b, find(a[1], b[1])


def rank_of(out: Sequence[Piece], into: Sequence[Piece], find: Find) -> int:
    """*Σ l j l' j' dim Hom* over the pairs of pieces."""
    copies = [(prod(sizes(a)[::2]) * prod(sizes(b)[::2]), h) for a, b, h in pairs(out, into, find)]
    return sum(n * h.count for n, h in copies)


def project_blocks(
    weight: Tensor, out: Sequence[Piece], into: Sequence[Piece], find: Find
) -> Tensor:
    """*(PW)[block] = Σ_q ⟨Q_q, W[block]⟩ Q_q*: `W[o, i, *pixels]`, or a bias `[o]` → the same.

    O(|W| q); no basis of more than one pair of representations is ever built.

    Raises:
        SignatureError: the pieces are not those of the axes of W.
    """
    o, i = (sum(prod(sizes(p)) for p in side) for side in (out, into))
    shape = (o, i) if weight.ndim > 1 else (o,)
    if tuple(weight.shape[:2]) != shape or (weight.ndim == 1 and i != 1):
        raise SignatureError(
            f"A weight of shape {list(weight.shape)} was given for representations of sizes "
            f"{o} (out) and {i} (in): its first axes must have these lengths."
        )
    view = wide(weight).reshape(o, i, -1)
    rows = []
    for a, row in zip(out, view.split([prod(sizes(a)) for a in out], 0), strict=True):
        columns = row.split([prod(sizes(b)) for b in into], 1)
        found = [_block(x, a, b, find(a[1], b[1])) for x, b in zip(columns, into, strict=True)]
        rows.append(torch.cat(found, 1))
    return torch.cat(rows).reshape(weight.shape).to(weight.dtype)


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
def _cast(homs: Homs, dtype: torch.dtype, device: str) -> Tensor:
    """The basis beside the weight; it is copied to another device once.

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

    @property
    def rank(self) -> int:
        """*Σ over pairs of copies · dim Hom.*"""
        return rank_of(self.out, self.into, self._homs) * prod(self.kernel)

    def __call__(self, weight: Tensor) -> Tensor:
        return project_blocks(weight, self.out, self.into, self._homs)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight.detach().lerp_(self(weight.detach()), t)

    def _homs(self, rep_out: Representation, rep_in: Representation) -> Homs:
        return homs_of(self.group, rep_out, rep_in)


@lru_cache(maxsize=1024)
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
