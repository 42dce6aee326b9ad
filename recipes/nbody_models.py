"""Two small message-passing networks for particles: one on absolute coordinates, and EGNN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["EGNN", "Absolute"]


class Messages(nn.Module):
    """*φ(h_i, h_j, a_ij)* for all pairs; the first layer is a sum, so that it costs n and not n².

    `h[b, n, c], a[b, n, n, e] → [b, n, n, c]`
    """

    def __init__(self, width: int, edges: int) -> None:
        super().__init__()
        self.mine, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.pair = nn.Linear(edges, width, bias=False)
        self.then = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, h: Tensor, a: Tensor) -> Tensor:
        return self.then(self.mine(h)[:, :, None] + self.other(h)[:, None] + self.pair(a))


class Absolute(nn.Module):
    """*x + v + Δ*, Δ by message passing on coordinates as they are: S(n)-equivariant, not E(3).

    `x[b, n, 3], v[b, n, 3], q[b, n, 1] → [b, n, 3]`. Pairs carry q_i q_j and log(1 + |x_i − x_j|²).
    """

    def __init__(self, width: int, rounds: int) -> None:
        super().__init__()
        self.embed = nn.Linear(7, width)
        self.messages = nn.ModuleList(Messages(width, 2) for _ in range(rounds))
        self.updates = nn.ModuleList(mlp(2 * width, width, width) for _ in range(rounds))
        self.read = mlp(width, width, 3)

    def forward(self, x: Tensor, v: Tensor, q: Tensor) -> Tensor:
        h, a, there = self.embed(torch.cat([x, v, q], -1)), pairs(x, q)[1], others(x)
        for message, update in zip(self.messages, self.updates, strict=True):
            h = h + update(torch.cat([h, (there * message(h, a)).sum(2)], -1))
        return x + v + self.read(h)


class EGNN(nn.Module):
    """*v_i ← φ_v(h_i) v_i⁰ + C Σ_j (x_i − x_j) φ_x(m_ij); x_i ← x_i + v_i; h_i ← h_i + φ_h(h_i,
    Σ_j m_ij)*, m_ij = φ_e(h_i, h_j, a_ij, a⁰_ij), C = 1/(n − 1);
    a = (q_i q_j, log(1 + |x_i − x_j|²)), where the logarithm is ours: far particles are rare.

    `x[b, n, 3], v[b, n, 3], q[b, n, 1] → [b, n, 3]`, E(3)-equivariant by its equations.
    Source: Satorras, Hoogeboom, Welling 2021, equations 3 to 7.
    """

    def __init__(self, width: int, rounds: int) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        self.messages = nn.ModuleList(Messages(width, 3) for _ in range(rounds))
        self.updates = nn.ModuleList(mlp(2 * width, width, width) for _ in range(rounds))
        self.along = nn.ModuleList(mlp(width, width, 1) for _ in range(rounds))
        self.speed = nn.ModuleList(mlp(width, width, 1) for _ in range(rounds))
        for net in self.along:  # else the first steps throw particles far away
            nn.init.xavier_uniform_(net[-1].weight, gain=1e-3)

    def forward(self, x: Tensor, v: Tensor, q: Tensor) -> Tensor:
        h, first, there = self.embed(v.square().sum(-1, keepdim=True).sqrt()), x, others(x)
        parts = (self.messages, self.updates, self.along, self.speed)
        for message, update, along, speed in zip(*parts, strict=True):
            apart, a = pairs(x, q)
            known = pairs(first, q)[1][..., 1:]
            m = there * message(h, torch.cat([a, known], -1))
            x = x + speed(h) * v + (apart * along(m)).sum(2) / (x.shape[1] - 1)
            h = h + update(torch.cat([h, m.sum(2)], -1))
        return x


def mlp(wide: int, width: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(wide, width), nn.SiLU(), nn.Linear(width, out))


def pairs(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """*x_i − x_j* and *(q_i q_j, log(1 + |x_i − x_j|²))*: `[b, n, n, 3], [b, n, n, 2]`."""
    apart = x[:, :, None] - x[:, None]
    charges = (q[:, :, None] * q[:, None]).to(x.dtype)
    return apart, torch.cat([charges, apart.square().sum(-1, keepdim=True).log1p()], -1)


def others(x: Tensor) -> Tensor:
    """One where i ≠ j: `[n, n, 1]`."""
    return 1 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[..., None]
