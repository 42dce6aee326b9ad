"""Averages over a stabiliser of permutations, without listing it: means over its orbits.

Where the stabiliser H of a canonical input permutes rows, Σ_h ρ(h) y / |H| is the mean of y over
the orbits of H: on rows for an output with one axis n, on pairs of rows for an output with two.
That is exact for any H, from two equal rows to the 8! automorphisms of a star, and takes one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SignatureError

__all__ = ["Orbits", "mean_over"]


class Orbits(NamedTuple):
    """`rows[b, k, n]`: for every canonical input, a label in 0 … n−1 shared by an orbit's rows.

    `pairs[b, k, n, n]`, labels in 0 … n²+n−1 of the orbits on pairs; None where H is the product of
    the symmetric groups of the row orbits (equal rows of a set).
    """

    rows: Tensor
    pairs: Tensor | None = None

    def of(self, index: Tensor) -> Orbits:
        """The labels `[t, 1, …]` of the canonical inputs at these flat positions."""
        rows = self.rows.flatten(0, 1)[index].unsqueeze(1)
        pairs = self.pairs
        return Orbits(rows, None if pairs is None else pairs.flatten(0, 1)[index].unsqueeze(1))


def mean_over(orbits: Orbits, axes: Sequence[int], y: Tensor) -> Tensor:
    """*Σ_h ρ(h) y / |H|*: `y[b·k, …]` with the rows on `axes`, none of them 0.

    Raises:
        SignatureError: three axes or more carry rows.
    """
    if not axes or not (y.is_floating_point() or y.is_complex()):
        return y
    if len(axes) > 2:
        raise SignatureError(
            f"An output has {len(axes)} axes of rows, and ties are averaged over orbits of rows "
            "and of pairs only: return rows or pairs, and combine them after the average."
        )
    last = tuple(range(1, len(axes) + 1))
    front = y.movedim(tuple(axes), last)
    n, labels = front.shape[1], orbits.rows.flatten(0, 1)
    if len(axes) == 2:
        labels = _pairs(labels) if orbits.pairs is None else orbits.pairs.flatten(0, 1).flatten(1)
    classes = n if len(axes) == 1 else n * n + n
    values = front.flatten(1, len(axes)).unsqueeze(-1).flatten(2)  # no −1: the batch may be empty
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    index = labels.unsqueeze(-1).expand_as(values)
    total = values.new_zeros(len(values), classes, values.shape[-1]).scatter_add(1, index, values)
    real = values.real if y.is_complex() else values
    count = real.new_zeros(len(values), classes, 1).scatter_add(
        1, labels.unsqueeze(-1), real.new_ones(*labels.shape, 1)
    )
    mean = total / count.clamp(min=1)
    return mean.gather(1, index).to(y.dtype).reshape(front.shape).movedim(last, tuple(axes))


def _pairs(rows: Tensor) -> Tensor:
    """`rows[t, n] → [t, n²]`: the classes of both rows, and for the diagonal n² + the class."""
    n = rows.shape[-1]
    off = rows.unsqueeze(-1) * n + rows.unsqueeze(-2)
    eye = torch.eye(n, dtype=torch.bool, device=rows.device)
    return torch.where(eye, n * n + rows.unsqueeze(-1), off).flatten(-2)
