"""The methods, on one net and one budget: each adds a loss, moves data, or ties the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from equiwrap.measure.acting import act
from equiwrap.penalty import EquivarianceDecay, Target, penalty, read, sampled_penalty
from equiwrap.reynolds import Projector
from equiwrap.signature import Signature

from .tasks import Task

Extra = Callable[[Tensor, Tensor], Tensor]  # (x, f(x)) → what is added to the loss


@dataclass
class Trainer:
    """A net, its optimiser, what is added to the loss, and what happens to a batch before it."""

    task: Task
    net: nn.Module
    optimizer: torch.optim.Optimizer
    extra: Extra | None = None
    moved: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of the optimiser."""
        if self.moved is not None:
            x, y = self.moved(x, y)
        out = self.net(x)
        loss = self.task.loss(out, y)
        if self.extra is not None:
            loss = loss + self.extra(x, out)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


Build = Callable[[Task, nn.Module, tuple[Target, ...], float], Trainer]


def adam(task: Task, net: nn.Module, decay: float = 0.0) -> torch.optim.Optimizer:
    """The optimiser of every method."""
    return torch.optim.AdamW(net.parameters(), lr=task.rate, weight_decay=decay)


@torch.no_grad()
def symmetric_start(net: nn.Module, targets: tuple[Target, ...]) -> None:
    """*W ← P D P W*, where D gives each row of PW the norm that rows of W have."""
    for target in targets:
        weight, project = read(net, target.path), target.projector
        soft = project(weight)
        if weight.ndim > 1:
            was, now = weight.flatten(1).norm(dim=1).mean(), soft.flatten(1).norm(dim=1)
            scale = torch.where(now > 0, was / now, 0)
            soft = project(soft * scale.reshape(-1, *[1] * (weight.ndim - 1)))
        weight.copy_(soft)


# -- the ends --------------------------------------------------------------------------------------


def plain(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """No symmetry; the weight decay is tuned."""
    return Trainer(task, net, adam(task, net, strength))


def started(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """As plain, from the equivariant weights that the soft methods start from: a control."""
    symmetric_start(net, targets)
    return plain(task, net, targets, strength)


class Tied(nn.Module):
    """*PA*."""

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, a: Tensor) -> Tensor:
        """The weight that the layer sees."""
        return self.projector(a)


def hard(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """The forward runs on PW, the gradient through P; the weight decay is tuned."""
    symmetric_start(net, targets)
    tie(net, targets, Tied)
    return Trainer(task, net, adam(task, net, strength))


def tie(
    net: nn.Module, targets: tuple[Target, ...], kind: Callable[[Projector], nn.Module]
) -> None:
    """Each target's layer sees what `kind` makes of its parameters."""
    for target in targets:
        owner, _, name = target.path.rpartition(".")
        parametrize.register_parametrization(net.get_submodule(owner), name, kind(target.projector))


# -- baselines between -----------------------------------------------------------------------------


def augmented(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """Each example is moved, target and all, with probability `strength`."""
    sig = Signature.parse(task.signature, task.group)
    (into,), (out,) = ([kind for _, kind in side] for side in (sig.inputs, sig.outputs))

    def moved(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        g = task.group.sample(len(x))
        which = torch.rand(len(x)) < strength
        pick = which.reshape(-1, *[1] * (x.ndim - 1))
        there = torch.where(pick, act(into, g, x), x)
        if not out.moves:
            return there, y
        return there, torch.where(which.reshape(-1, *[1] * (y.ndim - 1)), act(out, g, y), y)

    return Trainer(task, net, adam(task, net), moved=moved)


def sampled(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """λ ‖ρ(g) f(x) − f(g x)‖², one g for each example, both branches differentiated."""
    sig = Signature.parse(task.signature, task.group)

    def extra(x: Tensor, out: Tensor) -> Tensor:
        return strength * sampled_penalty(net, task.group, x, signature=sig, output=out)

    return Trainer(task, net, adam(task, net), extra)


class Pathways(nn.Module):
    """*PA + B*: two sets of weights, B a tenth of the usual start."""

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The weight that the layer sees."""
        return self.projector(a) + b

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """A = W, and B = 0.1 times noise of the size of W."""
        return weight, 0.1 * weight.std() * torch.randn_like(weight)


def pathways(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """Residual pathway priors as published: λ |B|² + 1e-5 |A|² over two sets of weights."""
    symmetric_start(net, targets)
    tie(net, targets, Pathways)
    both = [(p, n) for n, p in net.named_parameters() if ".original" in n]

    def extra(x: Tensor, out: Tensor) -> Tensor:
        return sum(  # type: ignore[return-value]
            (strength if name.endswith("1") else 1e-5) * p.square().sum() for p, name in both
        )

    return Trainer(task, net, adam(task, net), extra)


# -- ours ------------------------------------------------------------------------------------------


def decayed(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """After each step R = W − PW shrinks by e^(−2ηλ)."""
    symmetric_start(net, targets)
    optimizer = adam(task, net)
    EquivarianceDecay(net, optimizer, strength, targets=targets)
    return Trainer(task, net, optimizer)


def penalised(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """λ |W − PW|² in the loss."""
    symmetric_start(net, targets)
    return Trainer(task, net, adam(task, net), lambda x, out: penalty(net, targets, strength))


def balled(task: Task, net: nn.Module, targets: tuple[Target, ...], strength: float) -> Trainer:
    """After each step |W − PW| ≤ b |PW|."""
    symmetric_start(net, targets)
    optimizer = adam(task, net)
    EquivarianceDecay(net, optimizer, strength, kind="ball", targets=targets)
    return Trainer(task, net, optimizer)


DECAYS = (0.0, 0.01, 0.1, 1.0)
METHODS: dict[str, tuple[Build, tuple[float, ...]]] = {
    "plain": (plain, DECAYS),
    "plain, symmetric start": (started, DECAYS),
    "augmentation": (augmented, (0.25, 0.5, 0.75, 1.0)),
    "sample-based": (sampled, (0.01, 0.1, 1.0, 10.0)),
    "hard": (hard, DECAYS),
    "RPP": (pathways, (1e-3, 1e-2, 1e-1, 1.0)),
    "decay": (decayed, (1.0, 10.0, 100.0, 1000.0)),
    "penalty": (penalised, (1e-2, 1e-1, 1.0, 10.0)),
    "ball": (balled, (0.01, 0.03, 0.1, 0.3)),
}
