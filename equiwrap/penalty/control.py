"""Strengths that find themselves: from a target defect, from α*, from the layers' own energies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, isfinite, log, prod
from typing import Any

from torch import nn

from .targets import Target, targets_of
from .value import energies

__all__ = ["AlphaController", "DefectController", "LearnedStrengths", "james_stein"]

LIMITS = (1e-8, 1e8)  # of a strength


@dataclass
class DefectController:
    """*log λ += κ e + β Δe, e = log(q / goal)*: the λ that holds the defect q at its target.

    q is any defect that falls as λ rises: Σ|R|²/Σ|W|² of `energies`, or a measured error; log q
    enters through a running mean, in which `smoothing` is the weight of the past. `damping` β
    answers the change of q at once; at 0 a slow decay overshoots tenfold. λ stays within 1e±8, and
    e within ±10.

    Error: within 1.1 of targets 0.3, 0.03, 0.003 after 200 steps of a noisy quadratic task from λ =
    1e-4, 1, 1e3; where training has stopped to break the symmetry, q stays below and λ goes to 0.
    """

    target: float
    strength: float = 1e-2
    rate: float = 0.1
    smoothing: float = 0.5
    damping: float = 1.0
    mean: float | None = None  # of log q
    gap: float | None = None

    def update(self, defect: float) -> float:
        """The next λ, after one more measurement.

        Raises:
            ValueError: a defect that is negative or not finite.
        """
        if not (isfinite(defect) and defect >= 0):
            raise ValueError(f"A defect of {defect} was measured: it is finite and at least 0.")
        now = log(max(defect, 1e-30))
        past = now if self.mean is None else self.mean
        self.mean = self.smoothing * past + (1 - self.smoothing) * now
        gap = max(-10.0, min(10.0, self.mean - log(self.target)))
        change = 0.0 if self.gap is None else gap - self.gap
        self.gap = gap
        self.strength = _clamp(self.strength * exp(self.rate * gap + self.damping * change))
        return self.strength

    def state_dict(self) -> dict[str, float | None]:
        """λ, the running mean and the last gap."""
        return {"strength": self.strength, "mean": self.mean, "gap": self.gap}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.strength, self.mean, self.gap = state["strength"], state["mean"], state["gap"]


@dataclass
class AlphaController:
    """*log λ += κ (1 − α)*: stronger while the data supports less asymmetry than the model has.

    α is the best factor of the asymmetric part on held-out data (1: balanced; below: the model
    breaks the symmetry more than the data does; above: less). One update moves λ by e^{2κ} at most:
    an α* of a part f_⊥ that is nearly 0 says little.
    """

    strength: float = 1e-2
    rate: float = 0.5

    def update(self, alpha: float) -> float:
        """The next λ.

        Raises:
            ValueError: an α* that is not finite.
        """
        if not isfinite(alpha):
            raise ValueError(f"α* = {alpha} was measured: the asymmetric part has no energy.")
        self.strength = _clamp(self.strength * exp(self.rate * max(-2.0, min(2.0, 1 - alpha))))
        return self.strength

    def state_dict(self) -> dict[str, float]:
        """λ."""
        return {"strength": self.strength}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on where `state_dict` was taken."""
        self.strength = state["strength"]


def james_stein(noise: float, directions: int, samples: int, data_error: float) -> float:
    """*λ = σ² d / (n e_D²)*, the λ to begin with; the factor of the asymmetric part is 1 / (1 + λ).

    σ² the noise of the labels, d the asymmetric directions, n the samples, e_D the asymmetry of the
    data (`measure.data_error`); minimises (λ/(1+λ))² e_D² + σ² d / (n (1+λ)²), the risk of a ridge
    on the asymmetric part of an isotropic linear model. Infinite for data without asymmetry.

    Raises:
        ValueError: a number below 0, or no samples.
    """
    if min(noise, directions, data_error) < 0 or samples < 1:
        raise ValueError(
            f"noise={noise}, directions={directions}, samples={samples}, data_error={data_error}: "
            "variances and counts are at least 0, and there is one sample at least."
        )
    top, bottom = noise * directions, samples * data_error**2
    return top / bottom if bottom else (float("inf") if top else 0.0)


@dataclass
class LearnedStrengths:
    """*λ_l = 1 / (2 s_l²), s_l² = (|R_l|² + 2b) / (n_l + 2a + 2)*: each layer sets its own.

    Type-II maximum likelihood of R_l ~ N(0, s_l²) with s_l² ~ InvGamma(a, b) in the n_l = dim
    (I − P) asymmetric directions: layers that break the symmetry are let go, the others held.
    `scale` brings the log-posterior to the scale of the loss (1/n for a mean over n samples).
    b > 0: without it λ would have no limit as R → 0. Targets that P leaves whole have no strength.
    """

    a: float = 0.0
    b: float = 1e-3
    scale: float = 1.0
    strengths: dict[str, float] = field(default_factory=dict)

    def update(self, model: nn.Module, targets: Sequence[Target] | None = None) -> dict[str, float]:
        """Path → λ, to be a `strength`.

        Raises:
            ValueError: b is not positive.
        """
        if self.b <= 0:
            raise ValueError(f"b={self.b}: the prior needs b > 0, or λ is infinite at R = 0.")
        chosen = targets_of(model) if targets is None else targets
        sizes = {t.path: prod(t.shape) - t.projector.rank for t in chosen}
        self.strengths = {
            e.path: self.scale * (sizes[e.path] + 2 * self.a + 2) / (2 * (e.defect + 2 * self.b))
            for e in energies(model, chosen)
            if sizes[e.path]
        }
        return self.strengths

    def state_dict(self) -> dict[str, float]:
        """Path → λ."""
        return dict(self.strengths)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on where `state_dict` was taken."""
        self.strengths = dict(state)


def _clamp(strength: float) -> float:
    return min(max(strength, LIMITS[0]), LIMITS[1])
