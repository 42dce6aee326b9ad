"""The group itself, and samples of it: every element of a finite group, or k draws from Haar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import GroupError
from ..groups import Euclidean, Group, Linear, Lorentz, Scale, homogeneous
from ..groups.base import working_dtype
from .base import Frame, GroupMeasure, TypedInput
from .reading import batch_of, cloud, sizes_of

__all__ = ["Haar", "Whole", "check_compact"]


class Whole(Frame):
    """*μ = (1/|G|) Σ_{g ∈ G} δ_g: the group average.* `elements[1, |G|, m, m]`, the same for every
    input.

    Exact for any finite group and any model. Degenerate: nothing is. Error: the rounding of the
    mean, 2e-7 relative in float32 and 4e-16 in float64.
    """

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return {"device": batch_of(inputs)[1], "sizes": sizes_of(inputs)}

    def forward(
        self,
        group: Group,
        device: torch.device | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> GroupMeasure:
        """`→ elements[1, |G|, m, m]`; `sizes` bind S(n) and T(2).

        Raises:
            GroupError: the group is infinite, or too large to list.
        """
        return _uniform(group.at(sizes or {}).elements(device))

    def calls(self, group: Group) -> int:
        return group.order or 1

    def describe(self, group: Group) -> str:
        how = "exact" if group.lattice else "exact but for the interpolation of pixels"
        return f"whole: all {group.order} elements in every call, {how}"


class Haar(Frame):
    """*μ = (1/k) Σ_j δ_{g_j}, g_j independent from Haar (and about the centroid for SE, E).*

    Exact only in the limit: the invariance error falls like 1/√k. In eval the k elements are fixed
    by
    `seed`, so that outputs repeat; in training they are drawn anew, from `generator` if one is
    given.

    Source: Murphy et al. 2019 (Janossy sampling), for compact groups in general.
    """

    def __init__(self, samples: int = 8, *, seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"Haar({samples!r}) was asked for; it needs at least one sample.")
        if not isinstance(seed, int):
            raise ValueError(f"seed={seed!r} was given; the seed of the samples is an integer.")
        self.samples, self.seed = samples, seed

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        _, device = batch_of(inputs)
        positions = cloud(group, inputs)[0] if isinstance(group, Euclidean) else []
        return {
            "positions": positions[0] if positions else None,
            "mask": mask,
            "device": device,
            "sizes": sizes_of(inputs),
        }

    def forward(
        self,
        group: Group,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        device: torch.device | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> GroupMeasure:
        """`positions[b, n, d]` (Euclidean groups only) → `elements[b or 1, k, m, m]`.

        Raises:
            GroupError: the group has no Haar probability and is not Euclidean.
        """
        check_compact(group)
        group = group.at(sizes or {})
        generator = self.generator
        if not self.training:
            generator = torch.Generator().manual_seed(self.seed)
        compact = group.rotations if isinstance(group, Euclidean) else group
        g = compact.sample(self.samples, generator=generator, device=device)
        if not isinstance(group, Euclidean) or positions is None:
            if isinstance(group, Euclidean):
                g = homogeneous(g, g.new_zeros(g.shape[:-1]))
            return _uniform(g)
        centre = _centroid(positions.to(g.dtype), mask)
        b, k, d = centre.shape[0], self.samples, group.dim
        elements = homogeneous(g.expand(b, k, d, d), centre.unsqueeze(1).expand(b, k, d))
        return GroupMeasure(elements, g.new_full((b, k), 1 / k))

    def calls(self, group: Group) -> int:
        return self.samples

    def describe(self, group: Group) -> str:
        return f"haar: {self.samples} samples a call; exact only in the limit, error about 1/√k"


def check_compact(group: Group) -> None:
    """Nothing, or a sentence.

    Raises:
        GroupError: the group has no Haar probability and is not Euclidean.
    """
    if not group.compact and not isinstance(group, Euclidean):
        raise GroupError(
            f"{group} is not compact: there is no Haar probability to sample. Use "
            f"frame={_own_frame(group)}, the frame of the group itself."
        )


def _own_frame(group: Group) -> str:
    known = {Linear: '"linear"', Lorentz: '"lorentz"', Scale: '"size"'}
    return known.get(type(group), '"auto"')


def _uniform(elements: Any) -> GroupMeasure:
    first = tree_leaves(elements)[0]
    k = first.shape[0]
    return GroupMeasure(
        tree_map(lambda g: g.unsqueeze(0), elements),
        torch.full((1, k), 1 / k, dtype=working_dtype(first.device), device=first.device),
    )


def _centroid(x: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return x.mean(1)
    seen = mask.bool().unsqueeze(-1)
    return torch.where(seen, x, x.new_zeros(())).sum(1) / seen.sum(1).clamp(min=1)
