"""What one application of a decay does to one weight, in place."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..reynolds.projector import wide
from .targets import Target

__all__ = ["STEPS"]


def _decay(target: Target, weight: Tensor, sums: list[float], bound: float) -> None:
    """PW e^{−2Σηλ_G} + R e^{−2Σηλ_perp}."""
    common, rest = sums
    if rest != common:
        target.projector.lerp_(weight, -math.expm1(-2 * (rest - common)))
    if common:
        weight.mul_(math.exp(-2 * common))


def _lasso(target: Target, weight: Tensor, sums: list[float], bound: float) -> None:
    """PW + R max(0, 1 − Σηλ/|R|); |R| stays on its device."""
    kept, rest, size = _split(target, weight)
    weight.copy_(kept + rest * (1 - sums[1] / size).clamp(min=0))


def _ball(target: Target, weight: Tensor, sums: list[float], bound: float) -> None:
    """PW + R min(1, b|PW|/|R|)."""
    kept, rest, size = _split(target, weight)
    weight.copy_(kept + rest * (bound * torch.linalg.vector_norm(kept) / size).clamp(max=1))


def _split(target: Target, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """PW, R, |R| in float32 at least; |R| above 0."""
    wider = wide(weight)
    kept = target.projector(wider)
    rest = wider - kept
    size = torch.linalg.vector_norm(rest)
    return kept, rest, size.clamp(min=torch.finfo(size.dtype).tiny)


STEPS: dict[str, Callable[[Target, Tensor, list[float], float], None]] = {
    "decay": _decay,
    "lasso": _lasso,
    "ball": _ball,
}
