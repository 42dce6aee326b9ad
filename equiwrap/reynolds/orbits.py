"""Permutation representations: the projection is the mean over orbits of entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .projector import Projector, wide

__all__ = ["Orbits", "orbit_mean", "orbits_of"]


def orbits_of(size: int, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """`label[size]`: the smallest entry of the orbit of each entry.

    `pairs` are tensors of equal shape whose entries (numbers below `size`) lie in one orbit
    pairwise, as i and g·i do for generators g.
    """
    label = torch.arange(size)
    edges = [(a.flatten().cpu(), b.flatten().cpu()) for a, b in pairs]
    if not edges:
        return label
    first, second = (torch.cat(side) for side in zip(*edges, strict=True))
    while True:  # smaller labels travel along the pairs, then along labels
        found = label.scatter_reduce(0, first, label[second], "amin")
        found = found.scatter_reduce(0, second, found[first], "amin")
        found = found[found]
        if torch.equal(found, label):
            return label
        label = found


def orbit_mean(values: Tensor, label: Tensor) -> Tensor:
    """*(PW)_i = mean of W over the orbit of i*: `values[…], label[n]` → the shape of values.

    The label is that of all entries, or of the trailing ones where the leading axes rest. The
    orthogonal projection onto what the permutations leave as it is; O(|W|), whatever |G| is.
    """
    return Orbits(label, values.numel() // max(len(label.flatten()), 1))(values)


@dataclass(frozen=True, eq=False)
class Orbits(Projector):
    """*`orbit_mean` with a fixed label*: any permutations, whatever their number.

    On weights of `leading` · len(label) · `trailing` entries, the outer two of which rest.
    """

    label: Tensor
    leading: int = 1
    trailing: int = 1
    numbered: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """The orbits counted from 0, and one over their sizes."""
        with torch.inference_mode(False):  # what is kept may meet autograd later
            label = self.label.flatten().clone().unique(return_inverse=True)[1]
            object.__setattr__(self, "numbered", (label, 1 / label.bincount().double()))

    @property
    def rank(self) -> int:
        """The number of orbits."""
        return self.leading * self.trailing * len(self.numbered[1])

    def __call__(self, weight: Tensor) -> Tensor:
        return self._mean(wide(weight)).to(weight.dtype)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight = weight.detach()
        wider = wide(weight)
        kept = self._mean(wider)
        weight.copy_(kept if t == 1 else wider.lerp_(kept, t))

    def cut(self, dim: int, sizes: Sequence[int]) -> Sequence[Projector] | None:
        """Leading rows are alone."""
        rows = sum(sizes)
        if dim or rows == 0 or self.leading % rows:
            return None
        return [replace(self, leading=self.leading // rows * size) for size in sizes]

    def _mean(self, weight: Tensor) -> Tensor:
        label, share = (part.to(weight.device) for part in self.numbered)
        rows = weight.reshape(self.leading, len(label), self.trailing)
        share = share.to(weight.dtype)
        if self.trailing == 1:  # entries are added forty times as fast as rows of one
            rows = rows.squeeze(-1)
        else:
            share = share.unsqueeze(-1)
        sums = rows.new_zeros(self.leading, len(share), *rows.shape[2:]).index_add_(1, label, rows)
        means = sums * share
        return means.index_select(1, label).reshape(weight.shape)
