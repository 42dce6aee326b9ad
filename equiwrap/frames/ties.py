"""Clouds whose axes are not decided by one point: every tied choice is kept, and no more than
those.

Choices are followed as a flat list of candidates, each a sample and the points that gave its axes.
At every level the largest residual wins, up to τ; invariant moments of the canonical cloud then
thin the list to what no invariant tells apart. A cloud that runs out of extent gets a design of
what is left.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .cloud import Cloud
from .designs import stabilizer
from .pivots import COLLINEAR, basis, complete, normalize, wedge

__all__ = ["Tied", "elements", "resolve"]

COINCIDE = 8  # a residual below so many roundings is none: the canonical inputs coincide
SAME = 100  # axes that differ by fewer roundings are one axis


class Tied(NamedTuple):
    """For f samples with at most k elements: which points, which sign, which member of `table`.

    `pivots[f, k, d−1], sign[f, k], member[f, k], weights[f, k], calls[f, k], table[t, d, d]`; the
    element is basis(points, pivots, sign) · table[member], its weight zero where a slot is empty.
    """

    pivots: Tensor
    sign: Tensor
    member: Tensor
    weights: Tensor
    calls: Tensor
    table: Tensor


class _List(NamedTuple):
    """Candidates c: `sample[c], pivots[c, l], axes[c, l, d]`."""

    sample: Tensor
    pivots: Tensor
    axes: Tensor

    def take(self, index: Tensor) -> _List:
        return _List(*(part[index] for part in self))


class _Rows(NamedTuple):
    """Finished elements: `sample[e], pivots[e, d−1], sign[e], member[e], call[e]` (call: a row of
    e).
    """

    sample: Tensor
    pivots: Tensor
    sign: Tensor
    member: Tensor
    call: Tensor


@torch.no_grad()
def resolve(cloud: Cloud, special: bool, rank: int) -> Tied:
    """*All tied frames of each sample*, `points[f, n, d] → Tied`; every sample must be finite."""
    u = cloud.points.detach()
    f, n, d = u.shape
    device = u.device
    now = _List(
        torch.arange(f, device=device), torch.zeros(f, 0, dtype=torch.long, device=device), u[:, :0]
    )
    table, rows = [torch.eye(d, dtype=u.dtype, device=device)[None]], []
    for level in range(d - 1):
        rest = _residual(u[now.sample], now.axes)
        size = rest.square().sum(-1).sqrt()
        best = _best(size.amax(1), now.sample, f)
        flat = best <= (cloud.tau.clamp(min=COLLINEAR) if level else 0.0)
        stopped = flat[now.sample]
        if bool(stopped.any()):
            design = _embed(stabilizer(d - level, special, rank, device), d)
            at = sum(len(block) for block in table)
            kept = _thin(cloud, now.take(stopped), None)
            # a reflection that fixes the points turns axial inputs round, also those that the
            # frame does not see (pseudo-scalars in the plane): half a coset a call
            block = len(design) if special else len(design) // 2
            coincide = best <= COINCIDE * cloud.noise
            rows.append(_fill(kept, coincide, at, len(design), block, n, d))
            table.append(design)
        now = now.take(~stopped)
        now = _extend(cloud, now, rest[~stopped], size[~stopped], best)
    rows.append(_sign(cloud, now, special))
    return _pad(rows, torch.cat(table), f)


def _residual(u: Tensor, axes: Tensor) -> Tensor:
    """`u[c, n, d], axes[c, l, d]` → what the axes leave of every point."""
    for _ in range(2 if axes.shape[1] else 0):
        u = u - torch.einsum("cnd,cld,cle->cne", u, axes, axes)
    return u


def _best(value: Tensor, sample: Tensor, count: int) -> Tensor:
    """`value[c] → [f]`: the largest of each sample's candidates."""
    low = torch.full((count,), -torch.inf, dtype=value.dtype, device=value.device)
    return low.scatter_reduce(0, sample, value, "amax")


def _extend(cloud: Cloud, now: _List, rest: Tensor, size: Tensor, best: Tensor) -> _List:
    """One more axis: every (candidate, point) with a residual within τ of the sample's largest."""
    f = len(best)
    least = (best - cloud.tau)[now.sample]
    c, j = (size >= least.unsqueeze(1)).nonzero(as_tuple=True)
    longer = _List(
        now.sample[c],
        torch.cat([now.pivots[c], j.unsqueeze(1)], 1),
        torch.cat([now.axes[c], normalize(rest[c, j]).unsqueeze(1)], 1),
    )
    if now.pivots.shape[1]:
        u = cloud.points.detach()
        before = u[longer.sample.unsqueeze(1), longer.pivots[:, :-1]]  # [c, l, d]
        inner = (before * u[longer.sample, j].unsqueeze(1)).sum((1, 2))
        top = _best(inner, longer.sample, f)
        longer = longer.take(inner >= (top - 2 * cloud.tau)[longer.sample])
    return _merge(longer, cloud.noise * SAME, f)


def _merge(now: _List, tolerance: Tensor, count: int) -> _List:
    """Candidates of one sample with the same axes are one candidate (repeated points).

    Pairs are listed sample by sample (candidates are in that order), so that one symmetric sample
    does not widen the others.
    """
    numbers = torch.bincount(now.sample, minlength=count)
    start, partners = (numbers.cumsum(0) - numbers)[now.sample], numbers[now.sample]
    left = torch.arange(len(now.sample), device=now.sample.device).repeat_interleave(partners)
    before = (partners.cumsum(0) - partners)[left]
    right = start[left] + torch.arange(len(left), device=left.device) - before
    earlier = right < left
    left, right = left[earlier], right[earlier]
    flat = now.axes.flatten(1)
    same = (flat[left] - flat[right]).abs().amax(1) <= tolerance[now.sample[left]]
    dropped = torch.zeros_like(now.sample, dtype=torch.bool)
    dropped[left[same]] = True
    return now.take(~dropped)


def _slots(sample: Tensor, count: int) -> tuple[Tensor, int]:
    """Position of every candidate among those of its sample, and the largest number of them."""
    order = sample.argsort(stable=True)
    numbers = torch.bincount(sample, minlength=count)
    start = numbers.cumsum(0) - numbers
    slot = torch.empty_like(sample)
    slot[order] = torch.arange(len(sample), device=sample.device) - start[sample[order]]
    return slot, int(numbers.amax()) if len(sample) else 0


def _thin(cloud: Cloud, now: _List, last: Tensor | None) -> _List:
    """Keep, score by score, the candidates whose moments are within τ of the sample's largest.

    `last[c, d]` is the axis that completes the basis; without it the moments are those along the
    axes.
    """
    f = len(cloud.points)
    kept = torch.arange(len(now.sample), device=now.sample.device)
    axes = now.axes if last is None else torch.cat([now.axes, last.unsqueeze(1)], 1)
    if not axes.shape[1] or not len(kept):
        return now
    features = _moments(cloud, now.sample, axes)
    index = torch.arange(features.shape[1], dtype=features.dtype, device=features.device)
    for k in range(3):  # any three generic combinations: what one misses, another sees
        score = features[kept] @ torch.cos(index * (1.3 + 0.7 * k) + k)
        top = _best(score, now.sample[kept], f)
        kept = kept[score >= (top - cloud.tau)[now.sample[kept]]]
    return now.take(kept)


def _moments(cloud: Cloud, sample: Tensor, axes: Tensor) -> Tensor:
    """*Σ z_a, Σ z_a z_b, Σ z_a² z_b over Σ |z|², input by input*: `→ [c, features]`."""
    u = cloud.points.detach()
    found = []
    det = torch.linalg.det(axes) if axes.shape[1] == axes.shape[2] else None
    for part, axial in [*((p, False) for p in cloud.polar), *((p, True) for p in cloud.axial)]:
        x = u[:, part]
        scale = x.square().sum(-1).sqrt().amax(1)
        x = x / torch.where(scale > 0, scale, 1.0)[:, None, None]
        z = torch.einsum("cnd,cad->cna", x[sample], axes)
        if axial and det is not None:
            z = z * det[:, None, None]
        mass = x.square().sum((1, 2)).clamp(min=1)[sample]  # not the count: rows may be padding
        first = z.sum(1) / mass[:, None]
        second = torch.einsum("cna,cnb->cab", z, z) / mass[:, None, None]
        third = torch.einsum("cna,cnb->cab", z * z, z) / mass[:, None, None]
        even = [] if axial and det is None else [first, third.flatten(1)]
        found += [*even, second.flatten(1)]
    return torch.cat(found, 1)


def _embed(design: Tensor, d: int) -> Tensor:
    """`[m, q, q] → [m, d, d]`: acting on the last q axes."""
    q = design.shape[-1]
    full = torch.eye(d, dtype=design.dtype, device=design.device).repeat(len(design), 1, 1)
    full[:, d - q :, d - q :] = design
    return full


def _fill(now: _List, coincide: Tensor, at: int, members: int, block: int, n: int, d: int) -> _Rows:
    """Each candidate times the design, on axes completed by basis vectors (pivots n + a).

    Where `coincide`, every `block` members in a row share the call of the first.
    """
    pivots, axes = now.pivots, now.axes
    for _ in range(d - 1 - pivots.shape[1]):
        spare, axis = complete(axes)
        pivots = torch.cat([pivots, n + spare.unsqueeze(1)], 1)
        axes = torch.cat([axes, axis.unsqueeze(1)], 1)
    c = torch.arange(len(now.sample), device=pivots.device).repeat_interleave(members)
    every = torch.arange(len(c), device=pivots.device)
    member = at + every % members
    call = torch.where(coincide[now.sample][c], every // block * block, every)
    return _Rows(now.sample[c], pivots[c], axes.new_ones(len(c)), member, call)


def _sign(cloud: Cloud, now: _List, special: bool) -> _Rows:
    """The last axis: by orientation for SO, towards the farther side for O, both where they tie."""
    last = wedge(now.axes)
    c = torch.arange(len(now.sample), device=last.device)
    sign = torch.ones_like(c, dtype=last.dtype)
    if not special:
        f = len(cloud.points)
        height = torch.einsum("cnd,cd->cn", cloud.points.detach()[now.sample], last)
        reach = torch.stack([height.amax(1), -height.amin(1)], 1)  # [c, 2]
        top = _best(reach.amax(1), now.sample, f)
        c, side = (reach >= (top - cloud.tau)[now.sample].unsqueeze(1)).nonzero(as_tuple=True)
        sign = 1.0 - 2.0 * side.to(last.dtype)
    signed = last[c] * sign.unsqueeze(1)
    tagged = now.take(c)._replace(pivots=torch.cat([now.pivots[c], _side(sign).unsqueeze(1)], 1))
    kept = _thin(cloud, tagged, signed)
    sign = 1.0 - 2.0 * kept.pivots[:, -1].to(last.dtype)
    every = torch.arange(len(kept.sample), device=last.device)
    return _Rows(kept.sample, kept.pivots[:, :-1], sign, torch.zeros_like(every), every)


def _side(sign: Tensor) -> Tensor:
    """+1 → 0, −1 → 1."""
    return (sign < 0).long()


def _pad(rows: list[_Rows], table: Tensor, f: int) -> Tied:
    """Flat rows → slots; a sample's rows all come from one block, so calls stay within it."""
    sample = torch.cat([r.sample for r in rows])
    slot, width = _slots(sample, f)
    start, calls = 0, []
    for r in rows:
        calls.append(slot[start + r.call])
        start += len(r.sample)
    device, dtype = sample.device, table.dtype
    pivots = torch.zeros(f, width, rows[0].pivots.shape[1], dtype=torch.long, device=device)
    whole = torch.zeros(f, width, dtype=torch.long, device=device)
    member, call, sign = whole, whole.clone(), torch.ones(f, width, dtype=dtype, device=device)
    weights = torch.zeros(f, width, dtype=dtype, device=device)
    pivots[sample, slot] = torch.cat([r.pivots for r in rows])
    member[sample, slot] = torch.cat([r.member for r in rows])
    call[sample, slot] = torch.cat(calls)
    sign[sample, slot] = torch.cat([r.sign for r in rows])
    weights[sample, slot] = 1.0
    weights = weights / weights.sum(1, keepdim=True)
    return Tied(pivots, sign, member, weights, call, table)


def elements(cloud: Cloud, tied: Tied) -> Tensor:
    """*basis(points, pivots, sign) · table[member]*: `[f, k, d, d]`, differentiable in the
    points.
    """
    return basis(cloud.points, tied.pivots, tied.sign) @ tied.table[tied.member]
