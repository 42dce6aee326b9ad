"""The measure of samples that tie: every basis that `ties` found, times a design of what it leaves free."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import GroupMeasure
from .cloud import Cloud
from .designs import stabilizer
from .pivots import basis
from .ties import Bases, tied

__all__ = ["pad", "replace", "tied_measure"]

SHARED = 8  # canonical inputs that differ by so many roundings are one
BUDGET = 2**22  # residuals of all points after all points, of the flagged samples at a time


def tied_measure(points: Cloud, special: bool, order: int, shared: bool) -> GroupMeasure:
    """*R · (1 ⊕ S), R every basis that ties, S in a design*: `points[f, n, d] → elements[f, k, d, d]`."""
    f, n, _ = points.points.shape
    parts = []
    for rows in torch.arange(f, device=points.tau.device).split(max(1, BUDGET // (n * n))):
        part = points.rows(rows)
        bases = tied(part, special, order)
        frames = basis(part.points, bases.pivots, bases.sign)
        parts.append(_averaged(frames, bases, part, special, order, shared))
    return _join(parts)


def _averaged(
    frames: Tensor, bases: Bases, points: Cloud, special: bool, order: int, shared: bool
) -> GroupMeasure:
    """Designs for the samples with too few axes, `calls` where the cloud does not see the difference."""
    d = frames.shape[-1]
    same = (bases.loose <= SHARED * points.noise) & shared
    parts, rows = [], []
    for rank in bases.rank.unique().tolist():
        at = (bases.rank == rank).nonzero()[:, 0]
        design = stabilizer(d - rank, special, order, frames.device) if rank < d else None
        part = _coset(frames[at], bases.weight[at], rank, design, same[at], bool(points.axial))
        if design is None and not special and not points.axial:
            part = part._replace(calls=_mirrored(bases, at, same[at]))
        parts.append(part)
        rows.append(at)
    back = torch.cat(rows).argsort()
    whole = _join(parts)
    return GroupMeasure(whole.elements[back], whole.weights[back], True, whole.calls[back])


def _join(parts: list[GroupMeasure]) -> GroupMeasure:
    """Measures of different samples, padded to one k, one after the other."""
    k = max(part.weights.shape[1] for part in parts)
    padded = [pad(part, k) for part in parts]
    elements, weights, calls = (
        torch.cat([getattr(part, name) for part in padded]) for name in ("elements", "weights", "calls")
    )
    return GroupMeasure(elements, weights, True, calls)


def _coset(
    frames: Tensor, weight: Tensor, rank: int, design: Tensor | None, same: Tensor, axial: bool
) -> GroupMeasure:
    """*R · (1 ⊕ S), S in the design*: `frames[f, k, d, d] → elements[f, k·m, d, d]`."""
    f, k = weight.shape
    own = torch.arange(k, device=frames.device).expand(f, -1)
    if design is None:
        return GroupMeasure(frames, weight, True, own)
    m = design.shape[0]
    turned = torch.einsum("fkij,mjl->fkmil", frames[..., rank:], design)
    fixed = frames[..., :rank].unsqueeze(2).expand(-1, -1, m, -1, -1)
    elements = torch.cat([fixed, turned], -1).flatten(1, 2)
    spread = (weight / m).unsqueeze(-1).expand(-1, -1, m).flatten(1)
    place = torch.arange(m, device=frames.device)
    special = torch.linalg.det(design) > 0
    first = torch.where(special, 0, m // 2) if axial and not bool(special.all()) else place * 0
    calls = torch.where(same[:, None, None], first, place) + m * own.unsqueeze(-1)
    return GroupMeasure(elements, spread, True, calls.flatten(1))


def _mirrored(bases: Bases, at: Tensor, same: Tensor) -> Tensor:
    """`calls[f, k]` of planar clouds: a basis and its mirror image, its neighbour, share a call."""
    pivots, sign = bases.pivots[at], bases.sign[at]
    own = torch.arange(sign.shape[1], device=at.device).expand(sign.shape)
    pair = torch.zeros_like(own, dtype=torch.bool)
    equal = (pivots[:, 1:] == pivots[:, :-1]).all(-1) if pivots.shape[-1] else pair[:, 1:] | True
    present = bases.weight[at] > 0
    pair[:, 1:] = equal & (sign[:, 1:] < 0) & (sign[:, :-1] > 0) & present[:, 1:] & present[:, :-1]
    return torch.where(pair & same.unsqueeze(-1), own - 1, own)


def pad(measure: GroupMeasure, k: int) -> GroupMeasure:
    """Up to k elements a sample: absent ones repeat the first, with weight zero."""
    have = measure.weights.shape[1]
    spare = torch.arange(k, device=measure.weights.device)
    index = torch.where(spare < have, spare, 0)
    calls = spare.expand(measure.weights.shape[0], -1)
    if measure.calls is not None:
        calls = torch.where(spare < have, measure.calls[:, index], spare)
    weights = torch.where(spare < have, measure.weights[:, index], 0.0)
    return GroupMeasure(measure.elements[:, index], weights, True, calls)


def replace(measure: GroupMeasure, rows: Tensor, part: GroupMeasure) -> GroupMeasure:
    """The measure with the samples `rows[f]` replaced by those of `part`."""
    k = max(measure.weights.shape[1], part.weights.shape[1])
    whole, part = pad(measure, k), pad(part, k)
    return GroupMeasure(
        whole.elements.index_copy(0, rows, part.elements),
        whole.weights.index_copy(0, rows, part.weights),
        True,
        whole.calls.index_copy(0, rows, part.calls),
    )
