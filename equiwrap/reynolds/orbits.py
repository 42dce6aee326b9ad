"""Permutation representations: the projection is the mean over orbits of entries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

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
    label = label.to(values.device)
    flat = values.reshape(-1, label.numel())
    total = torch.zeros_like(flat).index_add(1, label, flat)
    count = flat.new_zeros(label.numel()).index_add(0, label, flat.new_ones(label.numel()))
    return (total[:, label] / count[label]).reshape(values.shape)


@dataclass(frozen=True, eq=False)
class Orbits(Projector):
    """*`orbit_mean` with a fixed label*: any permutations, whatever their number."""

    label: Tensor
    leading: int = 1  # entries of the axes that rest in front

    @property
    def rank(self) -> int:
        """The number of orbits."""
        return self.leading * int(self.label.unique().numel())

    def __call__(self, weight: Tensor) -> Tensor:
        return orbit_mean(wide(weight), self.label).to(weight.dtype)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight = weight.detach()
        wider = wide(weight)
        label, share = (part.to(weight.device) for part in self._numbered)
        rows = wider.reshape(-1, len(label))
        sums = rows.new_zeros(len(rows), len(share)).index_add_(1, label, rows)
        kept = sums.mul_(share.to(rows.dtype)).index_select(1, label).reshape(weight.shape)
        weight.copy_(kept if t == 1 else wider.lerp_(kept, t))

    @cached_property
    def _numbered(self) -> tuple[Tensor, Tensor]:
        """The orbits counted from 0, and one over their sizes."""
        label = self.label.unique(return_inverse=True)[1]
        return label, 1 / label.bincount().double()
