"""A minimal frame for point clouds that does not depend on the order of the points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..groups import Group, homogeneous
from .base import Frame, GroupMeasure, TypedInput
from .cloud import Cloud, gather
from .keys import check_ties
from .pivots import basis, choose
from .reading import cloud
from .ties import elements, resolve

__all__ = ["Axes", "cloud_arguments", "place"]


class Axes(Frame):
    """*e_1 along the farthest point, e_2 along the largest residual, …: Gram–Schmidt with pivots.*

    `positions[b, n, d] → elements[b, 1, d, d]` for O(d) and SO(d), `[b, 1, d+1, d+1]` with the
    centroid for E(d) and SE(d); `[b, k, …]` with zero weights where samples of the batch are tied.
    All typed inputs count: positions, vectors and axial vectors, each scaled to its own size. The
    frame is the same set of elements whatever the order of the points.

    Degenerate: where several points could give an axis all of them do (a cube has 24 elements under
    SO(3) and 48 under O(3): its stabiliser); planar clouds keep both signs of the normal under
    O(3); collinear and nearly collinear clouds (residual below 1e-2) are averaged over C_m or D_m
    about the axis, m = 8 + rank, single points over the rotations of the icosahedron (exact to rank
    5; in four dimensions and more, signed permutations, exact to rank 3). Not continuous: the axes
    jump where the farthest point changes, as those of every frame of one element must (Dym et al.
    2024).
    Error: the tests hold 1e-4 relative in float32 and 1e-9 in float64, also for the degenerate
    clouds above (tests/test_axes.py). Largest seen for d = 3: 4e-6 and 3e-15, near-degenerate; for
    d = 4: 2e-5 and 1e-10. Two distances that differ by √ε of the largest, within rounding, may be
    tied in one orientation and not in another.
    `ties="first"` never reads from the device and takes the first of tied points: exact for generic
    clouds only. `torch.compile` and `torch.export` do the same; `vmap` over inputs needs it.

    Source: pivoted Gram–Schmidt in the spirit of minimal frames (arXiv 2406.07598), ties by
    Puny et al. 2022.
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
        return self.of_cloud(group, points)

    def of_cloud(self, group: Group, points: Cloud) -> GroupMeasure:
        """The measure of inputs that are gathered already."""
        special = not group.reflections
        pivots, sign, tied = choose(points, special)
        rotation = basis(points.points, pivots.unsqueeze(1), sign.unsqueeze(1))  # [b, 1, d, d]
        one = rotation.new_ones(rotation.shape[:2])
        if self.ties == "first" or torch.compiler.is_compiling() or not bool(tied.any()):
            return GroupMeasure(place(group, rotation, points.centroid), one)
        flagged = tied.nonzero()[:, 0]
        some = points.rows(flagged)
        found = resolve(some, special, self.rank)
        several = elements(some, found)  # [f, k, d, d]
        width = several.shape[1]
        rotation = rotation.repeat(1, width, 1, 1).index_copy(0, flagged, several)
        if width == 1:  # close calls, but no ties
            return GroupMeasure(place(group, rotation, points.centroid), one)
        weights = torch.nn.functional.pad(one, (0, width - 1)).index_copy(0, flagged, found.weights)
        own = torch.arange(width, device=weights.device).repeat(len(weights), 1)
        calls = own.index_copy(0, flagged, found.calls)
        return GroupMeasure(
            place(group, rotation, points.centroid), weights, ragged=True, calls=calls
        )

    def describe(self, group: Group) -> str:
        return "axes: 1 element a sample, the stabiliser on symmetric clouds, exact"


def place(group: Group, rotation: Tensor, centroid: Tensor) -> Tensor:
    """`R[b, k, d, d]` → elements of the group, about the centroid where it has translations."""
    if not group.affine:
        return rotation
    return homogeneous(rotation, centroid.unsqueeze(1).expand(*rotation.shape[:2], -1))


def cloud_arguments(
    group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
) -> dict[str, Any]:
    """The typed inputs of one call as the arguments of a cloud frame.

    The first set whose length is the mask's is what the mask applies to.
    """
    positions, vectors, axials = cloud(group, inputs)
    if not group.affine:
        positions, vectors = vectors[:1], vectors[1:]
    hidden = [_hide(x, mask) for x in (*positions[1:], *vectors)]
    if group.affine and len(positions) > 1:
        # one centroid for all positions: they are one set
        every = [x.new_ones(x.shape[:2], dtype=torch.bool) for x in positions]
        pairs = zip(positions, every, strict=True)
        masks = [e if mask is None or not _fits(x, mask) else mask.bool() for x, e in pairs]
        whole = torch.cat(masks, 1) if mask is not None else None
        joined = torch.cat(positions, 1)
        vectors = [_hide(x, mask) for x in vectors]
        return {
            "positions": joined,
            "mask": whole,
            "vectors": vectors,
            "axials": [_hide(x, mask) for x in axials],
        }
    return {
        "positions": positions[0] if positions else None,
        "mask": mask if positions and _fits(positions[0], mask) else None,
        "vectors": hidden,
        "axials": [_hide(x, mask) for x in axials],
    }


def _fits(x: Tensor, mask: Tensor | None) -> bool:
    return mask is not None and x.shape[1] == mask.shape[1]


def _hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """Rows that the mask hides are zero vectors, which decide nothing."""
    return (
        torch.where(mask.bool().unsqueeze(-1), x, x.new_zeros(()))
        if mask is not None and _fits(x, mask)
        else x
    )
