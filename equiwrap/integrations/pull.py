"""The pull on the weights of a training model: a decay after each step, or a gradient before it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import NoEffectWarning, article
from ..penalty.decay import EquivarianceDecay
from ..penalty.schedule import Given, as_schedule, snap
from ..penalty.shards import settle
from ..penalty.steps import STEPS
from ..penalty.targets import Strength, Target, checked, live, strength_at
from ..penalty.value import METRICS, penalty
from .subject import trains

__all__ = ["KINDS", "Pull"]

KINDS = (*STEPS, "loss")


class Pull:
    """*λ s(step) Σ |R|² on the targets of a model*, through the optimisers that train them.

    decay, ball, lasso    `EquivarianceDecay`, after every real step
    loss                  its gradient, added to `.grad` right before the step: the same training as
                          `loss + λ Σ|R|²`, with no access to the loss and no graph
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[Target],
        strength: Strength,
        kind: str,
        metric: str,
        every: int,
        schedule: Given,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} was asked for: the kinds are {', '.join(KINDS)}.")
        if metric not in METRICS:
            raise ValueError(
                f"metric={metric!r} was asked for: the metrics are {', '.join(METRICS)}."
            )
        self.model, self.targets, self.kind, self.metric = model, tuple(targets), kind, metric
        self.every, self.given = every, schedule
        self._strength = checked(strength, "penalty")
        paths = {t.path for t in self.targets}
        if isinstance(strength, Mapping) and (lost := sorted(strength.keys() - paths)):
            near = get_close_matches(lost[0], paths, 1, 0) or ["none"]
            raise ValueError(
                f"penalty= names {', '.join(lost)}, which are no targets: there are {len(paths)}, "
                f"the nearest {near[0]} (model.equiwrap.report() lists them)."
            )
        self.decays: list[EquivarianceDecay] = []
        self._told = False
        self.schedule: Any = None
        self._waiting: list[dict[str, Any]] = []  # states that came before their optimisers

    @property
    def strength(self) -> Strength:
        """λ; set by controllers."""
        return self._strength

    @strength.setter
    def strength(self, value: Strength) -> None:
        self._strength = checked(value, "penalty")
        for decay in self.decays:
            decay.strength = value

    def attach(self, optimizer: Optimizer, total: int | None) -> None:
        """Follow an optimiser, if it trains a target.

        Raises:
            ValueError: the schedule needs the number of steps, and `total` is not known.
        """
        if self.schedule is None:
            self.schedule = as_schedule(self.given, total)
        if self.kind == "loss" or not trains(optimizer, self.model):
            return
        decay = EquivarianceDecay(
            self.model,
            optimizer,
            self._strength,
            self.every,
            kind=self.kind,
            schedule=self.schedule,
            targets=self.targets,
        )
        if self._waiting:
            decay.load_state_dict(self._waiting.pop(0))
            decay.strength = self._strength
        self.decays.append(decay)

    def add(self, optimizer: Optimizer, step: int, scale: float) -> None:
        """*p.grad += scale · ∂ λ s(step) Σ|R|² / ∂p* for the parameters of this optimiser."""
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        factor, chosen, strengths = self.schedule(step), [], {}
        settle(self.model)
        for target, weight in live(self.model, self.targets):
            if id(weight) in mine and weight.requires_grad:
                chosen.append((target, weight))
                strengths[target.path] = factor * strength_at(self._strength, target.path)
        if not chosen or not any(strengths.values()):
            return
        with torch.enable_grad():
            value = penalty(self.model, [t for t, _ in chosen], strengths, self.metric)
            found = torch.autograd.grad(value, [w for _, w in chosen])
        with torch.no_grad():
            for (_, weight), gradient in zip(chosen, found, strict=True):
                if weight.grad is None:
                    weight.grad = gradient * scale
                else:
                    weight.grad.add_(gradient, alpha=scale)

    def now(self, step: int) -> float | None:
        """*λ s(step)*, None where each layer has its own."""
        factor = self.schedule(step) if self.schedule is not None else 1.0
        held = self._strength
        return factor * held if isinstance(held, (int, float)) else None

    def check_follows(self) -> None:
        """Once: a warning where no optimiser that was met trains a target."""
        if self.kind == "loss" or self.decays or self._told:
            return
        self._told = True
        warnings.warn(
            f"None of the {len(self.targets)} targets is trained by an optimiser that the callback "
            "was given, so nothing is pulled: call before_step(optimizer) with the one that trains "
            "the model.",
            NoEffectWarning,
            stacklevel=4,
        )

    def check_copies(self, copies: Sequence[nn.Module]) -> None:
        """Nothing, or a sentence.

        Raises:
            ValueError: a copy lacks a target.
        """
        for copy in copies:
            try:
                live(copy, self.targets)
            except AttributeError as error:
                raise ValueError(
                    f"ema= holds copies of the model, and {article(copy)} is none: {error}."
                ) from None

    def hold(self, copies: Sequence[nn.Module]) -> None:
        """*W ← PW* for the targets of copies of the model."""
        for copy in copies:
            snap(copy, self.targets)

    def remove(self) -> None:
        """Leave the optimisers; states taken afterwards, or a second training, go on from here."""
        for decay in self.decays:
            decay.remove()
        self._waiting = [decay.state_dict() for decay in self.decays] or self._waiting
        self.decays.clear()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        held = self._strength
        strength = held if isinstance(held, (int, float)) else dict(held)
        states = [decay.state_dict() for decay in self.decays] or self._waiting
        return {"strength": strength, "decays": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, before or after the optimisers are attached."""
        states = list(state["decays"])
        for decay in self.decays:
            if states:
                decay.load_state_dict(states.pop(0))
        self._waiting = states
        self.strength = state["strength"]
