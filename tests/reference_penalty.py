"""The slow road to penalties and decays: explicit loops over elements, and autograd of them."""

from __future__ import annotations

import math

import torch
from reference_reynolds import mean_over_elements
from torch import nn


def residual(group, weight):
    """*R = W − PW*, P the mean over the elements."""
    return weight - mean_over_elements(group, weight)


def penalty_loop(model, group, paths, strength, metric):
    """λ Σ of the terms, differentiable as often as autograd likes."""
    total = torch.zeros((), dtype=torch.float64)
    for path in paths:
        weight = model.get_parameter(path).double()
        rest = residual(group, weight)
        square = (rest * rest).sum()
        term = {
            "frobenius": square,
            "relative": square / (weight * weight).sum(),
            "lasso": square.sqrt(),
        }[metric]
        total = total + strength * term
    return total


def decayed(group, weight, rate, strength, common=0.0):
    """One step of both decays: *e^{−2ηλ_G} PW + e^{−2ηλ} R*."""
    rest = residual(group, weight)
    kept = weight - rest
    return kept * math.exp(-2 * rate * common) + rest * math.exp(-2 * rate * strength)


def thresholded(group, weight, rate, strength):
    """The minimum of *|V − W|²/2 + ηλ|V − PV|*, found on the ray of R."""
    rest = residual(group, weight)
    size = float(rest.norm())
    scale = max(0.0, 1 - rate * strength / size) if size else 0.0
    return weight - rest + scale * rest


def prior_energy(group, weight, a, b):
    """*min of |A|²/2s_a² + |B|²/2s_b² over A + B = W, A equivariant*: the two priors.

    A is free in the image of P; the normal equations are solved densely.
    """
    size = weight.numel()
    unit = torch.eye(size, dtype=weight.dtype).reshape(size, *weight.shape)
    p = torch.stack([mean_over_elements(group, e).flatten() for e in unit], 1)
    values, vectors = torch.linalg.eigh(p)
    q = vectors[:, values > 0.5]
    w = weight.flatten()
    c = torch.linalg.solve(torch.eye(q.shape[1]).to(w) * (1 / a**2 + 1 / b**2), q.T @ w / b**2)
    rest = w - q @ c
    return float(c @ c / (2 * a**2) + rest @ rest / (2 * b**2))


class Small(nn.Module):
    """Two convolutions, batch normalisation, a mean and a linear layer."""

    def __init__(self, width=6, bias=True):
        super().__init__()
        self.first = nn.Conv2d(2, width, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 5, padding=2, bias=bias)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        h = self.second(self.norm(self.first(x)).relu()).relu()
        return self.head(h.mean((-2, -1)))
