"""Kernels under rotations that the pixels do not have: C_n, D_n, SO(2), O(2) on k × k taps.

A mean over interpolated rotations is no projection: A² ≠ A by a quarter of the norm. Here the
equivariant kernels of the plane are written down, rings R_j(|x|) times the angular parts that the
representations allow, and sampled on the taps; P projects onto the span of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import pi

import torch
from torch import Tensor

from ..errors import GroupError
from ..grids import axes_of
from ..groups import Group
from ..representations import Representation, Sum, TensorProduct, Trivial
from .blocks import Homs, Piece, Table, cut_pieces, project_blocks, rank_of, sizes, table_of
from .intertwiners import intertwiners
from .irreps import Angular
from .projector import Projector

__all__ = ["Steerable", "steering_error"]

# Of widths 0.45 … 0.8 and reaches 0.5 … ∞ these steer best on k = 3, 5, 7 together; with reach 0.5
# the outer ring of k = 7 lacks its taps (2, 3), and errors are five times as large.
WIDTH, REACH = 0.5, 0.65  # of a ring, beyond the last ring; in taps
SPAN = 1e-6  # sampled kernels whose singular value is smaller are not new


@dataclass(frozen=True)
class Steerable(Projector):
    """*P on `W[o, i, k, k]` onto the sampled κ with κ(gx) = ρ_out(g) κ(x) ρ_in(g)⁻¹*.

    `out` and `into` are pieces `(copies, ρ)`: trivial, vectors, `Angular(m)`, regular for finite
    groups. Ring j, a Gaussian at j taps from the centre, carries frequencies m ≤ 2j; taps further
    than 0.65 beyond the last ring (corners, from k = 5) are zero. x right, y down, odd or even k.

    P² = P = Pᵀ in Frobenius's metric, exactly; PW commutes with the quarter turns and mirrors of
    the lattice that the group has, exactly. With every other element it is equivariant in the limit
    of smooth inputs only, and no mean over the group: see `steering_error`. A bias takes `Blocks`.

    Error: rounding of the dtype, as a projection. As a symmetry, `steering_error` of projected
    random kernels, k = 3 … 9, is at most 0.12 on waves of 4 pixels, 0.07 of 8; of free ones 0.7
    to 1.4.
    Source: Weiler and Cesa 2019, §2 (the constraint); sampling after Freeman and Adelson 1991.
    """

    group: Group
    out: tuple[Piece, ...]
    into: tuple[Piece, ...]
    k: int
    table: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def find(rep_out: Representation, rep_in: Representation) -> Homs:
            return sampled(self.group, rep_out, rep_in, self.k)

        object.__setattr__(self, "table", table_of(self.out, self.into, find))

    @property
    def rank(self) -> int:
        """Independent sampled kernels, once a pair of copies."""
        return rank_of(self.out, self.into, self.table)

    def cut(self, dim: int, sizes: Sequence[int]) -> Sequence[Projector] | None:
        return cut_pieces(self, dim, sizes)

    def __call__(self, weight: Tensor) -> Tensor:
        return project_blocks(weight, self.out, self.into, self.table, (self.k, self.k))

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight.detach().lerp_(self(weight.detach()), t)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def sampled(group: Group, rep_out: Representation, rep_in: Representation, k: int) -> Homs:
    """`Q[q, o, i, k²]`: an orthonormal basis of the sampled kernels between two representations.

    κ(x) = Σ_b K[·, ·, b] F_b(x) R_j(|x|) with F = (cos mθ, sin mθ) is equivariant exactly where K
    intertwines ρ_in ⊗ F with ρ_out.

    Raises:
        GroupError: the group does not act on the plane, or moves positions.
    """
    if axes_of(group) != ("h", "w") or group.permutes:
        raise GroupError(
            f"{group} does not turn k × k kernels: steerable kernels are for C_n, D_n, SO(2), O(2)."
        )
    o, i = rep_out.size, rep_in.size
    radius, waves = _polar(k)
    columns = []
    for m in range(k):
        field = TensorProduct((rep_in, Angular(m))) if m else rep_in
        basis = intertwiners(group, rep_out, field)
        basis = basis.reshape(len(basis), o, i, len(waves[m]))  # [q, o, i, b]
        for ring in _rings(k):
            if m <= 2 * ring:
                taps = waves[m] * (-((radius - ring) ** 2) / (2 * WIDTH**2)).exp()
                columns.append(torch.einsum("qoib,bx->qoix", basis, taps))
    inside = (radius <= (k - 1) / 2 + REACH).double()
    stacked = (torch.cat(columns) * inside).flatten(1)
    _, values, rows = torch.linalg.svd(stacked, full_matrices=False)
    kept = rows[values > SPAN * values.amax()] if len(values) else rows
    return Homs(kept.reshape(len(kept), o, i, k * k))


def _rings(k: int) -> list[float]:
    """0, 1, …, (k − 1)/2 from the middle tap; ½, 3/2, … where the middle is none."""
    return [(k - 1) / 2 - step for step in range((k - 1) // 2 + 1)][::-1]


def _taps(k: int) -> Tensor:
    """`[2, k²]`: x to the right, y down, from the centre."""
    at = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()])


def _polar(k: int) -> tuple[Tensor, list[Tensor]]:
    """|x| of the taps, and (Re, Im) of (z/|z|)ᵐ for m = 0, 1, …; zero at the centre for m > 0."""
    x, y = _taps(k)
    radius = torch.complex(x, y).abs()
    unit = torch.complex(x, y) / radius.clamp(min=0.1)
    waves = [torch.ones(1, k * k, dtype=torch.float64)]
    for m in range(1, k):
        power = unit**m
        waves.append(torch.stack([power.real, power.imag]))
    return radius, waves


def steering_error(projector: Steerable, weight: Tensor, wavelength: float = 8.0) -> float:
    """*rms ‖κ̂(gp) − ρ_out(g) κ̂(p) ρ_in(g)⁻¹‖ / rms ‖κ̂‖, |p| = 2π/wavelength*: `W[o, i, k, k] → ε`.

    κ̂(p) = Σ_x κ(x) e^{−ip·x} is what the taps do to a plane wave, so that this is the relative
    equivariance error of the convolution on waves of that length (in pixels) in all directions:
    every element of a finite group, 24 of SO(2) or O(2). ρ_in must be orthogonal.
    """
    group = projector.group
    draws = torch.Generator().manual_seed(0)
    g = group.sample(24, generator=draws) if group.order is None else group.elements()
    angle = torch.arange(32, dtype=torch.float64) * (2 * pi / 32) + 0.1
    p = torch.stack([angle.cos(), angle.sin()], -1) * (2 * pi / wavelength)  # [w, 2]
    kernel = weight.detach().double().cpu().flatten(2)

    def wave(p: Tensor) -> Tensor:  # [..., 2] → κ̂[..., i, o]
        phase = torch.exp(-1j * (p @ _taps(projector.k)))
        return torch.einsum("oix,...x->...io", kernel + 0j, phase)

    turned = wave(torch.einsum("gij,wj->gwi", g, p))
    rest = wave(p).expand_as(turned)
    out, into = (_whole(side) for side in (projector.out, projector.into))
    moved = into.act(g, out.act(g, rest).mT).mT
    return float((turned - moved).norm() / rest.norm())


def _whole(side: tuple[Piece, ...]) -> Representation:
    """The representation of an axis of these pieces."""
    return Sum(
        tuple(
            TensorProduct((Trivial(before), piece[1], Trivial(after)))
            for piece in side
            for before, _, after in [sizes(piece)]
        )
    )
