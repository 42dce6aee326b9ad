"""Two simulated laws that a finite group keeps, and the score of their diffusion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equiwrap.groups import Cyclic, FiniteGroup, Group

__all__ = ["Mixture", "law", "noisy", "schedule"]


@dataclass(frozen=True)
class Mixture:
    """*Σ_k w_k N(m_k, U_k diag(λ_k) U_kᵀ)*, kept by `group`; `unit` gives back the law's units."""

    group: Group
    means: Tensor
    axes: Tensor
    spread: Tensor
    weights: Tensor
    unit: float

    @classmethod
    def orbit(cls, group: Group, means: Tensor, axes: Tensor, sd: Tensor, share: Tensor) -> Mixture:
        """The orbit of a few Gaussians (means[j, d], axes[j, d, d], sd[j, d], share[j])."""
        g = group.elements()
        size = float((means.square().sum(-1) + sd.square().sum(-1)) @ share / means.shape[1]) ** 0.5
        turned = torch.einsum("kde,je->kjd", g, means).flatten(0, 1) / size
        frames = torch.einsum("kde,jef->kjdf", g, axes).flatten(0, 1)
        spread, weights = (sd / size).square().repeat(len(g), 1), share.repeat(len(g)) / len(g)
        parts = (p.float() for p in (turned, frames, spread, weights))
        return cls(group, *parts, size)

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """`[count, d]`."""
        k = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        z = torch.randn(count, self.means.shape[1], generator=rng) * self.spread[k].sqrt()
        return self.means[k] + torch.einsum("bde,be->bd", self.axes[k], z)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """*E[ε | x_t = x]*, in closed form: `x[b, d], t[b] → [b, d]`."""
        alpha, sigma = schedule(t)
        gap = x[:, None] - alpha[..., None] * self.means
        y = torch.einsum("kde,bkd->bke", self.axes, gap)
        var = (alpha**2)[..., None] * self.spread + (sigma**2)[..., None]
        share = (self.weights.log() - (y.square() / var + var.log()).sum(-1) / 2).softmax(-1)
        return sigma * torch.einsum("bk,kde,bke->bd", share, self.axes, y / var)


def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
    """`t[b] → cos(πt/2), sin(πt/2)`, each `[b, 1]`."""
    return (torch.pi * t / 2).cos()[:, None], (torch.pi * t / 2).sin()[:, None]


def law(task: str) -> Mixture:
    """The two simulated laws."""
    if task == "C4, 2-D":
        means = torch.tensor([[4.0, 0.6], [2.2, 1.6]], dtype=torch.float64)
        tilt = torch.tensor([0.5, -0.4], dtype=torch.float64)
        axes = torch.stack([tilt.cos(), -tilt.sin(), tilt.sin(), tilt.cos()], -1).view(2, 2, 2)
        sd = torch.tensor([[0.5, 0.2], [0.35, 0.15]], dtype=torch.float64)
        return Mixture.orbit(Cyclic(4), means, axes, sd, torch.tensor([0.65, 0.35]).double())
    angle = torch.pi / 4 * torch.tensor([1.0, 2, 3, 1, 1], dtype=torch.float64)
    blocks = [torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()]).view(2, 2) for a in angle]
    group = FiniteGroup("C8 on 10", [torch.block_diag(*blocks)])  # a user's group, by value
    sd = torch.linspace(0.2, 0.6, 10, dtype=torch.float64)[None]
    means = torch.tensor([[2.0, 0.5] * 5], dtype=torch.float64)
    return Mixture.orbit(group, means, torch.eye(10).double()[None], sd, torch.ones(1).double())


def noisy(problem: Mixture, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fresh points of the law at random times: `x_t[b, d], t[b]`."""
    x, t = problem.draw(count, rng), 0.02 + 0.96 * torch.rand(count, generator=rng)
    alpha, sigma = schedule(t)
    return alpha * x + sigma * torch.randn(x.shape, generator=rng), t
