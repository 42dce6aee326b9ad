"""Real images: scikit-learn's digits, or MNIST in their place, with room around to be turned in."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad

from . import mnist

__all__ = ["load", "turned"]


def load(side: int, folder: Path | None = None, channels: int = 3) -> tuple[Tensor, Tensor]:
    """`images[n, channels, side, side]` in [0, 1] with a dark border, and `labels[n]`.

    1797 digits (8 × 8, resized), or the 10 000 of `folder` (28 × 28).
    """
    if folder is None:
        bunch = load_digits()
        images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
        labels, border = torch.tensor(bunch.target), max(side // 8, 1)
    else:
        (images, labels), border = mnist.load(folder), max(side // 16, 1)
    inner = side - 2 * border
    if images.shape[-1] != inner:
        images = interpolate(images, size=(inner, inner), mode="bilinear", antialias=True)
    return pad(images, (border,) * 4).expand(-1, channels, -1, -1).contiguous(), labels


def turned(x: Tensor, degrees: Tensor) -> Tensor:
    """Each image by its own angle, bilinear, dark outside: `x[b, c, h, w], degrees[b]`."""
    a = degrees * (math.pi / 180)
    turn = torch.stack([a.cos(), -a.sin(), 0 * a, a.sin(), a.cos(), 0 * a], 1).reshape(-1, 2, 3)
    grid = affine_grid(turn, list(x.shape), align_corners=False)
    return grid_sample(x, grid, align_corners=False)
