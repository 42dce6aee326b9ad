"""The typed inputs of one call as one cloud of vectors of unit size, with what rounding did to
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Group
from ..groups.base import working_dtype
from ..groups.orthogonal import Euclidean, Orthogonal

__all__ = ["Cloud", "gather"]

SHRINK = 0.7  # each further set is so much smaller, so that sets do not tie with each other
AXIAL = (
    0.1  # axial sets come in pairs ±w, which always tie: they decide only what nothing else does
)
SILENT = 8  # a set that varies by less than so many roundings of its coordinates has no extent

MARGIN, RAISE = 8.0, 16.0  # the tolerance grows by steps of RAISE, to stay MARGIN above the noise


class Cloud(NamedTuple):
    """`points[b, n, d]`, the largest of norm one; absent points are zero. All in the working dtype.

    `centroid[b, d]` is what was subtracted from the positions; `noise[b]` the relative rounding of
    the inputs; `tau[b]` the tolerance within which two sizes count as equal. `polar` and `axial`
    are the slices of `points` that came from one input each, for invariants by input.
    """

    points: Tensor
    centroid: Tensor
    noise: Tensor
    tau: Tensor
    polar: tuple[slice, ...]
    axial: tuple[slice, ...]

    def rows(self, index: Tensor) -> Cloud:
        """The samples named by `index[f]`."""
        p, c, n, t = (x[index] for x in (self.points, self.centroid, self.noise, self.tau))
        return Cloud(p, c, n, t, self.polar, self.axial)


def gather(
    group: Group,
    positions: Tensor | None,
    mask: Tensor | None,
    vectors: Sequence[Tensor],
    axials: Sequence[Tensor],
) -> Cloud:
    """*u = ((x − x̄)/max|x − x̄|, 0.7 v/max|v|, …, ±0.1 w/max|w|, …)*, in this order.

    `positions[b, n, d], mask[b, n], vectors[i][b, n_i, d], axials[j][b, n_j, d] → points[b, N, d]`.
    Positions are centred under E(d) and SE(d) only. Scales are constants to the gradient: a frame
    does not depend on them.
    Degenerate: a set whose extent is within 8 ε of its coordinates is exactly zero.
    Raises: GroupError, if the group is not O(d), SO(d), E(d) or SE(d), or d is not that of the
    inputs.
    """
    given = [x for x in (positions, *vectors, *axials) if x is not None]
    _check(group, given, len(axials))
    device = given[0].device if given else torch.device("cpu")
    batch, d = (given[0].shape[0] if given else 1), group.dim
    dtype = working_dtype(device)
    centroid = torch.zeros(batch, d, dtype=dtype, device=device)
    sets: list[Tensor] = []
    ratios: list[Tensor] = []
    seen: list[Tensor] = []
    polar: list[slice] = []
    axial: list[slice] = []
    start, eps = 0, 0.0
    doubled = group.reflections
    for i, x in enumerate(given):
        is_axial = i >= len(given) - len(axials)
        if x.shape[1] == 0:
            continue
        eps = max(eps, torch.finfo(x.dtype).eps)
        moves = group.affine and i == 0 and positions is not None
        shift, x, reach = _centred(x.to(dtype), mask, moves)
        centroid = shift if moves else centroid
        unit, ratio, there = _unit(x, reach, torch.finfo(given[i].dtype).eps)
        weight = SHRINK**i * (AXIAL if is_axial else 1.0)
        pair = is_axial and doubled
        sets += [weight * unit, -weight * unit] if pair else [weight * unit]
        ratios, seen = [*ratios, ratio], [*seen, weight * there]
        part = slice(start, start + x.shape[1])
        (axial if pair else polar).append(part)
        start += x.shape[1] * (2 if pair else 1)
    if not sets:
        zero = torch.zeros(batch, dtype=dtype, device=device)
        empty = centroid.new_zeros(batch, 1, d)
        return Cloud(empty, centroid, zero, zero, (slice(0, 1),), ())
    top = torch.stack(seen).amax(0)
    points = torch.cat(sets, 1) / torch.where(top > 0, top, 1.0)[:, None, None]
    noise, tau = _tolerance(torch.stack(ratios).amax(0), eps)
    return Cloud(points, centroid, noise, tau, tuple(polar), tuple(axial))


def _centred(x: Tensor, mask: Tensor | None, moves: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """`x[b, n, d] → centroid[b, d], x − centroid, max|x|[b]`; absent rows are zero."""
    mask = mask if mask is not None and mask.shape[1] == x.shape[1] else None
    if mask is not None:
        x = torch.where(mask.unsqueeze(-1), x, 0.0)
    if not moves:
        return x, x, None
    count = mask.sum(1, keepdim=True).clamp(min=1) if mask is not None else x.shape[1]
    centroid = x.sum(1) / count
    reach = x.detach().square().sum(-1).amax(1).sqrt()
    x = x - centroid.unsqueeze(1)
    hidden = x if mask is None else torch.where(mask.unsqueeze(-1), x, 0.0)
    return centroid, hidden, reach


def _unit(x: Tensor, reach: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`x[b, n, d] → x / max|x|, reach / max|x| [b], has it extent? [b]`."""
    with torch.no_grad():
        peak = x.abs().amax((1, 2))
        safe = torch.where(peak > 0, peak, 1.0)
        extent = peak * (x / safe[:, None, None]).square().sum(-1).amax(1).sqrt()
        reach = extent if reach is None else reach
        there = extent > SILENT * eps * reach
        scale = torch.where(there, 1.0 / torch.where(there, extent, 1.0), 0.0)
    return x * scale[:, None, None], reach * scale, there.to(x.dtype)


def _tolerance(ratio: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """*noise = ε (1 + offset/extent), τ ≈ √ε*: halfway, in logarithms, from rounding to
    differences.

    τ decides and must be the same for x and hx. The offset is not invariant under translations,
    hence the steps: τ is √ε while that is 8 times the noise (offsets up to 360 extents in float32,
    8e6 in float64), then 16 √ε, and so on up to 0.1.
    """
    noise = eps * (1 + ratio)
    over = (MARGIN * noise / max(eps, 1e-300) ** 0.5).clamp(min=1.0).log()
    level = (over / math.log(RAISE)).ceil()
    return noise, (eps**0.5 * RAISE**level).clamp(max=0.1)


def _check(group: Group, given: Sequence[Tensor], axials: int) -> None:
    if not isinstance(group, (Orthogonal, Euclidean)):
        raise GroupError(
            f"A frame of axes was asked for {group}; axes are frames of O(d), SO(d), E(d) and "
            'SE(d). For a finite group average over its elements (frame="whole"), and for others '
            "use samples (frame=ew.frames.Haar(8))."
        )
    wrong = [tuple(x.shape) for x in given if x.ndim != 3 or x.shape[-1] != group.dim]
    if wrong:
        raise GroupError(
            f"{group} acts on vectors of dimension {group.dim}; the inputs had shapes {wrong}. "
            f"Give tensors of shape [b, n, {group.dim}]."
        )
    if axials and group.dim != 3:
        raise GroupError(
            f"Axial vectors were given for {group}; they are vectors in three dimensions only. "
            "Declare them as the antisymmetric tensors or pseudo-scalars that they are there."
        )
