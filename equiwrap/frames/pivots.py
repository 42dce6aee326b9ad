"""Gram–Schmidt on the points of a cloud, the largest residual first: which points, and their
basis.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from .cloud import Cloud

__all__ = ["basis", "choose", "complete", "normalize", "wedge"]

COLLINEAR = 1e-2  # residuals below it are not used for an axis: a frame errs by noise / residual
MERGE = 4  # axes that differ by so many roundings are one axis


def normalize(v: Tensor) -> Tensor:
    """*v/|v|, and 0 for v = 0*, with a finite gradient there: `v[..., d]`."""
    square = v.square().sum(-1, keepdim=True)
    some = square > 0
    return v * torch.where(some, torch.where(some, square, 1.0).rsqrt(), 0.0)


def complete(axes: Tensor) -> tuple[Tensor, Tensor]:
    """*The basis vector of R^d farthest from the axes*: `axes[..., l, d] → index[...], axis[...,
    d]`.
    """
    d = axes.shape[-1]
    index = axes.square().sum(-2).argmin(-1)
    unit = torch.eye(d, dtype=axes.dtype, device=axes.device)[index]
    return index, normalize(_reject(unit, axes))


def _reject(v: Tensor, axes: Tensor) -> Tensor:
    """`v[..., d], axes[..., l, d] → v − Σ_l (v·e_l) e_l`, twice: once leaves noise / residual."""
    for _ in range(2):
        v = v - (axes * (axes * v.unsqueeze(-2)).sum(-1, keepdim=True)).sum(-2)
    return v


def wedge(axes: Tensor) -> Tensor:
    """*The unit vector that makes d − 1 axes a basis of determinant 1*: `axes[..., d−1, d] → [...,
    d]`.

    The Hodge dual of e_1 ∧ … ∧ e_{d−1}; the cross product in three dimensions.
    """
    d = axes.shape[-1]
    if d == 3:
        return torch.linalg.cross(axes[..., 0, :], axes[..., 1, :])
    form = axes.new_ones(*axes.shape[:-2], 1)
    for k in range(1, d):
        factor, rest, sign = _exterior(d, k, axes.device)
        form = (axes[..., k - 1, :][..., factor] * form[..., rest] * sign.to(form.dtype)).sum(-1)
    sign = torch.ones(d, dtype=axes.dtype, device=axes.device)
    sign[torch.arange(d - 2, -1, -2, device=axes.device)] = -1.0
    return form.flip(-1) * sign


@lru_cache(maxsize=64)
def _exterior(d: int, k: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """*(ω ∧ e)_S = Σ_{a ∈ S} ± e_a ω_{S∖a}*: which a, which S∖a, which sign, by subset S of size
    k.
    """
    smaller = {s: i for i, s in enumerate(combinations(range(d), k - 1))}
    subsets = list(combinations(range(d), k))
    rest = [[smaller[s[:p] + s[p + 1 :]] for p in range(k)] for s in subsets]
    sign = [[(-1) ** (k - 1 - p) for p in range(k)] for _ in subsets]
    a, b, c = (torch.tensor(x, device=device) for x in (subsets, rest, sign))
    return a, b, c


def basis(points: Tensor, pivots: Tensor, sign: Tensor) -> Tensor:
    """*Columns e_1, …, e_d: Gram–Schmidt of the pivots, the last with det = sign.*

    `points[b, n, d], pivots[b, k, d−1], sign[b, k] → [b, k, d, d]`. A pivot n + a is the basis
    vector a of R^d. Differentiable in the points, finite everywhere.
    """
    b, n, d = points.shape
    k = pivots.shape[1]
    flat = pivots.clamp(max=n - 1).flatten(1).unsqueeze(-1).expand(-1, -1, d)
    chosen = (
        points.gather(1, flat).unflatten(1, (k, d - 1)) if d > 1 else points.new_zeros(b, k, 0, 1)
    )
    eye = torch.eye(d, dtype=points.dtype, device=points.device)[(pivots - n).clamp(min=0)]
    chosen = torch.where((pivots < n).unsqueeze(-1), chosen, eye)
    axes = chosen[..., :0, :]
    for v in chosen.unbind(-2):
        v = _reject(v, axes) if axes.shape[-2] else v
        axes = torch.cat([axes, normalize(v).unsqueeze(-2)], -2)
    last = wedge(axes) * sign.unsqueeze(-1)
    return torch.cat([axes, last.unsqueeze(-2)], -2).mT


@torch.no_grad()
def choose(cloud: Cloud, special: bool) -> tuple[Tensor, Tensor, Tensor]:
    """*i_k = argmax_i |residual of u_i after e_1 … e_{k−1}|*, in one pass without branches.

    `points[b, n, d] → pivots[b, d−1], sign[b], tied[b]`: `tied` where a decision hung on less than
    τ (another point is as far, the largest |z| is as large on both sides) or a residual on less
    than 1e-2. Points in the same direction, duplicates for instance, are no tie.
    """
    rest = cloud.points.detach().mT.contiguous()  # [b, d, n]
    b, d, n = rest.shape
    noise, tau = cloud.noise.unsqueeze(-1), cloud.tau.unsqueeze(-1)
    tied = torch.zeros(b, dtype=torch.bool, device=rest.device)
    axes, pivots = rest.new_zeros(b, 0, d), []
    size = rest.square().sum(1).sqrt()  # [b, n]
    for _ in range(d - 1):
        largest, pivot = size.max(1, keepdim=True)
        spare, filler = complete(axes)
        some = largest > 8 * noise
        row = rest.gather(2, pivot.unsqueeze(1).expand(-1, d, 1)).squeeze(-1)  # [b, d]
        axis = normalize(torch.where(some | largest.isnan(), row, filler))
        along = (rest * axis.unsqueeze(-1)).sum(1)
        rest = rest - along.unsqueeze(1) * axis.unsqueeze(-1)
        after = rest.square().sum(1).sqrt()
        rival = (size >= largest - tau) & ((after > MERGE * noise) | (along < 0))
        tied = tied | rival.any(1) | (largest <= tau.clamp(min=COLLINEAR)).squeeze(-1)
        pivots.append(torch.where(some | largest.isnan(), pivot, n + spare.unsqueeze(-1)))
        axes, size = torch.cat([axes, axis.unsqueeze(1)], 1), after
    index = (
        torch.cat(pivots, 1) if pivots else torch.zeros(b, 0, dtype=torch.long, device=rest.device)
    )
    if special:
        return index, rest.new_ones(b), tied
    height = (cloud.points.detach() * wedge(axes).unsqueeze(1)).sum(-1)
    above, below = height.amax(1), -height.amin(1)
    sign = torch.where(below > above, -1.0, 1.0).to(rest.dtype)
    return index, sign, tied | ((above - below).abs() <= cloud.tau)
