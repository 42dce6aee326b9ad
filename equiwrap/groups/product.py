"""Direct products: elements are tuples, one batch of matrices for each factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod

import torch
from torch import Tensor

from ..errors import GroupError
from .base import Device, Elements, Group

__all__ = ["Product"]


@dataclass(frozen=True)
class Product(Group):
    """*G × H × …, acting factor by factor; elements are tuples of the factors' elements.*"""

    factors: tuple[Group, ...]

    def __post_init__(self) -> None:
        if len(self.factors) < 2:
            raise GroupError('A product needs at least two factors, as in "C4 x C2".')

    @property
    def name(self) -> str:
        return " x ".join(f.name for f in self.factors)

    @property
    def dim(self) -> int:
        return sum(f.dim for f in self.factors)

    @property
    def size(self) -> int:
        return sum(f.size for f in self.factors)

    @property
    def compact(self) -> bool:
        return all(f.compact for f in self.factors)

    @property
    def orthogonal(self) -> bool:
        return all(f.orthogonal for f in self.factors)

    @property
    def complex(self) -> bool:
        return any(f.complex for f in self.factors)

    def at(self, sizes: Mapping[str, int]) -> Product:
        """The product of the bound factors."""
        return Product(tuple(f.at(sizes) for f in self.factors))

    @property
    def affine(self) -> bool:
        return any(f.affine for f in self.factors)

    @property
    def order(self) -> int | None:
        orders = [f.order for f in self.factors]
        return None if None in orders else prod(o for o in orders if o is not None)

    @property
    def lattice(self) -> bool:
        return all(f.lattice for f in self.factors)

    @property
    def reflections(self) -> bool:
        return any(f.reflections for f in self.factors)

    def generators(self, device: Device = None) -> Elements:
        """The generators of each factor beside the identities of the others."""
        return self._beside([f.generators(device) for f in self.factors], device)

    def algebra(self, device: Device = None) -> Tensor:
        raise GroupError(
            f"The Lie algebra of {self.name} is taken factor by factor: use "
            "`group.factors[i].algebra()`."
        )

    def _beside(self, parts: list[Elements], device: Device) -> Elements:
        rows = []
        for i, part in enumerate(parts):
            for g in part:
                rows.append(
                    tuple(g if j == i else f.identity(device) for j, f in enumerate(self.factors))
                )
        if not rows:
            rows.append(self.identity(device))
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    def elements(self, device: Device = None) -> Elements:
        """A tuple of `[|G|, m_i, m_i]`, the last factor running fastest."""
        if self.order is None:
            return super().elements(device)
        parts = [f.elements(device) for f in self.factors]
        index = torch.meshgrid(
            *[torch.arange(f.order or 0, device=device) for f in self.factors], indexing="ij"
        )
        return tuple(p[i.flatten()] for p, i in zip(parts, index, strict=True))

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Elements:
        return tuple(f.sample(count, generator=generator, device=device) for f in self.factors)

    def distance(self, g: Elements) -> Tensor:
        return reduce(torch.add, [f.distance(gi) for f, gi in zip(self.factors, g, strict=True)])

    def identity(self, device: Device = None) -> Elements:
        return tuple(f.identity(device) for f in self.factors)

    def compose(self, g: Elements, h: Elements) -> Elements:
        return tuple(f.compose(a, b) for f, a, b in zip(self.factors, g, h, strict=True))

    def inverse(self, g: Elements) -> Elements:
        return tuple(f.inverse(a) for f, a in zip(self.factors, g, strict=True))

    def linear(self, g: Elements) -> Tensor:
        raise GroupError(
            f"An element of {self.name} acts factor by factor: there is no single linear part."
        )
