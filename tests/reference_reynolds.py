"""The slow road to every projection: the mean over elements, one after the other."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from equiwrap.groups import Group


def mean_over_elements(group: Group, weight: Tensor) -> Tensor:
    """*PW = 1/|G| Σ_g g·W*, each pixel (or voxel) sent to its place by the matrix of g."""
    elements = group.elements().to(weight)
    total = torch.zeros_like(weight)
    for matrix in elements:
        total += turned(matrix, weight)
    return total / len(elements)


def turned(matrix: Tensor, weight: Tensor) -> Tensor:
    """*(g·W)(x) = W(g⁻¹x)* on the last d axes; pixels in the frame of the house: x right, y up.

    The first axis of an image runs down: index i of [h, w] is position (j − c, c − i).
    """
    d = len(matrix)
    sides = weight.shape[-d:]
    centre = (sides[0] - 1) / 2
    moved = torch.empty_like(weight)
    for index in itertools.product(*map(range, sides)):
        point = matrix @ _position(index, centre).to(matrix)
        moved[(..., *_index(point, centre))] = weight[(..., *index)]
    return moved


def _position(index: tuple[int, ...], centre: float) -> Tensor:
    if len(index) == 2:
        return torch.tensor([index[1] - centre, centre - index[0]])
    return torch.tensor([index[2] - centre, centre - index[1], centre - index[0]])


def _index(point: Tensor, centre: float) -> tuple[int, ...]:
    p = [float(v) for v in point]
    if len(p) == 2:
        return round(centre - p[1]), round(p[0] + centre)
    return round(centre - p[2]), round(centre - p[1]), round(p[0] + centre)


def fixed_kernels(group: Group, sides: tuple[int, ...]) -> int:
    """*dim E = 1/|G| Σ_g #{pixels that g leaves}*: the character of the permutation of pixels."""
    count = 0
    unit = torch.arange(1.0, 1 + torch.Size(sides).numel(), dtype=torch.float64).reshape(sides)
    for matrix in group.elements().double():
        count += int((turned(matrix, unit) == unit).sum())
    return count // group.order
