"""The Lorentz frame of SO+(1,3), one event at a time, in words of the textbook."""

from __future__ import annotations

import torch
from torch import Tensor


def rest_loop(x: Tensor) -> Tensor:
    """`x[b, n, 4] → g[b, 4, 4]` for generic events with a time-like total."""
    return torch.stack([_one(event) for event in x])


def _one(event: Tensor) -> Tensor:
    total = event.sum(0)
    mass = (total[0] ** 2 - total[1:] @ total[1:]).sqrt()
    gamma = float(total[0] / mass)
    beta = total[1:] / total[0]
    boost = torch.zeros(4, 4, dtype=event.dtype)
    boost[0, 0] = gamma
    for i in range(3):
        boost[0, i + 1] = boost[i + 1, 0] = gamma * beta[i]
        for j in range(3):
            boost[i + 1, j + 1] = float(i == j) + (gamma - 1) * beta[i] * beta[j] / (beta @ beta)
    back = torch.linalg.inv(boost)
    momenta = [(back @ p)[1:] for p in event]
    longest = max(momenta, key=lambda p: float(p.norm()))
    first = longest / longest.norm()
    across = [p - (p @ first) * first for p in momenta]
    second = max(across, key=lambda p: float(p.norm()))
    second = second / second.norm()
    turn = torch.eye(4, dtype=event.dtype)
    turn[1:, 1], turn[1:, 2] = first, second
    turn[1:, 3] = torch.linalg.cross(first, second)
    return boost @ turn
