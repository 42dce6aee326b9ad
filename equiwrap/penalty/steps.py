"""What one application of a decay does to a weight, or to what a process has of it; in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..reynolds import Projector
from ..reynolds.projector import wide
from .shards import Norm, act_

__all__ = ["STEPS", "apply_"]

Job = tuple[Projector, Tensor, list[float], float]  # P, W, (Σηλ_G, Σηλ_perp), b


def apply_(kind: str, jobs: Iterable[Job], sharded: bool) -> None:
    """Each job; weights that decay alike in one call, where none is sharded."""
    alike: dict[Any, tuple[Projector, list[float], list[Tensor]]] = {}
    for projector, weight, sums, bound in jobs:
        if sharded:
            act_(projector, weight, STEPS[kind], sums, bound)
        elif kind != "decay":
            STEPS[kind](projector, weight.detach(), sums, bound, torch.linalg.vector_norm)
        else:
            key = (id(projector), *sums, weight.shape, weight.dtype, weight.device)
            alike.setdefault(key, (projector, sums, []))[2].append(weight)
    for projector, sums, weights in alike.values():
        _decay_each(projector, weights, sums)


def _decay_each(projector: Projector, weights: list[Tensor], sums: list[float]) -> None:
    """PW e^{−2Σηλ_G} + R e^{−2Σηλ_perp} of each."""
    common, rest = sums
    if rest != common:
        projector.lerp_each_(weights, -math.expm1(-2 * (rest - common)))
    if common:
        torch._foreach_mul_(weights, math.exp(-2 * common))


def _decay(
    projector: Projector, weight: Tensor, sums: list[float], bound: float, norm: Norm
) -> None:
    _decay_each(projector, [weight], sums)


def _lasso(
    projector: Projector, weight: Tensor, sums: list[float], bound: float, norm: Norm
) -> None:
    """PW + R max(0, 1 − Σηλ/|R|); |R| stays on its device."""
    kept, rest, size = _split(projector, weight, norm)
    weight.copy_(kept + rest * (1 - sums[1] / size).clamp(min=0))


def _ball(
    projector: Projector, weight: Tensor, sums: list[float], bound: float, norm: Norm
) -> None:
    """PW + R min(1, b|PW|/|R|)."""
    kept, rest, size = _split(projector, weight, norm)
    weight.copy_(kept + rest * (bound * norm(kept) / size).clamp(max=1))


def _split(projector: Projector, weight: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """PW, R, |R| in float32 at least; |R| above 0."""
    wider = wide(weight)
    kept = projector.project(wider)
    rest = wider - kept
    size = norm(rest)
    return kept, rest, size.clamp(min=torch.finfo(size.dtype).tiny)


STEPS: dict[str, Callable[[Projector, Tensor, list[float], float, Norm], None]] = {
    "decay": _decay,
    "lasso": _lasso,
    "ball": _ball,
}
