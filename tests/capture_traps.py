"""Small models on which tracing goes wrong: what a forward may do besides arithmetic.

A trap is a model, the arguments of a call by batch size, other calls that take another path, and
what happens to the model after it was captured. `tier` is what its root must become; without one
only its behaviour counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONSTANT = torch.linspace(0.5, 2.0, 4)
LOG: list[str] = []  # what hooks and warnings leave outside of the model


@dataclass(frozen=True)
class Trap:
    """`make()` is called twice: for the model, and for the twin that nobody touches."""

    name: str
    make: Callable[[], nn.Module]
    args: Callable[[int], tuple]
    kwargs: Callable[[int], dict]
    others: Callable[[], list[tuple[tuple, dict]]]
    after: Callable[[nn.Module], object]
    tier: str | None

    def __repr__(self) -> str:
        return self.name


TRAPS: dict[str, Trap] = {}


def rows(b: int) -> tuple[Tensor]:
    """`x[b, 4]`."""
    return (torch.randn(b, 4),)


def images(b: int) -> tuple[Tensor]:
    """`x[b, 3, 6, 6]`."""
    return (torch.randn(b, 3, 6, 6),)


def tokens(b: int) -> tuple[Tensor]:
    """`x[b, 5, 4]`."""
    return (torch.randn(b, 5, 4),)


def trap(tier=None, *, args=rows, kwargs=None, others=None, after=None):
    """Enter a class, or a function that builds a model, into the list."""

    def enter(make):
        TRAPS[make.__name__] = Trap(
            make.__name__,
            make,
            args,
            kwargs or (lambda b: {}),
            others or (lambda: []),
            after or (lambda model: None),
            tier,
        )
        return make

    return enter


class Toy(nn.Module):
    """Two layers a, b on `x[b, 4]`; the trap is what `forward` does between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.setup()

    def setup(self):
        """What a trap holds besides."""

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


graph, seen = trap("graph"), trap()
