"""The frame of U(d) and SU(d) on complex clouds: axes by pivots, phases included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Group, Unitary
from ..groups.base import working_dtype
from .base import Frame, GroupMeasure, TypedInput
from .cloud import SHRINK
from .keys import check_ties
from .pivots import wedge
from .reading import cloud
from .unitary_ties import MERGE, ComplexCloud, complete, normalize, reject, resolve, small

__all__ = ["UnitaryAxes", "basis", "choose", "gather"]


class UnitaryAxes(Frame):
    """*q_1 = u/|u| for the longest vector u, q_2 from the largest residual, …: columns of g.*

    `vectors[i][b, n_i, d]` (complex) → `elements[b, 1, d, d]`, or `[b, k, d, d]` with zero weights
    where samples of the batch are tied. The phase of a pivot is kept: under U(d) the canonical
    pivot is real and positive. Under SU(d) the last column is the conjugate wedge of the others,
    so that no root of a determinant is taken. All inputs count, each scaled to its own size; the
    order of the vectors does not.

    Degenerate: tied vectors give all their frames, of which the largest invariant score keeps the
    stabiliser's coset (a cube of real points: 48 under U(3), ±x: 2). Vectors that span r < d
    dimensions leave q = d − r, and outputs are averaged over a finite group that acts there as
    U(q) or SU(q) do: see `design` for its order. It costs one call. Nearly so (residual below
    ε^(1/4), or ε^(1/3) for q > 2) it is averaged over with a call each, which leaves the fourth
    power of the residual, the square for q > 2. `rank` is the highest number of axes v of an
    output.
    """

    def __init__(self, *, ties: str = "average", rank: int = 2, **options: Any) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.ties, self.rank = ties, rank

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return {"vectors": [_hide(x, mask) for x in cloud(group, inputs)[1]]}

    def forward(self, group: Group, vectors: Sequence[Tensor]) -> GroupMeasure:
        """`vectors[i][b, n_i, d]`, complex, → the measure.

        Raises:
            GroupError: the group is neither U(d) nor SU(d), the vectors are real or not of its
                dimension, or a design of this `rank` is needed and not known.
            FrameError: a sample has too many tied frames to be listed.
        """
        points = gather(group, vectors)
        special = group.special  # type: ignore[attr-defined]
        pivots, flagged = choose(points, special)
        g = basis(points.points, pivots.unsqueeze(1), special)  # [b, 1, d, d]
        one = torch.ones_like(g[..., 0, 0].real)
        if self.ties == "first" or torch.compiler.is_compiling() or not bool(flagged.any()):
            return GroupMeasure(g, one)
        where = flagged.nonzero()[:, 0]
        some = points.rows(where)
        found = resolve(some, special, self.rank, where)
        width = found.weights.shape[1]
        several = basis(some.points, found.pivots, special) @ found.table[found.member]
        g = g.repeat(1, width, 1, 1).index_copy(0, where, several)
        if width == 1:  # close calls, but no ties
            return GroupMeasure(g, one)
        weights = torch.nn.functional.pad(one, (0, width - 1)).index_copy(0, where, found.weights)
        own = torch.arange(width, device=weights.device).repeat(len(weights), 1)
        return GroupMeasure(g, weights, ragged=True, calls=own.index_copy(0, where, found.calls))

    def describe(self, group: Group) -> str:
        return "unitary: 1 element a sample, the stabiliser on symmetric clouds, exact"


def gather(group: Group, vectors: Sequence[Tensor]) -> ComplexCloud:
    """*(x/max|x|, 0.7 y/max|y|, 0.49 z/max|z|, …)*, then to size one: `→ points[b, N, d]`.

    Sizes are constants to the gradient: a frame does not depend on them.

    Raises:
        GroupError: the group is neither U(d) nor SU(d), or the vectors do not fit it.
    """
    wrong = [x for x in vectors if not x.is_complex() or x.ndim != 3 or x.shape[-1] != group.dim]
    if not isinstance(group, Unitary) or wrong or not vectors:
        found = ", ".join(f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in wrong)
        raise GroupError(
            f"Unitary axes were asked for {group}"
            + (f" and vectors {found}" if found else "")
            + "; they are the frame of U(d) and SU(d) on complex vectors [b, n, d]: convert real "
            "ones by x.to(torch.complex64)."
        )
    dtype = working_dtype(vectors[0].device).to_complex()
    eps = max(torch.finfo(x.dtype).eps for x in vectors)
    parts, slices, start = [vectors[0].to(dtype).new_zeros(len(vectors[0]), 0, group.dim)], [], 0
    for i, x in enumerate(x for x in vectors if x.shape[1]):
        parts.append(_unit(x.to(dtype)) * SHRINK**i)
        slices.append(slice(start, start + x.shape[1]))
        start += x.shape[1]
    points = torch.cat(parts, 1)
    if len(slices) == 0:
        return ComplexCloud(points.new_zeros(len(points), 1, group.dim), (slice(0, 1),), eps)
    return ComplexCloud(_unit(points) if len(slices) > 1 else points, tuple(slices), eps)


def _unit(x: Tensor) -> Tensor:
    """`x[b, n, d] → x / max|x|`, and 0 where all is 0; tiny and huge numbers alike."""
    with torch.no_grad():
        pairs = torch.view_as_real(x.resolve_conj())
        peak = pairs.abs().amax((1, 2, 3))
        safe = torch.where(peak != 0, peak, 1.0)
        size = (pairs / safe[:, None, None, None]).square().sum((2, 3)).amax(1).sqrt()
        size = torch.where(peak != 0, size, 1.0)
    return x / safe[:, None, None] / size[:, None, None]


@torch.no_grad()
def choose(cloud: ComplexCloud, special: bool) -> tuple[Tensor, Tensor]:
    """*i_k = argmax_i |residual of u_i after q_1 … q_{k−1}|*, in one pass without branches.

    `points[b, n, d] → pivots[b, d or d−1], flagged[b]`: where another vector is as long to √ε, or
    a residual so small that a design is averaged over. Vectors equal to the pivot are no tie. Real
    arithmetic on `[b, d, n]`, which compiles.
    """
    pairs = torch.view_as_real(cloud.points.detach().resolve_conj())
    x, y = (part.mT.contiguous() for part in pairs.unbind(-1))  # [b, d, n]
    b, d, n = x.shape
    noise, tau = cloud.eps, cloud.eps**0.5
    flagged = torch.zeros(b, dtype=torch.bool, device=x.device)
    covered, pivots = x.new_zeros(b, d), []
    square = (x * x + y * y).sum(1)  # [b, n]
    eye = torch.arange(d, device=x.device)
    for level in range(d - special):
        top, pivot = square.max(1, keepdim=True)
        largest = top.sqrt()
        flagged = flagged | (largest <= small(d - level, noise)).squeeze(-1)
        some = (largest > MERGE * noise) | largest.isnan()
        spare = covered.argmin(1, keepdim=True)
        at = pivot.unsqueeze(1).expand(-1, d, 1)
        unit = (eye == spare).to(x.dtype)
        p = torch.where(some, x.gather(2, at).squeeze(-1) / largest, unit)  # [b, d]
        q = torch.where(some, y.gather(2, at).squeeze(-1) / largest, torch.zeros_like(unit))
        p, q = p.unsqueeze(-1), q.unsqueeze(-1)
        u, v = (p * x + q * y).sum(1, keepdim=True), (p * y - q * x).sum(1, keepdim=True)
        x, y = x - (p * u - q * v), y - (p * v + q * u)
        after = (x * x + y * y).sum(1)
        apart = after + (u.squeeze(1) - largest).square() + v.squeeze(1).square()
        rival = (square >= (largest - tau).clamp(min=0).square()) & (apart > (MERGE * noise) ** 2)
        flagged = flagged | rival.any(1)
        covered = covered + (p * p + q * q).squeeze(-1)
        pivots.append(torch.where(some, pivot, n + spare))
        square = after
    empty = torch.zeros(b, 0, dtype=torch.long, device=x.device)
    return torch.cat([empty, *pivots], 1), flagged


def basis(points: Tensor, pivots: Tensor, special: bool) -> Tensor:
    """*Columns q_1, …, q_d: Gram–Schmidt of the pivots; under SU(d) the last makes det g = 1.*

    `points[b, n, d], pivots[b, k, l] → [b, k, d, d]`, l = d or d − 1. A pivot n + a is the basis
    vector a of C^d. Differentiable in the points, finite everywhere.
    """
    b, n, d = points.shape
    k, levels = pivots.shape[1:]
    axes = points.new_zeros(b, k, 0, d)
    if levels:
        flat = pivots.clamp(max=n - 1).flatten(1).unsqueeze(-1).expand(-1, -1, d)
        chosen = points.gather(1, flat).unflatten(1, (k, levels))
        eye = torch.eye(d, dtype=points.dtype, device=points.device)[(pivots - n).clamp(min=0)]
        chosen = torch.where((pivots < n).unsqueeze(-1), chosen, eye)
        for v in chosen.unbind(-2):
            axes = torch.cat([axes, normalize(reject(v, axes)).unsqueeze(-2)], -2)
    if special:
        axes = torch.cat([axes, wedge(axes).conj().unsqueeze(-2)], -2)
    return axes.mT


def _hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """Rows that the mask hides are zero vectors, which decide nothing."""
    if mask is None or x.shape[1] != mask.shape[1]:
        return x
    return torch.where(mask.bool().unsqueeze(-1), x, x.new_zeros(()))
