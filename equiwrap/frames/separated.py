"""Weighted frames of S(n): rows sorted along many directions, by how well they are separated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SignatureError
from ..groups import Group, Permutations
from ..groups.base import working_dtype
from .base import Frame, GroupMeasure, TypedInput
from .orbits import Orbits
from .sorting import rows_of, sort_rows

__all__ = ["Separated", "directions"]

_LAWS = ("gap", "uniform")
_MIX = (0x7FEB352D, 0x31848BAB)  # odd, below 2³¹: products of 32 bits stay below 2⁶³


class Separated(Frame):
    """*Σ_k w_k δ(order of ⟨a_k, x_i⟩), w_k ∝ min_i gap_i of the sorted ⟨a_k, x_i⟩.*

    `rows[b, n, c] → elements[b, k, n]` (indices), `weights[b, k]`; all typed inputs with an axis n
    count, side by side.

    `law="gap"`: `directions` fixed generic a_k on the sphere of R^c, made from `seed`, one element
    and one call each. Continuous on sets of different rows: where two of them cross along a_k, w_k
    is zero; steep where rows come close. More than (c − 1)·n(n−1)/2 directions in general position
    always hold one that separates all rows; with fewer, all weights may vanish at once.
    `law="uniform"`, for rows of two features: the exact law of the order along a uniform direction
    of the plane, an element for each of the n(n−1) arcs between critical angles, its length the
    weight. Continuous on sets of different rows for every output, and for invariant outputs also
    where rows meet.

    `stochastic=True` draws one order in training, by the weights. Gradients flow through the
    weights.

    Degenerate: equal rows have no gap and count as one; they are averaged over by `Orbits`, in the
    same calls. There `law="gap"` jumps, since the gap counts up to the point where rows meet, and
    so do outputs a row under both laws. If no direction separates the rows, all weigh the same:
    exact, and not continuous. A sample that is not finite has equal weights.
    Error: 0 for the elements. The rows are first put into the order of `Sorted`, so that every
    number here is the same in whatever order they came.
    Source: Dym, Lawrence, Siegel 2024 (arXiv 2402.16077): globally separated collections, and the
    law of argsort.
    """

    def __init__(
        self, directions: int = 100, *, law: str = "gap", seed: int = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        if law not in _LAWS:
            raise ValueError(f'law={law!r} was given; it is "gap" or "uniform".')
        if directions < 1:
            raise ValueError(f"Separated({directions}) was asked for; it needs one direction.")
        self.directions, self.law, self.seed = directions, law, seed
        self.grows = law == "uniform"

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        rows = rows_of(group, inputs)
        if mask is not None and mask.shape == rows.shape[:2]:
            rows = torch.where(mask.bool().unsqueeze(-1), rows, 0.0)
        return {"rows": rows}

    def forward(self, group: Group, rows: Tensor) -> GroupMeasure:
        """`rows[b, n, c] → elements[b, k, n]`.

        Raises:
            SignatureError: the uniform law was asked for rows of more or less than two features.
        """
        first, labels = sort_rows(rows, 0.0)
        x = rows.to(working_dtype(rows.device))
        x = x.gather(1, first.unsqueeze(-1).expand_as(x))
        order, weights = self._uniform(x) if self.law == "uniform" else self._gaps(x, labels)
        k = order.shape[1]
        labels = labels.unsqueeze(1).expand(-1, k, -1).gather(2, order)
        order = first.unsqueeze(1).expand(-1, k, -1).gather(2, order)
        return GroupMeasure(order.argsort(-1), weights, orbits=Orbits(labels))

    def _gaps(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`x[b, n, c], labels[b, n] → order[b, k, n], weights[b, k]`."""
        a = directions(self.directions, x.shape[-1], self.seed, x.device).to(x.dtype)
        key, order = torch.einsum("bnc,kc->bkn", x, a).sort(dim=-1, stable=True)
        there = labels.unsqueeze(1).expand_as(order).gather(2, order)
        counts = there.diff(dim=-1) != 0
        gap = torch.where(counts, key.diff(dim=-1), torch.inf)
        least = gap.amin(-1) if gap.shape[-1] else torch.full_like(key[..., 0], torch.inf)
        return order, _normalized(torch.where(least == torch.inf, 1.0, least))

    def _uniform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x[b, n, 2] → order[b, n(n−1), n], weights[b, n(n−1)]`: arcs of the circle.

        ⟨a, x_i⟩ = ⟨a, x_j⟩ where a is orthogonal to x_i − x_j, at two angles; between neighbouring
        angles the order is that along the bisector. Equal rows have none: any angle will do.

        Raises:
            SignatureError: the rows do not have two features.
        """
        if x.shape[-1] != 2:
            raise SignatureError(
                f'Separated(law="uniform") lists the orders of points in a plane, and the rows '
                f'have {x.shape[-1]} features: use law="gap".'
            )
        n = x.shape[1]
        i, j = torch.triu_indices(n, n, 1, device=x.device)
        apart = x[:, i] - x[:, j]  # [b, n(n−1)/2, 2]
        some = (apart != 0).any(-1)
        across = torch.where(some, apart[..., 0], 0.0), torch.where(some, apart[..., 1], 1.0)
        angle = torch.atan2(-across[0], across[1]) % math.pi  # of the orthogonal line
        if n < 2:
            angle = x.new_zeros(len(x), 1)
        start = torch.cat([angle, angle + math.pi], 1).sort(dim=-1).values
        arc = torch.cat([start.diff(dim=-1), start[:, :1] + 2 * math.pi - start[:, -1:]], 1)
        middle = (start + arc / 2).detach()
        a = torch.stack([middle.cos(), middle.sin()], -1)
        order = torch.einsum("bnc,bkc->bkn", x.detach(), a).argsort(dim=-1, stable=True)
        return order, _normalized(arc)

    def calls(self, group: Group) -> int:
        if self.law == "gap":
            return self.directions
        n = group.n if isinstance(group, Permutations) else None
        return max(2, n * (n - 1)) if n else 2

    def describe(self, group: Group) -> str:
        if self.law == "gap":
            return (
                f"separated: {self.directions} orders and calls a sample, exact, and continuous "
                "where no rows are equal"
            )
        return "separated: n(n−1) orders and calls for n rows, exact and continuous"


def _normalized(weights: Tensor) -> Tensor:
    """*w_k / Σ_k w_k*; equal weights where all are zero, or some are not finite."""
    top = weights.amax(-1, keepdim=True)
    usable = top.isfinite() & (top > 0)
    w = torch.where(usable, weights, 1.0) / torch.where(usable, top, 1.0)
    return w / w.sum(-1, keepdim=True)


def directions(count: int, features: int, seed: int, device: torch.device | None) -> Tensor:
    """*Fixed generic unit vectors `[count, features]`*, a function of `seed`.

    Normal numbers from hashed integers (Box–Muller): no generator, so that it can be traced.
    """
    index = torch.arange(count * features, device=device)
    u = [_hashed(index + 0x9E3779B1 * (2 * seed + half + 1)) for half in range(2)]
    normal = (-2 * u[0].log()).sqrt() * (2 * math.pi * u[1]).cos()
    a = normal.reshape(count, features)
    return a / a.square().sum(-1, keepdim=True).clamp(min=1e-300).sqrt()


def _hashed(index: Tensor) -> Tensor:
    """Integers → well-mixed numbers in (0, 1), by multiplications and shifts of 32 bits."""
    x = index % 2**32
    for factor in _MIX:
        x = ((x ^ (x >> 16)) * factor) % 2**32
        x = x ^ (x >> 15)
    return (x.to(working_dtype(index.device)) + 0.5) / 2**32
