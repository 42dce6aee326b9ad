"""Simulated clusters of Lennard-Jones atoms of two kinds, from loose starts to their minima.

*E = Σ_{i<j} 4 ε_ij (r_ij⁻¹² − r_ij⁻⁶)*, ε_ij = √(ε_i ε_j), ε = 1 and 0.5, σ = 1 for both. A start
grows atom by atom, each at 1 to 1.4 from one that is there and at 0.85 at least from all. FIRE
(Bitzek et al. 2006) relaxes all clusters at once, in float64; what a model is asked for is the
energy of the minimum that the start runs into.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["DEPTHS", "Clusters", "clusters", "energy", "forces", "relax", "starts"]

DEPTHS = (1.0, 0.5)  # ε of the two kinds
NEAR, FAR, APART = 1.0, 1.4, 0.85


@dataclass(frozen=True)
class Clusters:
    """`pos[b, n, 3], kind[b, n]` (−1 where there is no atom), `relaxed[b]`: energies of minima."""

    pos: Tensor
    kind: Tensor
    relaxed: Tensor

    def __len__(self) -> int:
        return len(self.pos)

    def __getitem__(self, pick: Tensor | slice) -> Clusters:
        return Clusters(self.pos[pick], self.kind[pick], self.relaxed[pick])


def _pairs(pos: Tensor, kind: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`i[p], j[p], x_i − x_j [b, p, 3], r⁻² [b, p], ε [b, p]`, ε = 0 where an atom is absent."""
    i, j = torch.triu_indices(pos.shape[1], pos.shape[1], 1)
    there = (kind >= 0).unsqueeze(1)
    depth = torch.tensor(DEPTHS, dtype=pos.dtype).sqrt()[kind.clamp(min=0)]
    both = (there[:, 0, i] & there[:, 0, j]).to(pos.dtype)
    apart = pos[:, i] - pos[:, j]
    square = apart.square().sum(-1)
    return i, j, apart, 1 / torch.where(both > 0, square, 1.0), both * depth[:, i] * depth[:, j]


def energy(pos: Tensor, kind: Tensor) -> Tensor:
    """`pos[b, n, 3], kind[b, n] → E[b]`."""
    *_, inverse, depth = _pairs(pos, kind)
    return (4 * depth * (inverse**6 - inverse**3)).sum(-1)


def forces(pos: Tensor, kind: Tensor) -> Tensor:
    """*−dE/dx*, in closed form: `→ [b, n, 3]`."""
    i, j, apart, inverse, depth = _pairs(pos, kind)
    push = (24 * depth * (2 * inverse**7 - inverse**4)).unsqueeze(-1) * apart
    return torch.zeros_like(pos).index_add(1, i, push).index_add(1, j, -push)


def relax(pos: Tensor, kind: Tensor, steps: int = 3000, tol: float = 1e-6) -> Tensor:
    """Positions of the minima: FIRE, every cluster with its own step, no atom over 0.1 a step.

    Raises:
        RuntimeError: some cluster has forces above `tol` after `steps`.
    """
    v, dt = torch.zeros_like(pos), pos.new_full((len(pos), 1, 1), 0.01)
    mix, since = torch.full_like(dt, 0.1), torch.zeros_like(dt)
    for _ in range(steps):
        f = forces(pos, kind)
        if float(f.abs().amax()) < tol:
            return pos
        uphill = (f * v).sum((1, 2), keepdim=True) < 0
        since = torch.where(uphill, 0, since + 1)
        faster = since > 5
        dt = torch.where(uphill, 0.5 * dt, torch.where(faster, (1.1 * dt).clamp(max=0.1), dt))
        mix = torch.where(uphill, 0.1, torch.where(faster, 0.99 * mix, mix))
        size, pull = (u.square().sum((1, 2), keepdim=True).sqrt() for u in (v, f))
        v = torch.where(uphill, 0.0, (1 - mix) * v + mix * size * f / pull.clamp(min=1e-300))
        v = v + dt * f
        move = dt * v
        pos = pos + move * (0.1 / move.norm(dim=-1, keepdim=True).clamp(min=0.1))
    raise RuntimeError(f"{steps} steps of relaxation left forces of {float(f.abs().amax()):.1e}.")


def starts(kind: Tensor, rng: torch.Generator) -> Tensor:
    """`kind[b, n] → pos[b, n, 3]`, float64, atoms that are present first; centred."""
    count, n = kind.shape
    pos = torch.zeros(count, n, 3, dtype=torch.float64)
    for k in range(1, n):
        on = torch.randint(k, (count, 64), generator=rng)
        far = NEAR + (FAR - NEAR) * torch.rand(count, 64, 1, generator=rng).double()
        way = normalize(torch.randn(count, 64, 3, generator=rng, dtype=torch.float64), dim=-1)
        found = pos.gather(1, on.unsqueeze(-1).expand(-1, -1, 3)) + far * way
        free = torch.cdist(found, pos[:, :k]).amin(-1) > APART
        first = free.to(torch.int8).argmax(1)
        if not bool(free.any(1).all()):
            raise RuntimeError("64 tries found no room for an atom.")
        pos[:, k] = found[torch.arange(count), first]
    there = (kind >= 0).unsqueeze(-1)
    return torch.where(there, pos - (pos * there).sum(1, keepdim=True) / there.sum(1, True), 0.0)


def clusters(count: int, seed: int, sizes: tuple[int, int] = (4, 7)) -> Clusters:
    """`count` clusters of a few atoms, with the energy of their minimum."""
    rng = torch.Generator().manual_seed(seed)
    size = torch.randint(sizes[0], sizes[1] + 1, (count, 1), generator=rng)
    kind = torch.randint(2, (count, sizes[1]), generator=rng)
    kind = torch.where(torch.arange(sizes[1]) < size, kind, -1)
    pos = starts(kind, rng)
    return Clusters(pos, kind, energy(relax(pos, kind), kind))
