"""From types to projections: for each weight that propagation has typed, the fastest that is exact.

kernels between channels at rest        Kernels      k² × k² per kernel
regular channels on either side         Fields       slices, no table
entries that only change places         Orbits       one label an entry
anything else of a finite group         Averaged     the loop over elements
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..groups import Group
from ..reynolds import Fields, Kernels, Orbits, Projector, Side, orbits_of
from ..reynolds.projector import wide
from .kinds import Axis, Kind, Untyped, free, letter, size_of
from .sites import Typing, generators
from .walk import attribute

__all__ = ["projectors"]


def projectors(model: nn.Module, typing: Typing) -> dict[str, Projector]:
    """`{path: P}` of every weight, table and statistic that propagation has typed.

    Equal projectors are one object, so that weights of a kind are told by it.

    Raises:
        Untyped: a weight is used in two ways that no one projection serves.
    """
    found: dict[str, Projector] = {}
    labelled: dict[str, list[tuple[Tensor, Kind]]] = {}
    for path, labels, kind in typing.tables:
        labelled.setdefault(path, []).append((labels, kind))
    for path in sorted({*typing.kernels, *typing.whole, *labelled}):
        weight = attribute(model, path)
        kinds = list(typing.whole.get(path, ()))
        tables = labelled.get(path, [])
        if path in typing.kernels:
            if not (kinds or tables):
                found[path] = Kernels(typing.group, tuple(weight.shape))
                continue
            kinds.append(_kernel(weight))
        if len(kinds) == 1 and not tables:
            found[path] = _one(typing.group, kinds[0])
        else:
            number = torch.arange(weight.numel()).reshape(weight.shape)
            found[path] = _orbits(typing.group, tables + [(number, kind) for kind in kinds], weight)
    same: dict[Projector, Projector] = {}
    return {path: same.setdefault(projector, projector) for path, projector in found.items()}


def _kernel(weight: Tensor) -> Kind:
    sides = [letter(name, n) for name, n in zip("hw", weight.shape[2:], strict=True)]
    return Kind((free(weight.shape[0]), free(weight.shape[1]), *sides))


def _one(group: Group, kind: Kind) -> Projector:
    """The projection of a whole weight of this type."""
    sides = [_side(axis) for axis in kind.axes[:2]]
    rest = kind.axes[2:]
    plain = all(len(a) == len(a[0]) == 1 and a[0][0].name in ("h", "w") for a in rest)
    if all(sides) and plain and len(rest) in (0, 2):
        out, into = sides if len(sides) == 2 else (sides[0], Side(1, 1, False))
        return Fields(group, out, into, tuple(a[0][0].size for a in rest))  # type: ignore[arg-type]
    atoms = [atom for axis in kind.axes for block in axis for atom in block]
    matched = group.order is not None and any(
        atom.size > group.order for atom in atoms if atom.images
    )
    if matched or any(atom.name == "v" for atom in atoms):
        return Averaged(group, kind)  # matched channels: no label of every entry
    number = torch.arange(int(torch.Size(kind.shape).numel())).reshape(kind.shape)
    return _orbits(group, [(number, kind)], number)


def _side(axis: Axis) -> Side | None:
    """`(l a j)` as the slices want it; None for other axes."""
    if len(axis) > 1:
        return None
    names = [atom.name for atom in axis[0]]
    moved = [atom for atom in axis[0] if atom.name]
    if not moved:
        return Side(size_of(axis[0]), 1, False)
    if names.count("r") != 1 or len(moved) > 1 or len(moved[0].images) != moved[0].size:
        return None
    at = names.index("r")
    return Side(size_of(axis[0][:at]), size_of(axis[0][at + 1 :]))


def _orbits(group: Group, tables: list[tuple[Tensor, Kind]], weight: Tensor) -> Projector:
    """Means over the orbits of the entries; of one row, where the rows of a matrix move alike.

    Raises:
        Untyped: entries are mixed, and not only moved.
    """
    if any(a.name == "v" for _, kind in tables for axis in kind.axes for b in axis for a in b):
        raise Untyped("is used in two ways, one of which mixes components of vectors")
    leading = 1
    if all(_rests_in_front(labels, kind) for labels, kind in tables):
        leading = weight.shape[0]
        tables = [(labels[:1], Kind((free(1), kind.axes[1]))) for labels, kind in tables]
    pairs = []
    for labels, kind in tables:
        labels = labels.expand(kind.shape)
        pairs += [(labels, kind.act(group, g, labels)) for g in generators(group)]
    return _by_rows(orbits_of(weight.numel() // leading, pairs), leading, weight.shape[-1])


def _by_rows(label: Tensor, leading: int, width: int) -> Orbits:
    """One label a row, where the entries of a row move alike (position tables)."""
    rows = label.reshape(-1, width) if width > 1 and len(label) % width == 0 else label[:, None]
    width = rows.shape[1]
    alike = width > 1 and not (rows[:, 0] % width).any()
    if alike and torch.equal(rows, rows[:, :1] + torch.arange(width)):
        return Orbits(rows[:, 0] // width, leading, width)
    return Orbits(label, leading)


def _rests_in_front(labels: Tensor, kind: Kind) -> bool:
    """True for a whole matrix of which only the second axis moves."""
    whole = labels.dim() == 2 and tuple(labels.shape) == kind.shape and len(kind.axes) == 2
    return whole and labels.shape[0] > 1 and not Kind(kind.axes[:1]).moves and _in_order(labels)


def _in_order(labels: Tensor) -> bool:
    rows, columns = labels.shape
    ends = int(labels[0, 0]), int(labels[0, -1]), int(labels[-1, -1])
    return ends == (0, columns - 1, rows * columns - 1) and labels.stride() == (columns, 1)


@dataclass(frozen=True)
class Averaged(Projector):
    """*P W = mean over g of ρ(g) W*, element by element: signs and matrices too."""

    group: Group
    kind: Kind

    @property
    def rank(self) -> int:
        """The mean of the characters over the group."""
        total = 0.0
        for g in self.group.elements():
            total += _character(self.group, self.kind, g)
        return round(total / len(self.group.elements()))

    def __call__(self, weight: Tensor) -> Tensor:
        wider, total = wide(weight), None
        for g in self.group.elements():
            moved = self.kind.act(self.group, g, wider)
            total = moved if total is None else total + moved
        assert total is not None
        return (total / len(self.group.elements())).to(weight.dtype)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight.detach().lerp_(self(weight.detach()), t)


def _character(group: Group, kind: Kind, g: Tensor) -> float:
    """*tr ρ(g)*: the product over the axes, those of a grid taken together."""
    on_grid = [a for a in kind.axes if any(x.name in ("h", "w") for block in a for x in block)]
    alone = [(axis,) for axis in kind.axes if axis not in on_grid]
    found = 1.0
    for axes in [*alone, tuple(on_grid)]:
        sizes = [sum(map(size_of, axis)) for axis in axes]
        total = int(torch.Size(sizes).numel())
        unit = torch.eye(total, dtype=torch.float64).reshape(total, *sizes)
        moved = Kind((free(total), *axes)).act(group, g, unit)
        found *= float(moved.reshape(total, total).trace())
    return found
