"""The penalty as a loss: λ Σ |W − PW|², with its gradient 2λ(W − PW) written down."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NoEffectWarning
from ..reynolds import Projector
from ..reynolds.projector import wide
from .shards import Norm, held, settle
from .targets import Strength, Target, checked, inner, live, strength_at, targets_of

__all__ = ["METRICS", "Energy", "energies", "penalty"]

METRICS = ("frobenius", "relative", "auto", "lasso")

Term = tuple[Projector, float, str, Norm]


@dataclass(frozen=True)
class Energy:
    """*|R|² and |W|²* of one target, R = W − PW."""

    path: str
    defect: float
    total: float
    share: float

    @property
    def ratio(self) -> float:
        """*r = |R|² / |W|²* in [0, 1]; 0 for a weight that is 0."""
        return self.defect / self.total if self.total else 0.0

    @property
    def excess(self) -> float:
        """*(|PW|²/|W|² − d/N) / (1 − d/N)*: 0 for a random weight, 1 for an equivariant one."""
        return (1 - self.ratio - self.share) / (1 - self.share) if self.share < 1 else 1.0


def energies(model: nn.Module, targets: Sequence[Target] | None = None) -> list[Energy]:
    """How far each target is from its projection: parameters, frozen or not, and buffers.

    Of sharded weights, those of the whole weight: all processes call, and get the same numbers.
    """
    found = []
    for target, tensor in live(model, targets_of(model) if targets is None else targets):
        projector, part, norm = held(target.projector, tensor.detach())
        weight = wide(part)
        defect, total = norm(weight - projector.project(weight)).square(), norm(weight).square()
        found.append(Energy(target.path, float(defect), float(total), target.share))
    return found


def penalty(
    model: nn.Module,
    targets: Sequence[Target] | None = None,
    strength: Strength = 1.0,
    metric: str = "frobenius",
) -> Tensor:
    """*λ Σ_l |R_l|²* with R = W − PW: a scalar in float32 at least, for the loss.

        metric      term            gradient
        frobenius   |R|²            2R
        relative    r = |R|²/|W|²   2(R − rW)/|W|², orthogonal to W; in [0, 1], free of scale
        auto        relative where a normalisation follows, frobenius elsewhere
        lasso       |R|             R/|R|, 0 at 0: the group lasso, which chooses the layers that
                                    break the symmetry (exact zeros by the decay)

    Over the parameters that require a gradient, a shared one once; `strength` may be a mapping from
    paths. One projection a call, none in the backward pass, no graph; a second derivative
    (`create_graph=True`) is right, and costs one more projection. P must be orthogonal. Autocast is
    left inside. |R| is the norm of the difference, never the difference of norms.

    The value is the same on all processes, which all must call. Under FSDP2 the gradients are
    shards: W is gathered where `Projector.cut` does not divide it, and what a forward left gathered
    (the root, in the dtype of its mixed precision) is freed first: before the forward costs least.

    Error: 1e-6 relative in float32, 1e-15 in float64; half-precision weights are read in float32.
    Source: Berndt and Stühmer 2026, eq. 5 (there unsquared: `lasso`).

    Raises:
        ValueError: a negative strength or an unknown metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} was asked for: the metrics are {', '.join(METRICS)}.")
    checked(strength)
    settle(inner(model))
    pairs = live(model, targets_of(model) if targets is None else targets)
    trained = [(t, w) for t, w in pairs if isinstance(w, nn.Parameter) and w.requires_grad]
    if not trained:
        warnings.warn(
            f"Of {len(pairs)} targets none is a parameter that requires a gradient: the penalty "
            "is 0.",
            NoEffectWarning,
            stacklevel=2,
        )
        return pairs[0][1].new_zeros((), dtype=torch.float32) if pairs else torch.zeros(())
    own = [held(t.projector, w) for t, w in trained]
    terms = [
        (projector, strength_at(strength, t.path), _metric(t, metric), norm)
        for (t, _), (projector, _, norm) in zip(trained, own, strict=True)
    ]
    return _Penalty.apply(terms, *[w for _, w, _ in own])  # type: ignore[no-any-return]


def _metric(target: Target, metric: str) -> str:
    if metric == "auto":
        return "relative" if target.scale_free else "frobenius"
    return metric


def _term(
    metric: str, weight: Tensor, rest: Tensor, norm: Norm
) -> tuple[Tensor, Tensor | float, Tensor]:
    """(value, a, D) of one target, from W and −R: its gradient is aD."""
    size = norm(rest)
    if metric == "frobenius":
        return size.square(), -2.0, rest
    if metric == "lasso":
        return size, torch.where(size > 0, -1 / size, 0), rest
    square = norm(weight).square()
    square = torch.where(square > 0, square, torch.inf)
    ratio = size.square() / square
    return ratio, -2 / square, rest + ratio * weight


class _Penalty(torch.autograd.Function):
    """Σ λ · term over `weights`; one node of the graph."""

    @staticmethod
    def forward(ctx: Any, terms: list[Term], *weights: Tensor) -> Tensor:
        """The value; the direction of the gradient is kept."""
        total, kept, ctx.factors = None, [], []
        with torch.autocast(weights[0].device.type, enabled=False):
            for (projector, strength, metric, norm), own in zip(terms, weights, strict=True):
                weight = wide(own)
                rest = projector.project(weight).sub_(weight)  # −R, in place
                value, factor, direction = _term(metric, weight, rest, norm)
                value = strength * value
                total = value if total is None else total + value.to(total.device, total.dtype)
                ctx.factors.append(factor)
                kept.append(direction)
        ctx.terms = terms
        ctx.save_for_backward(*weights, *kept)
        assert total is not None
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """λaD as kept: FSDP2 may have freed W. A second derivative goes through W again."""
        count = len(ctx.terms)
        weights, kept = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        found: list[Tensor | None] = [None]
        each = zip(ctx.terms, ctx.factors, weights, kept, strict=True)
        with torch.autocast(weights[0].device.type, enabled=False):
            for (projector, strength, metric, norm), factor, own, direction in each:
                if torch.is_grad_enabled():
                    weight = wide(own)
                    direction = projector(weight) - weight
                    if metric != "frobenius":
                        _, factor, direction = _term(metric, weight, direction, norm)
                scale = factor * strength * grad.to(own.device, direction.real.dtype)
                found.append((direction * scale).to(own.dtype))
        return tuple(found)
