"""The symmetries of the cube: O, its 24 rotations, and O_h, with the 24 reflections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import torch
from torch import Tensor

from .base import Device, Group, working_dtype
from .planar import choose_element, nearest

__all__ = ["Octahedral"]


@dataclass(frozen=True)
class Octahedral(Group):
    """*O_h: the 48 signed permutation matrices of R³; O: the 24 with determinant 1.*

    On a voxel grid d h w: x along w to the right, y along h down, z along d. Exact on every cube.
    """

    special: bool = False

    @property
    def name(self) -> str:
        return "O" if self.special else "O_h"

    @property
    def dim(self) -> int:
        return 3

    @property
    def order(self) -> int:
        return 24 if self.special else 48

    @property
    def lattice(self) -> bool:
        return True

    @property
    def reflections(self) -> bool:
        return not self.special

    def generators(self, device: Device = None) -> Tensor:
        """Quarter turns about z and x, and for O_h the inversion."""
        turns = [
            [[0.0, -1, 0], [1, 0, 0], [0, 0, 1]],
            [[1.0, 0, 0], [0, 0, -1], [0, 1, 0]],
            [[-1.0, 0, 0], [0, -1, 0], [0, 0, -1]],
        ]
        given = torch.tensor(turns, dtype=working_dtype(device), device=device)
        return given[: 2 if self.special else 3]

    def elements(self, device: Device = None) -> Tensor:
        """`[24 or 48, 3, 3]`: the identity first, the rotations before the others."""
        return _cube(str(device or "cpu"))[: self.order]

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        return choose_element(self.elements(device), count, generator)

    def distance(self, g: Tensor) -> Tensor:
        return nearest(self.elements(g.device), g)


@lru_cache(maxsize=16)
def _cube(device: str) -> Tensor:
    found = []
    for order in permutations(range(3)):
        for sign in product((1.0, -1.0), repeat=3):
            found.append(torch.eye(3, dtype=torch.float64)[list(order)] * torch.tensor(sign))
    found.sort(key=lambda g: (float(torch.linalg.det(g)) < 0, float(-g.trace())))
    return torch.stack(found).to(device=device, dtype=working_dtype(device))
