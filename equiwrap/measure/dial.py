"""The dial: the least-squares, or least-cross-entropy, weight of what breaks a symmetry."""

from __future__ import annotations

from math import nan, sqrt
from typing import Any

import torch
from torch import Tensor

from .estimate import Estimate, from_error, of_ratio

__all__ = ["logit_dial", "squared_dial"]

REACH = 64.0  # no dial is sought beyond


def squared_dial(num: Tensor, den: Tensor, **facts: Any) -> Estimate:
    """*α = E⟨f_⊥, y − Qf⟩ / E‖f_⊥‖²*, the minimiser of E‖Qf + α f_⊥ − y‖².

    `num[n] = ⟨f_⊥, y − Qf⟩, den[n] = ‖f_⊥‖²`; influence (num_i − α·den_i) / mean(den).
    """
    return of_ratio(num, den, what="dial α*", **facts)


def logit_dial(kept: Tensor, broken: Tensor, labels: Tensor, **facts: Any) -> Estimate:
    """*α = argmin_α E CE(Qf + α f_⊥, y)*: convex in one variable, by Newton inside a bracket.

    `kept[n, k] = Qf, broken[n, k] = f_⊥, labels[n]`. With scores s_i = ⟨p_i − e_y, f_⊥⟩ and
    curvatures h_i = Var_p f_⊥, the standard error is the sandwich sqrt(Σ s²) / Σ h.

    Error: 1e-10 of the root; ±64 where the labels are separable along f_⊥.
    """
    low, high, a = -REACH, REACH, 1.0
    score = curve = torch.zeros_like(labels, dtype=kept.dtype)
    for _ in range(100):
        p = (kept + a * broken).softmax(-1)
        mean = (p * broken).sum(-1)
        score = mean - broken.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        curve = (p * (broken - mean.unsqueeze(-1)).square()).sum(-1)
        slope, bend = float(score.mean()), float(curve.mean())
        low, high = (a, high) if slope < 0 else (low, a)
        step = a - slope / bend if bend > 0 else nan
        step = step if low < step < high else (low + high) / 2
        if abs(step - a) < 1e-10 or high - low < 1e-10:
            break
        a = step
    total = float(curve.sum())
    spread = sqrt(float(score.square().sum())) / total if total > 0 else nan
    return from_error(a if total > 0 else nan, spread, len(labels), what="dial α*", **facts)
