"""S(n) on dense layers over sets and graphs: means over equal patterns of equal indices.

An axis `(l nᵏ j)` carries tensors of order k: k = 0 numbers, 1 rows, 2 edges. Two entries of W lie
in one orbit exactly where the same ones among their k_out + k_in indices are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from .blocks import check_shape
from .orbits import orbit_mean
from .projector import Projector, wide

__all__ = ["Sets", "patterns"]

Axis = tuple[int, int, int]  # (l, k, j)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def patterns(n: int, order: int, device: str = "cpu") -> Tensor:
    """`label[nᵏ]`: the number of the pattern of equal indices of each tuple, from 0.

    Bell(k) patterns where n ≥ k: 1, 1, 2, 5, 15.
    """
    index = [torch.arange(n**order) // n**place % n for place in range(order)]
    code = torch.zeros(n**order, dtype=torch.int64)
    for bit, (a, b) in enumerate(combinations(index, 2)):
        code += (a == b).long() << bit
    return code.unique(return_inverse=True)[1].to(device)


@dataclass(frozen=True)
class Sets(Projector):
    """*P under S(n) on `W[(l nᵏ j), (l' nᵏ' j')]`*; a bias `[(l nᵏ j)]` has into = (1, 0, 1).

    Free numbers a pair of channels: 2 from sets to sets (the mean of the diagonal and of the rest),
    15 from graphs to graphs, 5 between sets and graphs, 2 between graphs and numbers, 1 between
    sets and numbers. O(|W|); n! never appears.

    Metric: Frobenius's; P is the mean over the group.
    Error: rounding of the dtype; 1e-15 relative in float64.
    Source: Zaheer et al. 2017 (sets); Maron et al. 2019, Theorem 1 (graphs).
    """

    n: int
    out: Axis
    into: Axis

    @property
    def rank(self) -> int:
        """Patterns, once a pair of channels."""
        one = int(patterns(self.n, self.out[1] + self.into[1]).amax()) + 1
        return one * self.out[0] * self.out[2] * self.into[0] * self.into[2]

    def __call__(self, weight: Tensor) -> Tensor:
        (p, k, j), (m, q, i) = self.out, self.into
        rows, columns = self.n**k, self.n**q
        check_shape(weight, p * rows * j, m * columns * i)
        view = wide(weight).reshape(p, rows, j, m, columns, i)
        if k == q == 1:
            found = _diagonal_and_rest(view)
        else:
            label = patterns(self.n, k + q, str(weight.device))
            flat = view.permute(0, 2, 3, 5, 1, 4).reshape(-1, rows * columns)
            mean = orbit_mean(flat, label).reshape(p, j, m, i, rows, columns)
            found = mean.permute(0, 4, 1, 2, 5, 3)
        return found.reshape(weight.shape).to(weight.dtype)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight.detach().lerp_(self(weight.detach()), t)


def _diagonal_and_rest(view: Tensor) -> Tensor:
    """`W[p, n, j, m, n', i]`: the mean where n = n', the mean where not."""
    n = view.shape[1]
    diagonal = view.diagonal(dim1=1, dim2=4)  # [p, j, m, i, n]
    rest = (view.sum((1, 4)) - diagonal.sum(-1)) / max(n * (n - 1), 1)
    step = diagonal.mean(-1) - rest
    eye = torch.eye(n, dtype=view.dtype, device=view.device)
    spread = (slice(None), None, slice(None), slice(None), None)  # [p, 1, j, m, 1, i]
    return rest[spread] + step[spread] * eye[:, None, None, :, None]
