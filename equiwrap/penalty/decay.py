"""Decoupled equivariance decay: after each step of the optimiser, R = W − PW shrinks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import NoEffectWarning, article
from .schedule import Given, as_schedule
from .steps import STEPS, apply_
from .targets import Strength, Target, checked, inner, strength_at, targets_of
from .trained import Trained

__all__ = ["EquivarianceDecay"]

HALVES = (torch.float16, torch.bfloat16)


class EquivarianceDecay:
    """*R ← e^{−2Σηλ} R after every real step*, as AdamW decays weights: no access to the loss.

    With η the learning rate of the parameter's own group, summed over the steps since the last
    application, so that `every=k` gives the k single decays exactly, schedules included (where the
    gradient does not look in between). A step that a `GradScaler` skips, and one that gradient
    accumulation leaves out, are no steps.

        kind     R becomes                    `strength`
        decay    e^{−2Σηλ} R                  λ: the flow of the penalty λ|R|²
        lasso    R · max(0, 1 − Σηλ/|R|)      λ: the prox of λ|R|; layers reach R = 0 in finite time
        ball     R · min(1, b|PW|/|R|)        b: |R| ≤ b|PW| after each application (a step)

    `separate=(λ_G, λ_perp)` decays PW too: the energies of residual pathway priors W = A + B,
    A ~ N(0, s_a² P), B ~ N(0, s_b²), are λ_G = 1/(2(s_a² + s_b²)) and λ_perp = 1/(2 s_b²), without
    their second set of weights. `strength` may be a mapping from paths, and set between steps;
    `schedule` multiplies it, by the number of steps (`as_schedule`, with `total`).

    Decayed are the targets that the optimiser trains, the ones it is given later included, whether
    or not this step brought them a gradient; `statistics`: and the buffers (running means) of
    layers that it trains. `report()` lists the others. Several decays on one optimiser alternate.
    Half-precision weights are read in float32 and rounded once per application.

    Under DDP there is nothing to communicate: all processes do the same. Of weights sharded by
    FSDP2 those that `Projector.cut` divides decay where they are (ball and lasso sum one or two
    numbers); each other one is gathered, and every process keeps its own shard.

    Error: `every=k` against k decays 1e-15 in float64, 1e-7 in float32; the ball holds to the
    rounding of the weights, 1e-6 |W| in float32, 4e-3 |W| in bfloat16.
    Source: Loshchilov and Hutter 2019 (decoupling); Finzi et al. 2021 (priors); Berndt and Stühmer
    2026 (projection).

    Raises:
        ValueError: a negative strength, `every` below 1, an unknown kind, no targets.
        TypeError: no optimiser.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        strength: Strength = 1e-2,
        every: int = 1,
        *,
        kind: str = "decay",
        separate: tuple[float, float] | None = None,
        schedule: Given = None,
        total: int | None = None,
        statistics: bool = True,
        targets: Sequence[Target] | None = None,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"A decay follows the steps of a torch.optim.Optimizer, and "
                f"{article(optimizer)} was given: EquivarianceDecay(model, optimizer)."
            )
        self.targets = tuple(targets_of(model) if targets is None else targets)
        self._check(every, kind, separate)
        self.model, self.optimizer, self.every, self.kind = inner(model), optimizer, every, kind
        self.separate, self.statistics = separate, statistics
        self.strength = strength
        self.schedule = as_schedule(schedule, total)
        self.steps = self.waiting = 0
        self._pending: dict[str, list[float]] = {}  # path → Σ ηλ_G, Σ ηλ_perp
        self._told = self._idle = False
        self._trained = Trained(self.model, optimizer, self.targets, statistics)
        self._found()
        self._hook = optimizer.register_step_post_hook(self._after)

    def _check(self, every: int, kind: str, separate: tuple[float, float] | None) -> None:
        if not self.targets:
            raise ValueError(
                "The model has no targets: every weight of it is equivariant already, or its "
                "layers could not be typed. Leave the decay out."
            )
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every={every!r} was asked for: it counts steps, 1 at least.")
        if kind not in STEPS:
            raise ValueError(f"kind={kind!r} was asked for: the kinds are {', '.join(STEPS)}.")
        if separate is not None:
            if kind != "decay":
                raise ValueError(f"separate= decays both parts, and kind={kind!r} was asked for.")
            for number in separate:
                checked(number, "separate")

    @property
    def strength(self) -> Strength:
        """λ, or b of a ball; checked when set."""
        return self._strength

    @strength.setter
    def strength(self, value: Strength) -> None:
        self._strength = checked(value)

    # -- one step ----------------------------------------------------------------------------------

    @torch.compiler.disable
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        skipped = getattr(optimizer, "found_inf", None)  # fused optimisers skip inside of step()
        if skipped is not None and float(skipped):
            return
        factor, found = self.schedule(self.steps), self._found()
        for target, _, rate in found:
            common, rest = self.separate or (0.0, strength_at(self._strength, target.path))
            sums = self._pending.setdefault(target.path, [0.0, 0.0])
            sums[0] += rate * factor * common
            sums[1] += rate * factor * rest
        self.steps += 1
        self.waiting += 1
        if self.waiting >= self.every:
            self._apply(found)

    def flush(self) -> None:
        """Apply what is pending, as before a checkpoint that is to be evaluated."""
        self._apply(self._found())

    def _apply(self, found: list[tuple[Target, Tensor, float]]) -> None:
        factor, jobs = self.schedule(max(self.steps - 1, 0)), []
        for target, weight, _ in found:
            if sums := self._pending.get(target.path):
                bound = factor * strength_at(self._strength, target.path)
                if weight.dtype in HALVES:
                    self._tell(weight, -math.expm1(-2 * (sums[1] - sums[0])))
                jobs.append((target.projector, weight, sums, bound))
        with torch.no_grad():
            apply_(self.kind, jobs, self._trained.sharded)
        self._pending.clear()
        self.waiting = 0

    def _tell(self, weight: Tensor, t: float) -> None:
        """Once: what the dtype of the weights swallows."""
        least = torch.finfo(weight.dtype).eps / 4
        if self.kind == "ball" or self._told or not 0 < abs(t) < least:
            return
        self._told = True
        warnings.warn(
            f"A decay by the factor 1 − {t:.1e} is below the resolution of {weight.dtype} weights "
            f"({torch.finfo(weight.dtype).eps:.1e}) and changes next to none of them: raise every= "
            f"(now {self.every}), so that several steps are applied at once, or keep the weights "
            "in float32.",
            NoEffectWarning,
            stacklevel=2,
        )

    def _found(self) -> list[tuple[Target, Tensor, float]]:
        """The targets that are trained; once a warning where none is."""
        every = self._trained.found()
        found = [(t, w, rate) for t, w, rate in every if not isinstance(rate, str)]
        if not (self._idle or any(isinstance(w, nn.Parameter) for _, w, _ in found)):
            weights = [w for _, w, _ in every if isinstance(w, nn.Parameter) and w.requires_grad]
            self._idle = not found or bool(weights)
            if self._idle:
                self._warn()
        return found

    def _warn(self) -> None:
        warnings.warn(
            f"None of the {len(self.targets)} targets is trained by this optimiser, so nothing "
            f"will decay (an optimiser is made after fully_shard):\n{self.report()}",
            NoEffectWarning,
            stacklevel=4,
        )

    def report(self) -> str:
        """One line for each target: its strength and learning rate, or why it is left out."""
        lines = []
        for target, _, rate in self._trained:
            strength = self.separate or strength_at(self.strength, target.path)
            said = f"{self.kind} {strength}, lr {rate:g}" if isinstance(rate, float) else rate
            lines.append(f"  {target.path}: {said}")
        return "\n".join([repr(self), *lines])

    def __repr__(self) -> str:
        kind = "" if self.kind == "decay" else f", kind={self.kind!r}"
        held = "per layer" if not isinstance(self.strength, (int, float)) else self.strength
        what = f"separate={self.separate}" if self.separate else f"strength={held}"
        return f"EquivarianceDecay({what}, every={self.every}{kind}, targets={len(self.targets)})"

    # -- the life of it ----------------------------------------------------------------------------

    def remove(self) -> None:
        """Leave the optimiser; what is pending is applied first."""
        self.flush()
        self._hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Steps, and what is pending: plain numbers."""
        pending = {path: list(sums) for path, sums in self._pending.items()}
        held = self.strength if isinstance(self.strength, (int, float)) else dict(self.strength)
        state = {"steps": self.steps, "waiting": self.waiting}
        return state | {"pending": pending, "strength": held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.steps, self.waiting = state["steps"], state["waiting"]
        self._pending = {path: list(sums) for path, sums in state["pending"].items()}
        self.strength = state["strength"]
