"""Slow, obviously right twins of the measured numbers: loops, finite differences, least squares."""

from __future__ import annotations

import numpy as np
import torch


@torch.no_grad()
def spread_loop(f, x, elements, rho_in, rho_out):
    """(MEE², EE², R²) over a finite group, one input and one element at a time."""
    variances, pairs, means = [], [], []
    for one in x:
        there = [f(rho_in(g, one)[None])[0] for g in elements]
        aligned = [rho_out(torch.linalg.inv(g), y) for g, y in zip(elements, there, strict=True)]
        mean = sum(aligned) / len(aligned)
        means.append(mean)
        variances.append(sum(float((a - mean).square().sum()) for a in aligned) / len(aligned))
        plain = f(one[None])[0]
        pairs += [
            float((y - rho_out(g, plain)).square().sum())
            for g, y in zip(elements, there, strict=True)
        ]
    mee = float(np.mean(variances))
    stacked = torch.stack(means).flatten(1)
    between = float((stacked - stacked.mean(0)).square().sum()) / (len(x) - 1)
    return mee, float(np.mean(pairs)), between / (between + mee)


@torch.no_grad()
def difference(f, group, x, rho_in, rho_out, generator, step=1e-4):
    """d/dt at 0 of ρ_out(exp tX) f(x) − f(ρ_in(exp tX) x), by central differences."""
    ends = []
    for t in (step, -step):
        g = torch.linalg.matrix_exp(t * generator)
        ends.append(rho_out(g, f(x)) - f(rho_in(g, x)))
    return (ends[0] - ends[1]) / (2 * step)


@torch.no_grad()
def least_squares_dial(f, average, x, y):
    """argmin over a of Σ‖Qf + a (f − Qf) − y‖², by numpy."""
    broken = (f(x) - average(x)).flatten().numpy()
    rest = (y - average(x)).flatten().numpy()
    return float(np.linalg.lstsq(broken[:, None], rest, rcond=None)[0][0])


def turned_blobs(size, centres, widths, angle):
    """An image of Gaussian blobs about the centre, turned counter-clockwise on the screen."""
    r = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    right, down = r.expand(size, size), r.unsqueeze(-1).expand(size, size)
    c, s = np.cos(angle), np.sin(angle)
    image = torch.zeros(size, size, dtype=torch.float64)
    for (u, v), width in zip(centres, widths, strict=True):
        u, v = c * u + s * v, -s * u + c * v
        image += torch.exp(-((right - u) ** 2 + (down - v) ** 2) / (2 * width**2))
    return image


class Quarters:
    """Controlled breaking: x = (u, v) in R⁴ under C4, y = f_inv + ε f_⊥ + σξ, DEE = ε exactly."""

    def __init__(self, seed, terms=6):
        rng = torch.Generator().manual_seed(seed)
        self.w = torch.randn(2, 4, terms, generator=rng).double() * 0.7
        self.b = torch.rand(2, terms, generator=rng).double() * 6.3
        probe = torch.randn(20000, 4, generator=rng).double()
        self.shift, self.scale = torch.zeros(2).double(), torch.ones(2).double()
        parts = self.parts(probe)
        self.shift = torch.stack([parts[0].mean(), torch.zeros(()).double()])
        self.scale = torch.stack([parts[0].std(), parts[1].square().mean().sqrt()])

    def turn(self, x):
        u = x.unflatten(-1, (2, 2))
        return torch.stack([u[..., 1], -u[..., 0]], -1).flatten(-2)

    def parts(self, x):
        """(f_inv, f_⊥) [n] each, of unit root mean square."""
        orbit = [x]
        for _ in range(3):
            orbit.append(self.turn(orbit[-1]))
        h = [[torch.cos(p @ self.w[i] + self.b[i]).sum(-1) for p in orbit] for i in (0, 1)]
        kept = sum(h[0]) / 4
        broken = h[1][0] - sum(h[1]) / 4
        return (kept - self.shift[0]) / self.scale[0], broken / self.scale[1]

    def draw(self, n, dee, noise, rng):
        x = torch.randn(n, 4, generator=rng).double()
        kept, broken = self.parts(x)
        y = kept + dee * broken + noise * torch.randn(n, generator=rng).double()
        return x, y.unsqueeze(-1)
