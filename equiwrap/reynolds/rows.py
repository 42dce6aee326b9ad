"""Orbits of whole rows of a table: what regular channels without a kernel are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

__all__ = ["row_means"]

CACHE = 1 << 20  # entries at a time
Images = tuple[tuple[int, ...], ...]


def row_means(view: Tensor, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of W and of PW, block by block, for a contiguous `view[l, a, j, l', a', j', 1]`.

    The rows `[j']` of one orbit are a bag: all bags are one call, where sums of slices are a call
    for each. A bag jumps through memory and waits at each row, so that a plain sum, which does not,
    brings each part into the cache first: a tenth less time in all. Where the rows are is kept: 12
    bytes for each of a block.
    """
    before, order, after, into, _, width, _ = view.shape
    table, step = view.view(-1, width), into * order
    count = max(1, CACHE // max(1, before * order * step * width))
    for start in range(0, after, count):
        part = view if count >= after else view[:, :, start : start + count]
        part.sum()
        bags, shares, starts, orbit = _plan(images, (before, after, into), part.shape[2])
        rows = table[start * step :] if start else table
        means = embedding_bag(bags, rows, starts, mode="sum", per_sample_weights=shares)
        yield part, means.index_select(0, orbit).view(part.shape)


@lru_cache(maxsize=64)
def _plan(
    images: Images, sizes: tuple[int, int, int], count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows of each orbit, their shares, where each orbit starts, the orbit of each row.

    Of the first `count` rows j: further ones are the same, further down in the table.
    """
    (before, after, into), order = sizes, len(images)
    with torch.inference_mode(False):  # what is kept may meet autograd later
        at = torch.tensor(images)
        row = torch.arange(before * order * after * into * order, dtype=torch.int32)
        row = row.view(before, order, after, into, order)[:, :, :count]
        bags = torch.stack([row[:, a, ..., at[a]] for a in range(order)], -1)  # [l, j, l', c, a]
        starts = torch.arange(0, bags.numel(), order, dtype=torch.int32)
        orbit = torch.empty_like(row, memory_format=torch.contiguous_format)
        for a in range(order):
            orbit[:, a, ..., at[a]] = (starts // order).view(bags.shape[:-1])
        return bags.flatten(), torch.full((bags.numel(),), 1 / order), starts, orbit.flatten()
