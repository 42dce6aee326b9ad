"""What propagation leaves: a site for every node, and what can be projected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..groups import Elements, Group
from ..signature import Signature
from .hidden import Hidden
from .kinds import Kind, Untyped
from .walk import Node, Walk

__all__ = ["Site", "Typing", "generators"]


@dataclass(frozen=True)
class Site:
    """A node with its type; `kind` is None where it has none, and `why` says why.

    `loose`: an operand keeps height without width, so that the node alone proves nothing (the
    first of the two gates of a coordinate attention).
    """

    at: Node
    operation: str
    kind: Any
    why: Untyped | None
    broken: tuple[Untyped, ...] = ()
    weights: tuple[str, ...] = ()
    inner: bool = False
    inputs: tuple[Any, ...] = ()  # the types of the arguments, as they are nested
    keywords: dict[str, Any] = field(default_factory=dict)
    loose: bool = False

    @property
    def name(self) -> str:
        """The stable name."""
        return self.at.name


@dataclass
class Typing:
    """What propagation found: sites in the order of execution, and what can be projected."""

    group: Group
    signature: Signature
    walk: Walk
    hidden: Hidden
    sites: dict[tuple[str, int, str], Site] = field(default_factory=dict)
    kernels: set[str] = field(default_factory=set)
    whole: dict[str, list[Kind]] = field(default_factory=dict)
    tables: list[tuple[str, Tensor, Kind]] = field(default_factory=list)
    output: Any = None

    @property
    def untyped(self) -> list[Site]:
        """The sites without a type."""
        return [site for site in self.sites.values() if site.why is not None]

    @property
    def misaligned(self) -> list[Site]:
        """The sites that break the symmetry whatever their weights are."""
        return [site for site in self.sites.values() if site.broken]


def generators(group: Group) -> list[Elements]:
    """Elements that generate a finite group; eight samples of another."""
    if group.permutes:
        return list(group.generators())
    if group.order is not None and group.order <= 64:
        g = group.elements()
        listed = range(1, group.order)
        return [tuple(p[i] for p in g) if isinstance(g, tuple) else g[i] for i in listed]
    drawn = group.sample(8, generator=torch.Generator().manual_seed(0))
    return [tuple(p[i] for p in drawn) if isinstance(drawn, tuple) else drawn[i] for i in range(8)]
