"""Simulated charged particles, by the published recipe of the n-body benchmark.

Charges ±1 with probability ½ each; positions *N(0, 1) · (n/5)^{1/3}*, speeds 0.5 in directions
drawn at random; *F_i = Σ_j q_i q_j (x_i − x_j) / |x_i − x_j|³*, each component of F clipped to
±0.1/Δt; Δt = 0.001, a kick before each drift; no box, no noise. A frame is every hundredth step:
frame k is step 100 (k + 1). The task leads from frame 30 to frame 40, one unit of time later.

Source: Kipf et al. 2018, in the form of Satorras et al. 2021. All simulations run at once, in
float64; the random numbers are torch's, so that single simulations are not those of the
published files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["EVERY", "FRAMES", "SPEED", "STEP", "Particles", "drawn", "force", "run", "trajectories"]

STEP, EVERY, SPEED, FRAMES = 1e-3, 100, 0.5, (30, 40)
Steps = tuple[int, ...]


@dataclass(frozen=True)
class Particles:
    """`x[b, n, 3], v[b, n, 3], q[b, n, 1]` at the first frame, `target[b, n, 3]` at the second."""

    x: Tensor
    v: Tensor
    q: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, pick: Tensor | slice) -> Particles:
        return Particles(self.x[pick], self.v[pick], self.q[pick], self.target[pick])

    def to(self, *place: torch.dtype | torch.device | str) -> Particles:
        """As tensors have it: another precision, another device."""
        return Particles(*(t.to(*place) for t in (self.x, self.v, self.q, self.target)))

    def moved(self, turn: Tensor, shift: Tensor) -> Particles:
        """*R x + t* for positions and targets, *R v* for velocities: `turn[b, 3, 3], shift[b, 3]`.

        A leading 1 moves all samples alike.
        """

        def rotate(u: Tensor) -> Tensor:
            return torch.einsum("bij,bnj->bni", turn.expand(len(u), 3, 3), u)

        at = shift[:, None]
        return Particles(rotate(self.x) + at, rotate(self.v), self.q, rotate(self.target) + at)


def drawn(count: int, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The start: `x[b, n, 3], v[b, n, 3], q[b, n, 1]`, float64."""
    x = (n / 5) ** (1 / 3) * torch.randn(count, n, 3, generator=rng, dtype=torch.float64)
    v = SPEED * normalize(torch.randn(count, n, 3, generator=rng, dtype=torch.float64), dim=-1)
    return x, v, 2 * torch.randint(2, (count, n, 1), generator=rng).double() - 1


def force(x: Tensor, q: Tensor, limit: float = 0.1 / STEP) -> Tensor:
    """*Σ_j q_i q_j (x_i − x_j) / |x_i − x_j|³*, the sum clipped by component: `→ [b, n, 3]`."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)  # each pair once: action and reaction
    apart = x[:, i] - x[:, j]
    pull = q[:, i] * q[:, j] * apart.square().sum(-1, keepdim=True) ** -1.5 * apart
    return torch.zeros_like(x).index_add(1, i, pull).index_add(1, j, -pull).clamp(-limit, limit)


def run(start: tuple[Tensor, Tensor, Tensor], at: Steps, step: float = STEP) -> list[Tensor]:
    """*v ← v + Δt F(x); x ← x + Δt v*, and `[x, v]` stacked `[2, b, n, 3]` after the steps `at`."""
    x, v, q = start
    kept = {}
    for k in range(1, max(at) + 1):
        v = v + step * force(x, q, 0.1 / step)
        x = x + step * v
        if k in at:
            kept[k] = torch.stack([x, v])
    return [kept[k] for k in at]


def trajectories(count: int, seed: int, n: int = 5, frames: Steps = FRAMES) -> Particles:
    """`count` simulations from one frame to another, float32."""
    start = drawn(count, n, torch.Generator().manual_seed(seed))
    now, later = run(start, tuple(EVERY * (k + 1) for k in frames))
    return Particles(now[0], now[1], start[2], later[0]).to(torch.float32)
