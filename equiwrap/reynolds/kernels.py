"""Convolution kernels between channels on which nothing happens: means over the turned kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import GroupError
from ..grids import act_on_grid, axes_of
from ..groups import Group
from .projector import Projector, wide

__all__ = ["Kernels", "kernel_matrix", "project_kernel"]

CHUNK = 9 << 12  # entries at a time, so that they stay in the cache; 8 times those for sums
FEW = 9  # pixels, up to which two kernels at a time take half the time of one on a CPU
MANY = 128  # pixels, beyond which sums over orbits take half the time of M on a CPU


def kernel_matrix(group: Group, sides: tuple[int, ...], like: Tensor) -> Tensor:
    """*M[i, j] = 1/|G| · #{g : g j = i}* on the pixels of a kernel: symmetric, M² = M.

    `sides` of a kernel k × k (k × k × k for voxels) → `M[pixels, pixels]`. Odd and even sides; the
    centre is at (k − 1)/2.

    Raises:
        GroupError: the group does not act on the lattice.
    """
    if not group.lattice or len(axes_of(group)) != len(sides):
        raise GroupError(
            f"{group} does not map the pixels of a kernel to pixels: kernels are projected under "
            "C2, C4, D2, D4 (O and O_h for voxels)."
        )
    pixels = int(torch.Size(sides).numel())
    unit = torch.eye(pixels, dtype=like.dtype, device=like.device).reshape(pixels, *sides)
    g = group.elements(like.device)
    moved = act_on_grid(group, g.unsqueeze(1), unit.expand(len(g), *unit.shape))
    return moved.mean(0).flatten(1)


def project_kernel(group: Group, weight: Tensor) -> Tensor:
    """*PW = mean over g of g·W*: `W[o, i, *sides] → [o, i, *sides]`, channels rest.

    The orthogonal projection onto the kernels that every element leaves as they are; with it a
    convolution whose sampling is centred is equivariant. Also for grouped, depthwise and transposed
    kernels. O(|W| k²).

    Error: rounding of the dtype; 2e-16 relative in float64.
    Source: Berndt and Stühmer 2026, §3 (trivial representations on channels).

    Raises:
        GroupError: the group does not act on the lattice of the kernel.
        SignatureError: the group exchanges the axes of a kernel that is not square.
    """
    sides = tuple(weight.shape[2:])
    matrix = kernel_matrix(group, sides, weight)
    return (weight.flatten(2) @ matrix).reshape(weight.shape)


@dataclass(frozen=True)
class Kernels(Projector):
    """*`project_kernel` of weights `[o, i, *sides]`*: channels rest, kernels turn."""

    group: Group
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Orbits of pixels, once a pair of channels."""
        one = _matrix(self.group, self.shape[2:], torch.float64, "cpu").trace()
        return round(float(one)) * self.shape[0] * self.shape[1]

    def __call__(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            wider = wide(weight)
            if torch.compiler.is_compiling():  # without a cache to trace into
                return project_kernel(self.group, wider).to(weight.dtype)
            kept = self._kept(wider.flatten(2).flatten(0, 1))
            return kept.reshape(weight.shape).to(weight.dtype)

    def lerp_(self, weight: Tensor, t: float) -> None:
        with torch.autocast(weight.device.type, enabled=False):
            self._lerp_(weight, t)

    def cut(self, dim: int, sizes: Sequence[int]) -> Sequence[Projector] | None:
        """Each pair of channels is alone."""
        if dim > 1:
            return None
        before, after = self.shape[:dim], self.shape[dim + 1 :]
        return [replace(self, shape=(*before, size, *after)) for size in sizes]

    def _lerp_(self, weight: Tensor, t: float) -> None:
        flat = weight.detach().flatten(2).flatten(0, 1)
        pixels = flat.shape[1]
        rows = CHUNK * (8 if pixels > MANY else 1) // pixels
        for part in flat.split(max(2, rows - rows % 2)):
            wider = wide(part)
            # the rounded matrix 1 + t(M − 1) would scale PW at every small step: hence lerp_
            kept = self._kept(wider)
            part.copy_(kept if t == 1 else wider.lerp_(kept, t))
        if flat.data_ptr() != weight.data_ptr():  # weights in another memory format
            weight.detach().copy_(flat.reshape(weight.shape))

    def _kept(self, flat: Tensor) -> Tensor:
        """*MW*, `flat[n, pixels]`."""
        (count, pixels), sides = flat.shape, self.shape[2:]
        if flat.is_cpu and pixels > MANY:
            return _means(flat, *_orbits(self.group, sides, flat.dtype))
        if flat.is_cpu and pixels <= FEW and count % 2 == 0:
            pair = _matrix(self.group, sides, flat.dtype, "cpu", 2)
            return (flat.reshape(-1, 2 * pixels) @ pair).reshape(flat.shape)
        return flat @ _matrix(self.group, sides, flat.dtype, str(flat.device))


@lru_cache(maxsize=64)
def _matrix(
    group: Group, sides: tuple[int, ...], dtype: torch.dtype, device: str, kernels: int = 1
) -> Tensor:
    """M on rows of so many kernels."""
    with torch.inference_mode(False):  # what is cached may meet autograd later
        one = kernel_matrix(group, sides, torch.empty(0, dtype=dtype, device=device))
        return torch.block_diag(*[one] * kernels)


@lru_cache(maxsize=64)
def _orbits(group: Group, sides: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Number of the orbit of each pixel, one over the size of each orbit."""
    with torch.inference_mode(False):
        first = _matrix(group, sides, torch.float64, "cpu").ne(0).double().argmax(1)
        label = first.unique(return_inverse=True)[1]
        return label, 1 / label.bincount().to(dtype)


def _means(kernels: Tensor, label: Tensor, share: Tensor) -> Tensor:
    """*MW*, `kernels[n, pixels]`: sums over orbits, spread."""
    sums = kernels.new_zeros(len(kernels), len(share)).index_add_(1, label, kernels)
    return sums.mul_(share).index_select(1, label)
