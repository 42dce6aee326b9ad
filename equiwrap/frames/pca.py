"""Principal axes with every choice of sign, for comparison with `axes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..groups import Group
from .axes import Axes, cloud_arguments, place
from .base import Frame, GroupMeasure, TypedInput
from .cloud import gather
from .keys import check_ties
from .pivots import COLLINEAR

__all__ = ["PCA"]


class PCA(Frame):
    """*Principal axes with every choice of sign: 2^d elements of O(d), 2^(d−1) of SO(d), equal
    weight.*

    `positions[b, n, d] → elements[b, 2^d, d, d]`, homogeneous about the centroid for E(d) and
    SE(d). The elements carry no gradient.

    Degenerate: eigenvalues of the covariance that agree within 1e-2 of the largest (a square, a
    cube, a line); such samples are given to `Axes`, or keep their arbitrary axes with
    `ties="first"`.
    Error: about ε / gap, gap the smallest relative difference of eigenvalues.
    Source: Puny et al. 2022, §3.1.
    """

    def __init__(self, *, ties: str = "average", rank: int = 2, **options: Any) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.ties, self.rank = ties, rank

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return cloud_arguments(group, inputs, mask)

    def forward(
        self,
        group: Group,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        vectors: Sequence[Tensor] = (),
        axials: Sequence[Tensor] = (),
    ) -> GroupMeasure:
        """`positions[b, n, d], mask[b, n], vectors[i][b, n_i, d], axials[j][b, n_j, d]` → the
        measure.

        Raises:
            GroupError: the group is none of O(d), SO(d), E(d), SE(d), or the inputs' d differs.
        """
        points = gather(group, positions, mask, vectors, axials)
        with torch.no_grad():
            u = points.points.nan_to_num()
            value, axes = torch.linalg.eigh(torch.einsum("bni,bnj->bij", u, u))  # ascending
            rotation = axes.unsqueeze(1) * _signs(u.shape[-1], u).unsqueeze(1)  # [b, 2^d, d, d]
            special = not group.reflections
            if special:
                rotation = _proper(rotation)
            gap = value.diff(dim=-1).amin(-1) if u.shape[-1] > 1 else value.new_ones(len(value))
            tied = gap <= points.tau.clamp(min=COLLINEAR) * value[:, -1]
        weights = rotation.new_full(rotation.shape[:2], 1 / rotation.shape[1])
        measure = GroupMeasure(place(group, rotation, points.centroid), weights)
        if self.ties == "first" or torch.compiler.is_compiling() or not bool(tied.any()):
            return measure
        flagged = tied.nonzero()[:, 0]
        other = Axes(rank=self.rank).of_cloud(group, points.rows(flagged))
        return _mixed(measure, other, flagged)

    def calls(self, group: Group) -> int:
        return 2 ** (group.dim - (not group.reflections))

    def describe(self, group: Group) -> str:
        return f"pca: {self.calls(group)} elements a sample, equal eigenvalues by axes, exact"


def _signs(d: int, like: Tensor) -> Tensor:
    """`[2^d, d]`: every choice of signs."""
    return torch.tensor(list(product((1.0, -1.0), repeat=d)), dtype=like.dtype, device=like.device)


def _proper(rotation: Tensor) -> Tensor:
    """`[b, 2^d, d, d] → [b, 2^(d−1), d, d]`: those of determinant one."""
    half = rotation[
        :, ::2
    ]  # the last sign runs fastest: it is fixed here, and then set by the others
    sign = torch.linalg.det(half).sign()
    return torch.cat([half[..., :-1], half[..., -1:] * sign[..., None, None]], -1)


def _mixed(measure: GroupMeasure, other: GroupMeasure, flagged: Tensor) -> GroupMeasure:
    """`measure` with the samples `flagged` taken from `other`, padded to the wider of the two."""
    k, m = measure.weights.shape[1], other.weights.shape[1]
    width = max(k, m)

    def widen(x: Tensor) -> Tensor:
        missing = x[:, :1].expand(-1, width - x.shape[1], *x.shape[2:])
        return torch.cat([x, missing], 1)

    pad = torch.nn.functional.pad
    weights = pad(measure.weights, (0, width - k)).index_copy(
        0, flagged, pad(other.weights, (0, width - m))
    )
    own = torch.arange(width, device=weights.device).repeat(len(weights), 1)
    theirs = own[: len(flagged)].clone()
    if other.calls is not None:
        theirs[:, :m] = other.calls
    elements = widen(measure.elements).index_copy(0, flagged, widen(other.elements))
    return GroupMeasure(elements, weights, ragged=True, calls=own.index_copy(0, flagged, theirs))
