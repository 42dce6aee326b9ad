"""The frame of U(d) on generic clouds, one at a time, in plain numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def unitary_loop(x: Tensor) -> Tensor:
    """`x[b, n, d] → q[b, d, d]`: the longest residual, again and again."""
    return torch.stack([_one(cloud.tolist()) for cloud in x])


def _one(rows: list[list[complex]]) -> Tensor:
    found: list[list[complex]] = []
    for _ in rows[0]:
        longest = max(rows, key=_size)
        q = [z / _size(longest) for z in longest]
        found.append(q)
        rows = [_less(row, q) for row in rows]
    return torch.tensor(found, dtype=torch.complex128).mT


def _size(row: list[complex]) -> float:
    return sum(abs(z) ** 2 for z in row) ** 0.5


def _less(row: list[complex], q: list[complex]) -> list[complex]:
    along = sum(z * w.conjugate() for z, w in zip(row, q, strict=True))
    return [z - along * w for z, w in zip(row, q, strict=True)]
