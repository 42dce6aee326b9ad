"""The frame of GL(d), SL(d) and Aff(d): whitening, and then the axes of the white cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Group, Linear, Orthogonal, homogeneous
from ..groups.base import working_dtype
from .axes import Axes, cloud_arguments
from .base import Frame, GroupMeasure, TypedInput, refuse
from .cloud import gather
from .keys import check_ties

__all__ = ["Whitened"]


class Whitened(Frame):
    """*g = L A: X = Q Lᵀ with orthonormal columns (QR), and A the axes of the rows of Q.*

    `vectors[i][b, n_i, d] → elements[b, 1, d, d]` for GL(d) and SL(d) (there g / det(g)^{1/d});
    `positions[b, n, d]` are centred for Aff(d), `elements[b, 1, d+1, d+1]`. Under x → h x the
    white cloud turns by an orthogonal matrix only, so that all that `Axes` does for symmetric
    clouds holds here: ties are kept, `elements[b, k, …]`, and the order of the points does not
    matter. Scale-free.

    Degenerate: where the vectors do not span R^d the stabiliser is not compact, so that no frame
    exists: such a sample is refused with a sentence, as is one whose smallest singular value is
    below √ε of the largest, ε that of the input's dtype (compiled code answers NaN for it).
    Error: about ε times the condition number of the cloud. The tests hold 1e-4 in float32 and 1e-9
    in float64 for generic clouds and scales from 1e-6 to 1e6.
    Source: whitening before an orthogonal frame; the groups are those of arXiv 2406.07598, which
    takes the first d rows instead.
    """

    def __init__(self, *, ties: str = "average", rank: int = 2, **options: Any) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.axes = Axes(ties=ties, rank=rank)

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        given = cloud_arguments(group, inputs, mask)
        return {name: given[name] for name in ("positions", "mask", "vectors")}

    def forward(
        self,
        group: Group,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        vectors: Sequence[Tensor] = (),
    ) -> GroupMeasure:
        """`positions[b, n, d], mask[b, n], vectors[i][b, n_i, d]` → the measure.

        Raises:
            GroupError: the group is none of GL(d), SL(d), Aff(d).
            FrameError: a sample does not span R^d within the precision of its dtype.
        """
        if not isinstance(group, Linear):
            raise GroupError(
                f'frame="linear" was asked for {group}; it is the frame of GL(d), SL(d) and Aff(d).'
            )
        x, centre, reach = _stacked(group, positions, mask, vectors)
        given = positions if positions is not None else vectors[0]
        finite = x.isfinite().flatten(1).all(1)
        spare = torch.eye(x.shape[1], x.shape[2], dtype=x.dtype, device=x.device)
        with torch.no_grad():
            spread = torch.linalg.svdvals(torch.where(finite[:, None, None], x, spare))
        bad = spread[:, -1] <= torch.finfo(given.dtype).eps ** 0.5 * reach.maximum(spread[:, 0])
        refuse(bad & finite, lambda i: _sentence(group, i, spread[i], given.dtype))
        usable = (finite & ~bad)[:, None, None]
        q, r = torch.linalg.qr(torch.where(usable, x, spare))
        sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(x.dtype)
        white, root = q * sign.unsqueeze(-2), (r * sign.unsqueeze(-1)).mT
        inner = self._inner(group, white, torch.finfo(given.dtype).eps ** 0.5)
        g = root.unsqueeze(1) @ inner.elements
        if group.special:
            volume = root.diagonal(dim1=-2, dim2=-1).prod(-1)
            g = g / volume[:, None, None, None] ** (1 / group.d)
        g = torch.where(usable.unsqueeze(1), g, torch.nan)
        if group.affine:
            g = homogeneous(g, centre.unsqueeze(1).expand(*g.shape[:2], -1))
        return inner._replace(elements=g)

    def _inner(self, group: Linear, white: Tensor, noise: float) -> GroupMeasure:
        """The axes of the white cloud, which whitening has made noisier than its dtype.

        The noise is ε times a condition number, which no element leaves alone: ties are judged by
        its largest value, √ε.
        """
        orthogonal = Orthogonal(group.d, group.special)
        found = gather(orthogonal, None, None, [white], [])
        level = torch.full_like(found.tau, noise)
        return self.axes.of_cloud(orthogonal, found._replace(noise=level / 8, tau=8 * level))

    def describe(self, group: Group) -> str:
        return "linear: 1 element a sample, the stabiliser on symmetric clouds, exact"


def _stacked(
    group: Linear, positions: Tensor | None, mask: Tensor | None, vectors: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """`→ x[b, N ≥ d, d], centroid[b, d], reach[b]`: all vectors, and how far the positions were."""
    dtype = working_dtype((positions if positions is not None else vectors[0]).device)
    parts = [x.to(dtype) for x in (positions, *vectors) if x is not None]
    first = parts[0]
    shown = None if positions is None or mask is None else mask.bool().unsqueeze(-1)
    if shown is not None:
        first = torch.where(shown, first, 0.0)
    centre, reach = first.new_zeros(len(first), group.d), first.new_zeros(len(first))
    if group.affine and positions is not None:
        reach = first.detach().square().sum(-1).amax(1).sqrt()
        centre = first.sum(1) / (first.shape[1] if shown is None else shown.sum(1).clamp(min=1))
        first = first - centre.unsqueeze(1)
        if shown is not None:
            first = torch.where(shown, first, 0.0)
    x = torch.cat([first, *parts[1:]], 1)
    missing = max(0, group.d - x.shape[1])
    return torch.nn.functional.pad(x, (0, 0, 0, missing)), centre, reach


def _sentence(group: Linear, i: int, spread: Tensor, dtype: torch.dtype) -> str:
    sizes = ", ".join(f"{float(s):.1e}" for s in spread)
    name = str(dtype).removeprefix("torch.")
    return (
        f"Sample {i} has no frame under {group}: its singular values are {sizes}, so that in "
        f"{name} it does not span R^{group.d}; what fixes it is not compact, and nothing can be "
        "averaged. Give inputs that span the space (more points, velocities), or convert them with "
        "x.double() if they do so in float64."
    )
