"""How the scores are trained: the network, how its data move, and the frame around it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from data.mixtures import Mixture, schedule
from torch import Tensor, nn
from torch.nn.functional import mse_loss, silu

import equiwrap as ew
from equiwrap.frames import Frame, GroupMeasure
from equiwrap.groups import Group

SIGNATURE = "b v, _ -> b v"  # a point is a vector, the time is passed through
# method → how the data move, and the frame that trains. They do not; by one element; by all of
# them, each point with its time and its noise (the very calls of the average); by all of them,
# each copy with a time and a noise of its own (more draws a step than any other method).
METHODS = {
    "plain": ("no", None),
    "augmentation": ("one", None),
    "full-orbit augmentation": ("all", None),
    "full-orbit, fresh noise": ("each", None),
    "canonicalised": ("no", "sector"),
    "averaged": ("no", "whole"),
    "averaged + augmentation": ("one", "whole"),
}
POST_HOC = ("plain", "augmentation")


@dataclass(frozen=True)
class Config:
    """One task: its sizes and its budget."""

    task: str
    points: int
    width: int
    hidden: int
    steps: int = 5000
    batch: int = 32
    rate: float = 1e-3
    decay: float = 0.999  # of the average of the weights
    samples: int = 1500  # on each side of the transport
    pairs: int = 3  # of sample sets; W1 is the mean over them
    jumps: int = 100  # of the sampler
    probe: int = 4000  # fresh points for the errors of the score


TASKS = {"C4, 2-D": Config("C4, 2-D", 256, 96, 3), "C8, 10-D": Config("C8, 10-D", 1000, 128, 4)}


class Net(nn.Module):
    """*ε(x, t)*: a plain perceptron that knows no group."""

    def __init__(self, dim: int, width: int, hidden: int) -> None:
        super().__init__()
        sizes = [dim + 5] + [width] * hidden
        self.layers = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        self.last = nn.Linear(width, dim)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """`x[b, d], t[b] → [b, d]`."""
        waves = [f(k * torch.pi * t / 2)[:, None] for f in (torch.sin, torch.cos) for k in (1, 4)]
        h = torch.cat([x, t[:, None], *waves], -1)
        for layer in self.layers:
            h = silu(layer(h))
        return self.last(h)


class Sector(Frame):
    """*The element that moves x into one sector of space*: one call, with a jump where two tie."""

    def read(self, group, inputs, mask):
        return {"x": inputs[0].value}

    def forward(self, group: Group, x: Tensor) -> GroupMeasure:
        """`x[b, d] → elements[b, 1, d, d]`: g with ⟨g a, x⟩ largest, for a fixed direction a."""
        g = group.elements(x.device)
        chosen = g[sector(group, x)].unsqueeze(1)
        return GroupMeasure(chosen, chosen.new_ones(len(x), 1))


def sector(group: Group, x: Tensor) -> Tensor:
    """`x[b, d] → [b]`, the index of the element whose sector holds x."""
    a = torch.linspace(1.0, 0.3, x.shape[1], dtype=torch.float64)
    return torch.einsum("kde,e,bd->bk", group.elements(), a, x.double()).argmax(-1)


def wrapped(net: nn.Module, group: Group, frame: str | None) -> nn.Module:
    """The network over a frame, sharing its weights; itself where there is none."""
    if frame is None:
        return net
    return ew.equivariantize(
        net, group, SIGNATURE, frame=Sector() if frame == "sector" else "whole"
    )


def train(problem: Mixture, config: Config, method: str, data: Tensor, seed: int) -> nn.Module:
    """The running average of the weights after all steps, as the plain network."""
    how, frame = METHODS[method]
    torch.manual_seed(seed)
    net, rng = Net(data.shape[1], config.width, config.hidden), torch.Generator().manual_seed(seed)
    model, kept = wrapped(net, problem.group, frame), copy.deepcopy(net).requires_grad_(False)
    weights, slow = list(net.parameters()), list(kept.parameters())
    optimizer, g = torch.optim.Adam(weights, config.rate), problem.group.elements().float()
    for _ in range(config.steps):
        x = data[torch.randint(len(data), (config.batch,), generator=rng)]
        if how == "one":
            x = torch.einsum("bde,be->bd", g[torch.randint(len(g), (len(x),), generator=rng)], x)
        x = turned(g, x) if how == "each" else x
        t = 0.02 + 0.96 * torch.rand(len(x), generator=rng)
        noise = torch.randn(x.shape, generator=rng)
        if how == "all":
            x, noise, t = turned(g, x), turned(g, noise), t.repeat(len(g))
        alpha, sigma = schedule(t)
        loss = mse_loss(model(alpha * x + sigma * noise, t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch._foreach_lerp_(slow, weights, 1 - config.decay)
    return kept.eval()


def turned(g: Tensor, x: Tensor) -> Tensor:
    """`g[k, d, d], x[b, d] → [k b, d]`."""
    return torch.einsum("kde,be->kbd", g, x).flatten(0, 1)
