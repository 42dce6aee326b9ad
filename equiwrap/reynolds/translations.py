"""Translations on dense layers over grids: W[x, y] becomes the mean over all of equal x − y.

Round a periodic grid that is the circulant part, the mean over the group, and in the spectral
domain the diagonal of F W F*. On a window with ends it is the Toeplitz part: an orthogonal
projection, but no mean over a group, for shifts of a window do not form one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from .blocks import check_shape
from .orbits import orbit_mean
from .projector import Projector, wide

__all__ = ["Translations"]

Axis = tuple[int, int]  # (l, j)


@dataclass(frozen=True)
class Translations(Projector):
    """*P on `W[(l x j), (l' y j')]`*, x and y the places of a grid `sides`, (n,) or (h, w).

    `out` = (l, j) and `into` = (l', j') are the channels before and after the places, (1, c) for
    `(h w c)`. `periodic`: the circulant part, which commutes with the shifts of T(2); the spectral
    form is `spectrum`. Else the Toeplitz part (by blocks for images): equivariant where shifts keep
    an object inside the window, a partial symmetry; there is no group to average over.

    Metric: Frobenius's. O(|W|).
    Error: rounding of the dtype; 1e-15 relative in float64.
    """

    sides: tuple[int, ...]
    out: Axis = (1, 1)
    into: Axis = (1, 1)
    periodic: bool = True

    @property
    def rank(self) -> int:
        """The differences x − y, once a pair of channels."""
        one = prod(self.sides) if self.periodic else prod(2 * n - 1 for n in self.sides)
        return one * prod(self.out) * prod(self.into)

    def __call__(self, weight: Tensor) -> Tensor:
        view = self._view(wide(weight))
        places = view.shape[-1]
        label = _differences(self.sides, self.periodic, str(weight.device))
        mean = orbit_mean(view.flatten(-2), label)
        found = mean.unflatten(-1, (places, places)).permute(0, 4, 1, 2, 5, 3)
        return found.reshape(weight.shape).to(weight.dtype)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight.detach().lerp_(self(weight.detach()), t)

    def spectrum(self, weight: Tensor) -> Tensor:
        """*ŵ(u) = (F W F*)[u, u]*: `W → [l, j, l', j', *sides]`, complex; F the unitary transform.

        A wave u of the input comes out multiplied by ŵ(u). PW is F* ŵ F, ‖PW‖ = ‖ŵ‖, and what is
        off the diagonal is F (W − PW) F*. O(|W| log n), where the mean over differences is O(|W|).
        """
        view = self._view(wide(weight))
        shape = (*view.shape[:4], *self.sides, *self.sides)
        d = len(self.sides)
        outer, inner = tuple(range(-2 * d, -d)), tuple(range(-d, 0))
        mixed = torch.fft.fftn(view.reshape(shape), dim=outer, norm="ortho")
        mixed = torch.fft.ifftn(mixed, dim=inner, norm="ortho")
        places = prod(self.sides)
        square = mixed.reshape(*view.shape[:4], places, places)
        return square.diagonal(dim1=-2, dim2=-1).reshape(shape[: 4 + d])

    def _view(self, weight: Tensor) -> Tensor:
        """`[(l x j), (m y i)] → [l, j, m, i, x, y]`."""
        (p, j), (m, i), places = self.out, self.into, prod(self.sides)
        check_shape(weight, p * places * j, m * places * i)
        return weight.reshape(p, places, j, m, places, i).permute(0, 2, 3, 5, 1, 4)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _differences(sides: tuple[int, ...], periodic: bool, device: str) -> Tensor:
    """`label[x, y]`, flat: the number of x − y, modulo the sides where the grid is periodic."""
    at = torch.cartesian_prod(*map(torch.arange, sides)).reshape(-1, len(sides))
    code = torch.zeros(len(at), len(at), dtype=torch.int64)
    for axis, n in enumerate(sides):
        gap = at[:, None, axis] - at[None, :, axis]
        width = n if periodic else 2 * n - 1
        code = code * width + (gap % n if periodic else gap + n - 1)
    return code.flatten().to(device)
