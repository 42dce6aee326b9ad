"""Simulated data: five charged particles, and a set network that does not know E(3).

The law is that of the n-body benchmark (Kipf et al. 2018, as fixed by Satorras et al. 2021):
charges ±1, positions N(0, 1), speeds 0.5 in random directions, Coulomb forces q_i q_j r / r³ with
each component clipped. Given time 3.1, predict the positions at time 4.1. There the step is 0.001;
here it is 0.005, with fewer samples, so figures are not to be compared with published ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from ..groups import parse_group
from ..measure import equivariance_error
from ..wrap import equivariantize
from .table import Block, Row, seconds

__all__ = ["SetNetwork", "Trajectories", "compare", "simulate", "train"]

SIGNATURE = "b n p, b n v, b n 1 -> b n p"
PLAIN, AFTER, THROUGHOUT = "plain", "wrapped after training", "wrapped, then trained"


@dataclass(frozen=True)
class Trajectories:
    """`x[b, n, 3], v[b, n, 3], q[b, n, 1]` at time 3.1, and `target[b, n, 3]` at time 4.1."""

    x: Tensor
    v: Tensor
    q: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, pick: Tensor | slice) -> Trajectories:
        return Trajectories(self.x[pick], self.v[pick], self.q[pick], self.target[pick])

    def moved(self, seed: int) -> Trajectories:
        """Each sample turned, perhaps mirrored, shifted by N(0, 1): an element of its own."""
        generator = torch.Generator().manual_seed(seed)
        g = parse_group("E(3)").sample(len(self), generator=generator).to(self.x.dtype)
        turn, shift = g[:, :3, :3], rearrange(g[:, :3, 3], "b d -> b 1 d")

        def rotate(u: Tensor) -> Tensor:
            return torch.einsum("bij,bnj->bni", turn, u)

        return Trajectories(
            rotate(self.x) + shift, rotate(self.v), self.q, rotate(self.target) + shift
        )


def simulate(count: int, seed: int, n: int = 5, step: float = 0.005) -> Trajectories:
    """Semi-implicit Euler on all samples at once."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, n, 3, generator=generator)
    v = 0.5 * F.normalize(torch.randn(count, n, 3, generator=generator), dim=-1)
    q = 2.0 * torch.randint(2, (count, n, 1), generator=generator) - 1
    now, later = round(3.1 / step), round(4.1 / step)
    start = (x, v)
    for k in trange(later, desc="particles: simulate", unit="step"):
        if k == now:
            start = (x, v)
        v = v + step * _force(x, q, limit=0.1 / step)
        x = x + step * v
    return Trajectories(*start, q, x)


def _force(x: Tensor, q: Tensor, limit: float) -> Tensor:
    """*F_i = Σ_j q_i q_j (x_i − x_j) / |x_i − x_j|³*, each component clipped. `→ [b, n, 3]`."""
    apart = rearrange(x, "b i d -> b i 1 d") - rearrange(x, "b j d -> b 1 j d")
    self_pair = torch.eye(x.shape[1])  # keeps 0 / 0 off the diagonal
    strength = q * q.mT * (apart.square().sum(-1) + self_pair).rsqrt() ** 3  # [b, i, j]
    return (strength.unsqueeze(-1) * apart).sum(2).clamp(-limit, limit)


class SetNetwork(nn.Module):
    """*x + v + Δ(x, v, q)*, Δ by message passing between all pairs: S(n)-equivariant, not E(3).

    `x[b, n, 3], v[b, n, 3], q[b, n, 1] → [b, n, 3]`
    """

    def __init__(self, width: int = 48, rounds: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(7, width)
        self.messages = nn.ModuleList(_mlp(2 * width, width) for _ in range(rounds))
        self.updates = nn.ModuleList(_mlp(2 * width, width) for _ in range(rounds))
        self.read = nn.Linear(width, 3)

    def forward(self, x: Tensor, v: Tensor, q: Tensor) -> Tensor:
        """`→ the positions one unit of time later, [b, n, 3]`."""
        h = self.embed(torch.cat([x, v, q], -1))
        n = h.shape[1]
        for message, update in zip(self.messages, self.updates, strict=True):
            to = h.unsqueeze(2).expand(-1, -1, n, -1)
            heard = message(torch.cat([to, to.transpose(1, 2)], -1)).mean(2)
            h = h + update(torch.cat([h, heard], -1))
        return x + v + self.read(h)


def _mlp(wide: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(wide, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())


def train(net: nn.Module, data: Trajectories, steps: int, label: str) -> nn.Module:
    """Mean squared error, batches of 100, one learning-rate cycle; returned in eval mode."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    net.train()
    for _ in trange(steps, desc=f"particles: train {label}", unit="step"):
        batch = data[torch.randint(len(data), (100,))]
        loss = F.mse_loss(net(batch.x, batch.v, batch.q), batch.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def compare(seed: int, samples: int, steps: int, held_out: int = 500) -> Block:
    """Train one network plain and one wrapped; measure both, and the plain one wrapped after."""
    data = simulate(samples + held_out, seed)
    test = data[:held_out]
    moved, learn = test.moved(seed), data[held_out:]
    plain = train(SetNetwork(), learn, steps, "plain")
    inner = equivariantize(SetNetwork(), "E(3)", SIGNATURE)
    models = {
        PLAIN: plain,
        AFTER: equivariantize(plain, "E(3)", SIGNATURE),
        THROUGHOUT: train(inner, learn, steps, "wrapped"),
    }
    some = (test.x[:200], test.v[:200], test.q[:200])
    costs = seconds([partial(model, *some) for model in models.values()])
    rows = tuple(
        Row(
            name,
            _mse(model, test),
            _mse(model, moved),
            float(equivariance_error(model, "E(3)", *some, signature=SIGNATURE)),
            cost,
        )
        for (name, model), cost in zip(models.items(), costs, strict=True)
    )
    title = (
        f"Charged particles (simulated; E(3)-equivariant): set network trained on {len(learn)} "
        f"samples, {len(test)} test samples"
    )
    return Block(title, "MSE", "MSE, moved", ".4f", rows)


def _mse(model: nn.Module, data: Trajectories) -> float:
    with torch.no_grad():
        return float(F.mse_loss(model(data.x, data.v, data.q), data.target))
