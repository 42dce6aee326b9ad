"""Permutations of n rows, S(n), and shifts of a periodic grid, T(2): elements are integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from math import factorial

import torch
from torch import Tensor

from ..errors import GroupError
from .base import Device, Group

__all__ = ["Permutations", "Shifts"]

LISTED = 8  # S(8) has 40320 elements; nothing larger is written out


@dataclass(frozen=True)
class Permutations(Group):
    """*S(n), acting on every axis named n.* Elements are indices `p[..., n]`: *(g x)_i = x_{p_i}*.

    `S(n)` takes n from the input (`at` binds it); `S(5)` fixes it.
    """

    n: int | None = None

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise GroupError(f"S({self.n}) was asked for; it needs at least one row.")

    @property
    def name(self) -> str:
        return f"S({'n' if self.n is None else self.n})"

    @property
    def dim(self) -> int:
        """n, 0 while it is open."""
        return self.n or 0

    @property
    def bound(self) -> int:
        """The number n of rows.

        Raises:
            GroupError: n is still open.
        """
        if self.n is None:
            raise GroupError("S(n) takes n from an input; name it, as in S(5), to list or draw.")
        return self.n

    @property
    def order(self) -> int | None:
        """n!, None where n is open or the list would be too long (n > 8)."""
        return None if self.n is None or self.n > LISTED else factorial(self.n)

    @property
    def orthogonal(self) -> bool:
        return False

    @property
    def permutes(self) -> bool:
        return True

    @property
    def reflections(self) -> bool:
        return False

    def at(self, sizes: Mapping[str, int]) -> Permutations:
        """S(n) with n = sizes["n"]."""
        return self if self.n is not None or "n" not in sizes else replace(self, n=sizes["n"])

    def identity(self, device: Device = None) -> Tensor:
        return torch.arange(self.bound, device=device)

    def generators(self, device: Device = None) -> Tensor:
        """`[2, n]`: the exchange of the first two rows, and the cycle."""
        one = self.identity(device)
        swap = one.clone()
        swap[:2] = swap[:2].flip(0)
        return torch.stack([swap, one.roll(1)])

    def algebra(self, device: Device = None) -> Tensor:
        return torch.zeros(0, self.bound, dtype=torch.long, device=device)

    def elements(self, device: Device = None) -> Tensor:
        """`[n!, n]`, the identity first.

        Raises:
            GroupError: n > 8, or n is open.
        """
        if self.bound > LISTED:
            raise GroupError(
                f"{self.name} has {factorial(self.bound):,} elements, too many to list: use "
                'frame="sorted", "labelled" or "haar".'
            )
        return torch.tensor(list(permutations(range(self.bound))), device=device)

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        """Uniform: the order of independent uniform numbers."""
        at = generator.device if generator is not None else device
        keys = torch.rand(count, self.bound, generator=generator, dtype=torch.float64, device=at)
        return keys.argsort(-1).to(device or at)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        """(g h x)_i = (h x)_{p_i} = x_{q_{p_i}}."""
        lead = torch.broadcast_shapes(g.shape, h.shape)
        return h.expand(lead).gather(-1, g.expand(lead))

    def inverse(self, g: Tensor) -> Tensor:
        return g.argsort(-1)

    def distance(self, g: Tensor) -> Tensor:
        """Number of rows that are missing."""
        every = torch.arange(g.shape[-1], device=g.device)
        return (g.sort(-1).values != every).sum(-1).double()

    def linear(self, g: Tensor) -> Tensor:
        """The permutation matrix: `p[..., n] → [..., n, n]`."""
        return torch.nn.functional.one_hot(g, g.shape[-1]).double()


@dataclass(frozen=True)
class Shifts(Group):
    """*T(2) on a periodic h × w grid.* Elements are `t[..., 2]`: *(g x)[i, j] = x[i − t₀, j − t₁]*.

    The grid's size comes from the input (`at` binds it).
    """

    height: int | None = None
    width: int | None = None

    @property
    def name(self) -> str:
        return "T(2)"

    @property
    def dim(self) -> int:
        return 2

    @property
    def order(self) -> int | None:
        return None if None in (self.height, self.width) else self.sides[0] * self.sides[1]

    @property
    def sides(self) -> tuple[int, int]:
        """(h, w).

        Raises:
            GroupError: they are still open.
        """
        if self.height is None or self.width is None:
            raise GroupError(
                "T(2) takes its grid from an input; bind it: group.at({'h': 8, 'w': 8})."
            )
        return self.height, self.width

    @property
    def orthogonal(self) -> bool:
        return False

    @property
    def permutes(self) -> bool:
        return True

    @property
    def lattice(self) -> bool:
        return True

    @property
    def reflections(self) -> bool:
        return False

    def at(self, sizes: Mapping[str, int]) -> Shifts:
        """T(2) on a grid of sizes["h"] × sizes["w"]."""
        if "h" not in sizes or "w" not in sizes:
            return self
        return replace(self, height=sizes["h"], width=sizes["w"])

    def identity(self, device: Device = None) -> Tensor:
        return torch.zeros(2, dtype=torch.long, device=device)

    def generators(self, device: Device = None) -> Tensor:
        return torch.eye(2, dtype=torch.long, device=device)

    def algebra(self, device: Device = None) -> Tensor:
        return torch.zeros(0, 2, dtype=torch.long, device=device)

    def elements(self, device: Device = None) -> Tensor:
        h, w = self.sides
        return torch.cartesian_prod(torch.arange(h), torch.arange(w)).reshape(-1, 2).to(device)

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Tensor:
        at = generator.device if generator is not None else device
        draw = [torch.randint(s, (count,), generator=generator, device=at) for s in self.sides]
        return torch.stack(draw, -1).to(device or at)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        total = g + h
        return total if self.height is None else total % total.new_tensor(self.sides)

    def inverse(self, g: Tensor) -> Tensor:
        return -g if self.height is None else (-g) % g.new_tensor(self.sides)

    def distance(self, g: Tensor) -> Tensor:
        return torch.zeros(g.shape[:-1], dtype=torch.float64, device=g.device)
