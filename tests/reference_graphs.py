"""Averages over all of S(n), one relabelling at a time."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor


def every_labelling(f, a: Tensor, rows: int) -> Tensor:
    """The average of f over all orders of the nodes of a[b, n, n]; `rows` axes of y move."""
    total, count = 0, 0
    for order in permutations(range(a.shape[1])):
        p = torch.tensor(order)
        y = f(a[:, p][:, :, p])
        for axis in range(1, rows + 1):
            y = y.index_select(axis, p.argsort())
        total, count = total + y, count + 1
    return total / count


def automorphism_count(a: Tensor) -> int:
    """How many relabellings leave a[n, n] as it is."""
    orders = [torch.tensor(p) for p in permutations(range(len(a)))]
    return sum(torch.equal(a[p][:, p], a) for p in orders)
