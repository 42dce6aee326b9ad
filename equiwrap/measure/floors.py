"""What no model can beat: the rounding of the dtype, and the interpolation of the action."""

from __future__ import annotations

import torch
from torch import Tensor

from ..grids import disk
from ..groups import Group
from ..signature import TensorType

__all__ = ["dtype_floor", "interpolation_floor"]


def dtype_floor(dtype: torch.dtype) -> float:
    """*4 ε(dtype)*: 5e-7 in float32, 9e-16 in float64, 0 for integers. A smaller relative error
    means nothing.
    """
    return 4 * torch.finfo(dtype).eps if dtype.is_floating_point or dtype.is_complex else 0.0


def interpolation_floor(group: Group, x: Tensor, kind: TensorType) -> float:
    """*max_g mean_x ‖g⁻¹(g x) − x‖ / ‖x‖, on the disk*: what resampling loses on this
    input.

    0 for lattice groups and for inputs without a grid.
    """
    if not kind.grid or group.lattice or not x.numel():
        return 0.0
    g = (
        group.elements(x.device)
        if group.order
        else group.sample(16, generator=_seeded(), device=x.device)
    )
    front = kind.to_front(x).unsqueeze(1)
    there = kind.act(g.unsqueeze(0), front, 2)
    back = kind.act(group.inverse(g).unsqueeze(0), there, 2)
    size = back.shape[-1]
    inside = disk(size, back) if "h" in [a.name for a in kind.inner][-2:] else 1.0
    gap = (back - front) * inside
    size = (front * inside).flatten(2).norm(dim=-1).clamp(min=torch.finfo(front.dtype).tiny)
    return float((gap.flatten(2).norm(dim=-1) / size).mean(0).amax())


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
