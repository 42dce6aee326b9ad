"""Slow, obviously right twins of the fast paths: one sample, one element at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def turn(x: Tensor, k: int, flipped: bool) -> Tensor:
    """The k-th element of C4, after the left-right flip if asked, by torch's own operations."""
    x = x.flip(-1) if flipped else x
    return x.rot90(k, (-2, -1))


def turn_back(x: Tensor, k: int, flipped: bool) -> Tensor:
    """Its inverse."""
    x = x.rot90(-k, (-2, -1))
    return x.flip(-1) if flipped else x


def elements_of(name: str) -> list[tuple[int, bool]]:
    """(quarter turns, flipped) for each element, in the order of `group.elements()`."""
    n = int(name[1:])
    turns = [k * 4 // n for k in range(n)]
    flips = [False, True] if name[0] == "D" else [False]
    return [(k, flipped) for flipped in flips for k in turns]


def average_images(f, x: Tensor, name: str, *, image_out: bool) -> Tensor:
    """The group average of f over C_n or D_n, a loop over samples and elements."""
    rows = []
    for sample in x:
        total = 0
        for k, flipped in elements_of(name):
            y = f(turn_back(sample, k, flipped)[None])[0]
            total = total + (turn(y, k, flipped) if image_out else y)
        rows.append(total / len(elements_of(name)))
    return torch.stack(rows)


def average_matrices(f, x: Tensor, group, rho_out) -> Tensor:
    """The group average over a finite matrix group acting on the rows of x[b, n, d]."""
    g = group.elements().to(x.dtype)
    return torch.stack([rho_out(h, f(x @ h)) for h in g]).mean(0)  # x @ h = h⁻¹ on every row


def relative(a: Tensor, b: Tensor) -> float:
    """max |a − b| / max |b|."""
    return float(((a - b).abs().amax() / b.abs().amax()).detach())


class Dense(torch.nn.Module):
    """A dense tanh network on the flattened cloud: no symmetry at all."""

    def __init__(self, n: int, d: int, out: tuple[int, ...], dtype=torch.float64, width: int = 32):
        super().__init__()
        self.out = out
        size = int(torch.tensor(out).prod()) if out else 1
        self.body = torch.nn.Sequential(
            torch.nn.Linear(n * d, width), torch.nn.Tanh(), torch.nn.Linear(width, size)
        ).to(dtype)

    def forward(self, x):
        return self.body(x.flatten(1)).reshape(len(x), *self.out)


class Sets(torch.nn.Module):
    """Equivariant under permutations of the rows, and under nothing else."""

    def __init__(self, d: int, out: int, pooled: bool, dtype=torch.float64, width: int = 32):
        super().__init__()
        self.pooled = pooled
        self.one = torch.nn.Linear(d, width, dtype=dtype)
        self.two = torch.nn.Linear(2 * width, out, dtype=dtype)

    def forward(self, x):
        h = torch.tanh(self.one(x))
        h = torch.cat([h, h.mean(1, keepdim=True).expand_as(h)], -1)
        y = self.two(h)
        return y.mean(1) if self.pooled else y


class Convs(torch.nn.Module):
    """A small convolutional network without symmetry; an image out, or logits."""

    def __init__(self, channels: int = 3, out: int = 4, pooled: bool = False, dtype=torch.float64):
        super().__init__()
        self.pooled = pooled
        self.one = torch.nn.Conv2d(channels, 8, 3, padding=1, dtype=dtype)
        self.two = torch.nn.Conv2d(8, out, 3, padding=1, dtype=dtype)

    def forward(self, x):
        y = self.two(torch.tanh(self.one(x)))
        ramp = torch.linspace(-1, 1, y.shape[-1], dtype=y.dtype, device=y.device)
        return (y * ramp).mean((-2, -1)) if self.pooled else y


def sort_loop(x: Tensor) -> list[list[int]]:
    """Rows of each set x[b, n, c] in the order of two keys, one set and one row at a time."""
    from equiwrap.frames.sorting import weight

    found = []
    for rows in x.double().tolist():
        keys = []
        for row in rows:
            keys.append(tuple(sum(v * weight(s, j) for j, v in enumerate(row)) for s in (0, 1)))
        found.append(sorted(range(len(rows)), key=keys.__getitem__))
    return found
