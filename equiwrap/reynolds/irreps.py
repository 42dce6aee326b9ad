"""Spectral weights: Schur's lemma block by block, by the labels of irreps, without their matrices.

Between copies of one irrep U of dimension d, orthogonal, the equivariant maps are its commutant
D = ℝ, ℂ or ℍ, acting as I_n ⊗ D on d = n, 2n, 4n entries; between different irreps, nothing:

    (PW)[a, b] = Σ_k ⟨W[a, b], B_k⟩/d · B_k,      {B_k} = I; I, J; I and three right products
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Elements
from ..representations import Representation
from .blocks import Homs, Table, cut_pieces, project_blocks, rank_of, table_of
from .projector import Projector

__all__ = ["Angular", "Irrep", "Irreps", "frequency", "quaternion", "spin", "unitary"]

# e_j ↦ e_j · unit on (1, i, j, k): right products commute with left ones
_RIGHT = [
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, -1, 0]],
    [[0, 0, -1, 0], [0, 0, 0, -1], [1, 0, 0, 0], [0, 1, 0, 0]],
    [[0, 0, 0, -1], [0, 0, 1, 0], [0, -1, 0, 0], [1, 0, 0, 0]],
]


@dataclass(frozen=True)
class Irrep:
    """*A real irrep by its label*: `size` d, commutant "R", "C" or "H".

    Entries are `(n 2)` for ℂ, as `torch.view_as_real` gives them, `(n 4)` for ℍ: (1, i, j, k).
    `conjugate`: the same irrep after diag(1, −1) on each complex entry.
    """

    label: str
    size: int
    commutant: str = "R"
    conjugate: bool = False

    def __str__(self) -> str:
        return self.label


def frequency(m: int, order: int | None = None, parity: int | None = None) -> Irrep:
    """*(cos mθ, sin mθ)*: SO(2), or C_n with `order`; with a `parity` O(2), or D_n.

    m and −m are one irrep in conjugate bases. Without reflections a block is xI + yJ; with them,
    y = 0, and the parity (1 or −1) tells the one-dimensional irreps apart. C_n counts m modulo n;
    m = 0 and n/2 have one entry.

    Raises:
        GroupError: a parity that is not 1, −1 or None.
    """
    if parity not in (None, 1, -1):
        raise GroupError(f"parity={parity!r} was asked for: 1, -1, or None without reflections.")
    if order is not None:
        m = (m + (order - 1) // 2) % order - (order - 1) // 2  # −n/2 < m ≤ n/2
    family = f"{'SO' if parity is None else 'O'}2" if order is None else f"{order}"
    if m == 0 or (order is not None and 2 * m == order):
        sign = "" if parity is None else "+-"[parity < 0]
        return Irrep(f"{family}:{m}{sign}", 1)
    return Irrep(f"{family}:{abs(m)}", 2, "C" if parity is None else "R", m < 0)


def spin(degree: int, parity: int | None = None) -> Irrep:
    """*The 2l + 1 harmonics of a degree l*: SO(3), or O(3) with `parity` 1 (even) or −1 (odd).

    In any orthonormal real basis that is the same for all copies, e3nn's among them; l = 1 may be
    (x, y, z).
    """
    sign = "" if parity is None else "eo"[parity < 0]
    return Irrep(f"{degree}{sign}", 2 * degree + 1)


def unitary(d: int, conjugate: bool = False) -> Irrep:
    """*ℂ^d = ℝ^{2d}*, the vectors of U(d), and of SU(d) for d ≥ 3: complex numbers commute."""
    return Irrep(f"U({d})", 2 * d, "C", conjugate)


def quaternion(n: int) -> Irrep:
    """*ℍⁿ = ℝ^{4n}*, the vectors of Sp(n) from the left: ℍ commutes.

    n = 1 is SU(2): (a, b) of ℂ² is the quaternion a + jb, with entries (Re a, Im a, Re b, −Im b).
    """
    return Irrep(f"Sp({n})", 4 * n, "H")


@dataclass(frozen=True)
class Irreps(Projector):
    """*P on `W[o, i, *kernel]` between sums of irreps*, `out` and `into` pieces `(mul, irrep)`.

    Copies run slowest, as in e3nn; pixels of the kernel rest. A bias `[o]` has
    into = ((1, invariant),). O(|W|): a trace and a product of at most 4 × 4.

    Metric: Frobenius's; P is the mean over the group.
    Error: rounding of the dtype; 1e-15 relative in float64.
    Source: Schur's lemma; the commutants by Frobenius and Schur.
    """

    out: tuple[tuple[int, Irrep], ...]
    into: tuple[tuple[int, Irrep], ...]
    kernel: tuple[int, ...] = ()
    table: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", table_of(self.out, self.into, commutant))

    @property
    def rank(self) -> int:
        """*Σ over pairs of copies of one irrep · dim D.*"""
        return rank_of(self.out, self.into, self.table) * prod(self.kernel)

    def cut(self, dim: int, sizes: Sequence[int]) -> Sequence[Projector] | None:
        return cut_pieces(self, dim, sizes)

    def __call__(self, weight: Tensor) -> Tensor:
        return project_blocks(weight, self.out, self.into, self.table, self.kernel)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight.detach().lerp_(self(weight.detach()), t)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def commutant(out: Irrep, into: Irrep) -> Homs:
    """I_n/√n ⊗ D between two irreps; empty where they differ."""
    if out.label != into.label:
        return Homs(torch.zeros(0, 1, 1, 1, dtype=torch.float64))
    flipped = out.conjugate != into.conjugate
    count = {"R": 1, "C": 2, "H": 4}[out.commutant]
    side = max(count, 2) if flipped else count
    units = torch.tensor(_RIGHT, dtype=torch.float64)[:count, :side, :side] / side**0.5
    if flipped:
        units = units.new_tensor([[1.0, 0.0], [0.0, -1.0]]) @ units
    return Homs(units.unsqueeze(-1), n=out.size // side, whole=out.size == 1)


@dataclass(frozen=True)
class Angular(Representation):
    """*How (Re zᵐ, Im zᵐ), z = x + iy, of a point moves with it*: `[..., 2, 2] → [..., 2, 2]`.

    The irrep m > 0 of O(2) and its subgroups: g z = a z + b z̄ with one of a, b zero, and zᵐ goes to
    aᵐ zᵐ + bᵐ z̄ᵐ.
    """

    m: int

    @property
    def size(self) -> int:
        return 2

    @property
    def rank(self) -> int:
        return self.m

    def matrix(self, g: Elements) -> Tensor:
        p, q, r, s = g.flatten(-2).unbind(-1)
        turn = _complex((p + s) / 2, (r - q) / 2)
        flip = _complex((p - s) / 2, (r + q) / 2)
        mirror = flip.new_tensor([1.0, -1.0])
        power = torch.linalg.matrix_power
        return power(turn, self.m) + power(flip, self.m) * mirror

    def __str__(self) -> str:
        return f"e^{self.m}iθ"


def _complex(re: Tensor, im: Tensor) -> Tensor:
    return torch.stack([torch.stack([re, -im], -1), torch.stack([im, re], -1)], -2)
