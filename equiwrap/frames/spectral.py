"""Eigenvectors of graphs: canonical signs and bases, and the choices that remain averaged over."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

import torch
from torch import Tensor, nn

from ..groups import Orthogonal
from .axes import Axes

__all__ = ["Eigenspaces", "SpectralAverage", "eigenspaces", "normalized_laplacian"]

EQUAL = 1e-6  # eigenvalues closer than this, relative to the largest, share an eigenspace


@dataclass(frozen=True)
class Eigenspaces:
    """The eigenspaces of one symmetric matrix, by increasing eigenvalue.

    `values[i]` is an eigenvalue, `bases[i][k_i, n, m_i]` its canonical orthonormal bases: one where
    the nodes determine it, several where an automorphism exchanges them.
    """

    values: tuple[float, ...]
    bases: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        """How many choices of all bases there are: the size of the frame."""
        return prod(len(b) for b in self.bases)

    @property
    def signs(self) -> int:
        """The size of the frame of all signs, 2^(number of eigenvectors); bases are infinite."""
        return 2 ** sum(b.shape[-1] for b in self.bases)

    def choices(self, most: int | None = None, seed: int = 0) -> Tensor:
        """`[count, n, Σm]`: every choice, or `most` of them, drawn with the seed."""
        n = self.bases[0].shape[1]
        if most is not None and self.count > most:
            rng = torch.Generator().manual_seed(seed)
            drawn = [torch.randint(len(b), (most,), generator=rng) for b in self.bases]
            picked = [b[i] for b, i in zip(self.bases, drawn, strict=True)]
            return torch.cat(picked, -1)
        every = [torch.cat(pick, -1) for pick in product(*self.bases)]
        return torch.stack(every).reshape(-1, n, every[0].shape[-1])


def normalized_laplacian(adjacency: Tensor) -> Tensor:
    """*1 − D^{−1/2} A D^{−1/2}*: `a[..., n, n] → [..., n, n]`; a lone node has the row of 1."""
    degree = adjacency.sum(-1)
    root = torch.where(degree > 0, degree, 1.0).rsqrt()
    eye = torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    return eye - root.unsqueeze(-1) * adjacency * root.unsqueeze(-2)


def eigenspaces(matrix: Tensor) -> Eigenspaces:
    """*The eigenspaces of `matrix[n, n]` with canonical bases*, the same for every relabelling.

    A simple eigenvector takes the sign in which its sorted entries come last in the order of the
    dictionary; where sort(u) = sort(−u), both signs stay. An eigenspace of dimension m takes the
    frame `Axes` of O(m) on its rows, points of R^m whose order `Axes` ignores: one basis, or the
    coset of the symmetries that the automorphisms induce.

    Degenerate: eigenvalues within 1e-6 of each other, relative to the largest, are one. Entries are
    compared to 1e-6 (float64 inside). Spaces of dimension 7 and more are beyond the designs of
    `Axes` only where their rows do not span them, which does not happen.
    Source: Ma et al. 2024 (OAP), which leaves what it cannot decide as it came.
    """
    values, vectors = torch.linalg.eigh(matrix.detach().double().cpu())
    scale = float(values.abs().amax().clamp(min=1e-300))
    new = torch.nn.functional.pad(values.diff() > EQUAL * scale, (1, 0), value=True)
    starts = [*new.nonzero()[:, 0].tolist(), len(values)]
    spaces, means = [], []
    for a, b in pairwise(starts):
        means.append(float(values[a:b].mean()))
        spaces.append(_signs(vectors[:, a]) if b - a == 1 else _bases(vectors[:, a:b]))
    return Eigenspaces(tuple(means), tuple(spaces))


def _signs(u: Tensor) -> Tensor:
    """`u[n] → [1 or 2, n, 1]`."""
    gap = u.sort().values - (-u).sort().values
    different = (gap.abs() > EQUAL).nonzero()[:, 0]
    if not len(different):
        return torch.stack([u, -u]).unsqueeze(-1)
    return (u * gap[different[-1]].sign())[None, :, None]


def _bases(u: Tensor) -> Tensor:
    """`u[n, m] → [k, n, m]`."""
    measure = Axes()(Orthogonal(u.shape[1]), None, None, vectors=[u[None]])
    return u @ measure.elements[0][measure.weights[0] > 0]


class SpectralAverage(nn.Module):
    """*Σ_c f(V_c) / count over the canonical choices V_c of the eigenvectors of a matrix.*

    `model` takes `vectors[c, n, k]` and `values[c, k]`; the average takes `matrix[b, n, n]`. It is
    invariant under relabelling if `model` is invariant under permutations of the rows, whatever
    signs and bases `eigh` returns.

    `most` bounds the choices of one matrix; beyond it that many are drawn with a fixed seed, and
    the average is exact in the limit only (`eigenspaces(matrix).count` says where).
    """

    def __init__(self, model: nn.Module, *, most: int | None = 1024) -> None:
        super().__init__()
        self.model, self.most = model, most

    def forward(self, matrix: Tensor) -> Tensor:
        """`matrix[b, n, n] → [b, …]`."""
        if not len(matrix):
            return self.model(matrix, matrix.diagonal(dim1=1, dim2=2))
        rows = []
        for one in matrix:
            spaces = eigenspaces(one)
            vectors = spaces.choices(self.most).to(one)
            repeated = [
                v
                for v, b in zip(spaces.values, spaces.bases, strict=True)
                for _ in range(b.shape[-1])
            ]
            values = torch.tensor(repeated).to(one).expand(len(vectors), -1)
            rows.append(self.model(vectors, values).mean(0))
        return torch.stack(rows)
