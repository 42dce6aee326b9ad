"""Complex clouds whose axes are not decided by one point, and the designs of what fixes a cloud.

Choices are followed as a flat list of candidates, each a sample and the points that gave its axes,
as in `ties`. At every level the largest residual wins, up to √ε, and then the largest scores of
the cloud in these axes, which do not depend on the order of the points.

A finite subgroup H of G integrates like G to order t when V^⊗a ⊗ V*^⊗b has no more H-invariants
than G-invariants for a + b ≤ t.

==========  ==========================================  =============  ====================
group       design                                      order          exact to rank
==========  ==========================================  =============  ====================
U(1)        phases of order m                           m              m − 1
U(2)        binary tetrahedral group, with phases       12 m           m − 1
U(q)        shifts and clocks, with phases              q² m           m − 1
SU(2)       binary tetrahedral, icosahedral for rank 3  24, 120        5, 11
SU(3)       shifts, clocks, minus the reversal          54             5
SU(q)       shifts and clocks                           q³             q − 1
==========  ==========================================  =============  ====================

m is the least multiple of q (of 2 for q = 1) from rank + 6 on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups.base import Device, working_dtype
from .base import refuse

__all__ = ["ComplexCloud", "complete", "design", "normalize", "reject", "resolve", "small"]

MERGE = 4  # vectors that differ by so many roundings are one vector
COINCIDE = 8  # a residual below so many roundings is none: the canonical inputs coincide
MOST = 20_000  # frames of one sample
PARTS = 4  # inputs whose scores differ; further ones repeat


class ComplexCloud(NamedTuple):
    """`points[b, n, d]`, the longest of norm one; the slice of each input; ε of the inputs."""

    points: Tensor
    parts: tuple[slice, ...]
    eps: float

    def rows(self, index: Tensor) -> ComplexCloud:
        """The samples named by `index[f]`."""
        return self._replace(points=self.points[index])


class Tied(NamedTuple):
    """For f samples with at most k elements: which points, and which member of `table`.

    `pivots[f, k, l], member[f, k], weights[f, k], calls[f, k], table[t, d, d]`; the element is
    basis(points, pivots) · table[member], its weight zero where a slot is empty.
    """

    pivots: Tensor
    member: Tensor
    weights: Tensor
    calls: Tensor
    table: Tensor


class _List(NamedTuple):
    """Candidates c, sample by sample: `sample[c], pivots[c, l], axes[c, l, d]`."""

    sample: Tensor
    pivots: Tensor
    axes: Tensor

    def take(self, index: Tensor) -> _List:
        return _List(*(part[index] for part in self))


class _Rows(NamedTuple):
    """Finished elements e: `sample[e], pivots[e, l], member[e], call[e]` (a row of e)."""

    sample: Tensor
    pivots: Tensor
    member: Tensor
    call: Tensor


def small(q: int, eps: float) -> float:
    """Residuals up to this size are left to a design of U(q) or SU(q).

    Above it a frame errs by ε/M, below it by M⁴ (q ≤ 2) or M².
    """
    return eps**0.25 if q <= 2 else eps ** (1 / 3)


def normalize(v: Tensor) -> Tensor:
    """*v/|v|, and 0 for v = 0*, with a finite gradient there: `v[..., d]`."""
    square = (v * v.conj()).real.sum(-1, keepdim=True)
    some = square != 0
    return v * torch.where(some, torch.where(some, square, 1.0).rsqrt(), 0.0)


def reject(v: Tensor, axes: Tensor) -> Tensor:
    """`v[..., d], axes[..., l, d] → v − Σ_l ⟨q_l, v⟩ q_l`, twice."""
    for _ in range(2 if axes.shape[-2] else 0):
        along = (axes.conj() * v.unsqueeze(-2)).sum(-1, keepdim=True)
        v = v - (axes * along).sum(-2)
    return v


def complete(axes: Tensor) -> tuple[Tensor, Tensor]:
    """*The basis vector of C^d farthest from the axes*: `axes[c, l, d] → index[c], axis[c, d]`."""
    index = (axes * axes.conj()).real.sum(-2).argmin(-1)
    unit = torch.eye(axes.shape[-1], dtype=axes.dtype, device=axes.device)[index]
    return index, normalize(reject(unit, axes))


@torch.no_grad()
def resolve(cloud: ComplexCloud, special: bool, rank: int, names: Tensor) -> Tied:
    """*All tied frames of each sample*; every sample must be finite. `names[f]` are their rows.

    Raises:
        GroupError: a design of this rank is needed and not known.
        FrameError: a sample has more than 20 000 tied frames.
    """
    u = cloud.points.detach()
    f, n, d = u.shape
    every = torch.arange(f, device=u.device)
    now = _List(every, every.new_zeros(f, 0), u[:, :0])
    table, rows = [torch.eye(d, dtype=u.dtype, device=u.device)[None]], []
    for level in range(d - special):
        rest = reject(u[now.sample].movedim(1, 0), now.axes).movedim(0, 1)  # [c, n, d]
        size = (rest * rest.conj()).real.sum(-1).sqrt()
        best = _best(size.amax(1), now.sample, f)
        stopped = (best <= small(d - level, cloud.eps))[now.sample]
        if bool(stopped.any()):
            block = _embed(design(d - level, special, rank, u.device), d)
            at = sum(len(part) for part in table)
            shared = best <= COINCIDE * cloud.eps
            rows.append(_fill(now.take(stopped), shared, at, len(block), n, d - special))
            table.append(block)
        rest, size, now = rest[~stopped], size[~stopped], now.take(~stopped)
        now = _thin(cloud, _extend(now, rest, size, best, cloud.eps), f)
        count = torch.bincount(now.sample, minlength=f)
        refuse(torch.zeros(int(names.amax()) + 1).index_copy(0, names, count.float()) > MOST, _many)
    own = torch.arange(len(now.sample), device=u.device)
    rows.append(_Rows(now.sample, now.pivots, torch.zeros_like(own), own))
    return _pad(rows, torch.cat(table), f)


def _many(i: int) -> str:
    return (
        f"Sample {i} has more than {MOST} frames of equal right: its vectors are tied in that many "
        'ways. Move them a little, or take one with ties="first", which is not equivariant there.'
    )


def _best(value: Tensor, sample: Tensor, count: int) -> Tensor:
    """`value[c] → [f]`: the largest of each sample's candidates."""
    low = torch.full((count,), -torch.inf, dtype=value.dtype, device=value.device)
    return low.scatter_reduce(0, sample, value, "amax")


def _extend(now: _List, rest: Tensor, size: Tensor, best: Tensor, eps: float) -> _List:
    """One more axis: every (candidate, point) with a residual within √ε of the sample's largest.

    Equal residuals of one candidate are one axis.
    """
    near = size >= (best - eps**0.5)[now.sample].unsqueeze(1)  # [c, n]
    c, j = near.nonzero(as_tuple=True)
    number = near.sum(1)
    left = torch.arange(len(c), device=c.device).repeat_interleave(number[c])
    start = (number.cumsum(0) - number)[c]
    before = (number[c].cumsum(0) - number[c])[left]
    right = start[left] + torch.arange(len(left), device=c.device) - before
    earlier = right < left
    left, right = left[earlier], right[earlier]
    gap = rest[c[left], j[left]] - rest[c[right], j[right]]
    same = (gap * gap.conj()).real.sum(-1) <= (MERGE * eps) ** 2
    kept = torch.ones_like(c, dtype=torch.bool)
    kept[left[same]] = False
    c, j = c[kept], j[kept]
    pivots = torch.cat([now.pivots[c], j.unsqueeze(1)], 1)
    axes = torch.cat([now.axes[c], normalize(rest[c, j]).unsqueeze(1)], 1)
    return _List(now.sample[c], pivots, axes)


def _thin(cloud: ComplexCloud, now: _List, count: int) -> _List:
    """*Σ_n exp Re⟨w, z_n⟩ over the points z in these axes, for three generic w*: the largest stay.

    An exponential has moments of every order, so that generic w tell apart any two clouds.
    """
    kept = torch.arange(len(now.sample), device=now.sample.device)
    u, l = cloud.points.detach(), now.axes.shape[1]
    a = torch.arange(1, l + 1, dtype=u.real.dtype, device=u.device)
    for k in range(3):
        score = torch.zeros(len(kept), dtype=a.dtype, device=u.device)
        for i, part in enumerate(cloud.parts):
            x = u[:, part]
            size = (x * x.conj()).real.sum(-1).amax(1).sqrt()
            x = x / torch.where(size > 0, size, 1.0)[:, None, None]
            angle = (1.3 + 0.7 * k + 0.9 * (i % PARTS)) * a * a + k
            w = torch.polar(1.5 / (a + 0.3 * k).sqrt(), angle)
            probe = torch.einsum("l,cld->cd", w, now.axes[kept])
            t = (x[now.sample[kept]] * probe.conj().unsqueeze(1)).sum(-1).real  # [c, n]
            score = score + t.exp().mean(1)
        top = _best(score, now.sample[kept], count)
        kept = kept[score >= (top - cloud.eps**0.5)[now.sample[kept]]]
    return now.take(kept)


def _embed(block: Tensor, d: int) -> Tensor:
    """`[m, q, q] → [m, d, d]`: acting on the last q axes."""
    q = block.shape[-1]
    full = torch.eye(d, dtype=block.dtype, device=block.device).repeat(len(block), 1, 1)
    full[:, d - q :, d - q :] = block
    return full


def _fill(now: _List, shared: Tensor, at: int, members: int, n: int, levels: int) -> _Rows:
    """Each candidate times the design, on axes completed by basis vectors (pivots n + a).

    Where `shared[f]`, all members share the call of the first.
    """
    pivots, axes = now.pivots, now.axes
    for _ in range(levels - pivots.shape[1]):
        spare, axis = complete(axes)
        pivots = torch.cat([pivots, n + spare.unsqueeze(1)], 1)
        axes = torch.cat([axes, axis.unsqueeze(1)], 1)
    c = torch.arange(len(now.sample), device=pivots.device).repeat_interleave(members)
    every = torch.arange(len(c), device=pivots.device)
    call = torch.where(shared[now.sample][c], c * members, every)
    return _Rows(now.sample[c], pivots[c], at + every % members, call)


def _pad(rows: list[_Rows], table: Tensor, f: int) -> Tied:
    """Flat rows → slots; the rows of a sample come from one block, and are consecutive in it."""
    samples, pivots, members, calls = [], [], [], []
    slots = []
    for r in rows:
        number = torch.bincount(r.sample, minlength=f)
        slot = torch.arange(len(r.sample), device=table.device)
        slot = slot - (number.cumsum(0) - number)[r.sample]
        samples, slots = [*samples, r.sample], [*slots, slot]
        pivots, members = [*pivots, r.pivots], [*members, r.member]
        calls.append(slot[r.call])
    sample, slot = torch.cat(samples), torch.cat(slots)
    width = int(slot.amax()) + 1
    whole = torch.zeros(f, width, dtype=torch.long, device=table.device)
    chosen = whole.unsqueeze(-1).repeat(1, 1, pivots[0].shape[1])
    weights = torch.zeros(f, width, dtype=table.real.dtype, device=table.device)
    chosen[sample, slot] = torch.cat(pivots)
    member = whole.index_put((sample, slot), torch.cat(members))
    call = whole.index_put((sample, slot), torch.cat(calls))
    weights[sample, slot] = 1.0
    return Tied(chosen, member, weights / weights.sum(1, keepdim=True), call, table)


@lru_cache(maxsize=32)
def design(q: int, special: bool, rank: int = 2, device: Device = None) -> Tensor:
    """*A finite group that integrates tensors like U(q), or SU(q) if `special`*: `[m, q, q]`.

    The identity comes first. Exact to rank + 1 at least, so that near-degenerate clouds are too.

    Raises:
        GroupError: SU(q) and a rank for which no such group is known here.
    """
    exact = {1: rank + 1, 2: 9, 3: 4}.get(q, q - 1)  # a rank, and what one axis more leaves
    if special and exact < rank + 1:
        raise GroupError(
            f"A design of SU({q}) for outputs with {rank} axes v was asked for, by an input that "
            f"leaves {q} dimensions free; the one known here serves up to {exact - 1}. Lower "
            "rank=, or give the frame inputs that span more dimensions."
        )
    if q == 2:
        found = _tetrahedral() if rank <= 2 else _icosahedral()
    else:
        found = _heisenberg(q, special)
    if special:
        return _generated(found).to(device, working_dtype(device).to_complex())
    step = max(q, 2)
    m = -(-(rank + 6) // step) * step
    eye = torch.eye(q, dtype=torch.complex128)
    return _generated([*found, _phase(1 / m) * eye]).to(device, working_dtype(device).to_complex())


def _phase(turns: float) -> Tensor:
    """*e^{2πi turns}*."""
    one = torch.ones((), dtype=torch.float64)
    return torch.polar(one, 2 * torch.pi * turns * one)


def _quaternion(a: float, b: float, c: float, d: float) -> Tensor:
    """*a + bi + cj + dk* of norm one, in SU(2)."""
    rows = [[complex(a, b), complex(c, d)], [complex(-c, d), complex(a, -b)]]
    return torch.tensor(rows, dtype=torch.complex128)


def _tetrahedral() -> list[Tensor]:
    """Generators of the 24 units of the Hurwitz quaternions."""
    return [_quaternion(0, 1, 0, 0), _quaternion(0.5, 0.5, 0.5, 0.5)]


def _icosahedral() -> list[Tensor]:
    """Generators of the 120 icosians."""
    golden = (1 + 5**0.5) / 2
    return [_quaternion(0.5, 0.5, 0.5, 0.5), _quaternion(golden / 2, 0.5 / golden, 0.5, 0)]


def _heisenberg(q: int, special: bool) -> list[Tensor]:
    """*Shift e_j → e_{j+1} and clock e_j → ω^j e_j*, in SU(q) if `special`; nothing for q = 1.

    For even q their determinant is −1 and a root of −1 corrects it; for q = 3, minus the reversal
    e_j → e_{−j} takes away the invariant cubics xyz and x³ + y³ + z³.
    """
    if q == 1:
        return []
    index = torch.arange(q)
    shift = torch.eye(q, dtype=torch.complex128).roll(1, 0)
    clock = torch.diag(torch.stack([_phase(j / q) for j in range(q)]))
    if special and q == 3:
        reversal = -torch.eye(q, dtype=torch.complex128)[(-index) % q]
        return [shift, clock, reversal]
    root = _phase(0.5 / q) if special and q % 2 == 0 else torch.ones((), dtype=torch.complex128)
    return [root * shift, root * clock]


def _generated(generators: list[Tensor]) -> Tensor:
    """*The finite group that these matrices generate*: `[m, q, q]`, the identity first."""
    if not generators:
        return torch.ones(1, 1, 1, dtype=torch.complex128)
    found = torch.eye(len(generators[0]), dtype=torch.complex128)[None]
    while True:
        products = torch.cat([found, *(found @ g for g in generators)])
        flat = torch.view_as_real(products).flatten(1)
        first = (torch.cdist(flat, flat) < 1e-6).to(torch.int8).argmax(1)
        distinct = products[first == torch.arange(len(first))]
        if len(distinct) == len(found):
            return found
        found = distinct
