"""The type of a value inside a network: which axes the group moves, and how.

A `Kind` is a tuple of axes; an axis is a direct sum of blocks (prefix tokens ⊕ grid tokens); a
block is a product of atoms (the token axis of a vision transformer is h × w, a window partition
splits h into two). Atoms named h and w are flipped and exchanged by the planar lattice groups, n is
permuted, v carries the defining representation, b counts the samples, every other atom is left
alone.

    act(g, x):  unflatten every axis into its atoms, move them, flatten again
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..grids import act_on_grid
from ..groups import Elements, Group, Product, Shifts
from ..reynolds import images_of
from ..signature import TensorType
from .atoms import BATCH, Atom, Axis, Block, Untyped, free, letter, name_of, size_of, sizes_of
from .moves import channels, number_of, permute, pixels, signed, vectors

__all__ = [
    "BATCH",
    "Atom",
    "Axis",
    "Block",
    "Kind",
    "Untyped",
    "free",
    "letter",
    "phases",
    "size_of",
]


@dataclass(frozen=True)
class Kind:
    """*ρ as a product over axes*; prints as `b c h w`, `b (1 + h w) c`."""

    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, kind: TensorType, shape: Sequence[int]) -> Kind:
        """The kind of a tensor of a signature.

        Raises:
            Untyped: the type moves more than pixels, rows and vectors.
        """
        if isinstance(kind.group, Product) and kind.moves:
            raise Untyped(f"moves under {kind.group}, and a product is not followed")
        plain = sum(axis.name != "..." for axis in kind.axes)
        axes: list[Axis] = []
        sizes = list(shape)
        for axis in kind.axes:
            if axis.name == "...":
                axes += [letter(BATCH, sizes.pop(0)) for _ in range(len(shape) - plain)]
            else:
                axes.append(_written(axis.terms, sizes.pop(0), kind.group))
        return cls(tuple(axes))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes on the example."""
        return tuple(sum(size_of(block) for block in axis) for axis in self.axes)

    @property
    def batch(self) -> int | None:
        """The axis that counts the samples; None without one."""
        return next((i for i, a in enumerate(self.axes) if a[0][0].name == BATCH), None)

    @property
    def moves(self) -> bool:
        """True where some element changes the value."""
        return any(atom.moved for axis in self.axes for block in axis for atom in block)

    def __str__(self) -> str:
        return " ".join(name_of(axis) for axis in self.axes)

    def part(self, x: Tensor, i: int, k: int) -> Tensor:
        """Part i of k equal parts of a folded batch.

        Raises:
            Untyped: the value has no batch axis, or one that does not fold.
        """
        at, place, sizes = self.folds(x)
        each = sizes[place] // k
        cut = x.unflatten(at, sizes).narrow(at + place, i * each, each)
        return cut.flatten(at, at + len(sizes) - 1)

    def folds(self, x: Tensor) -> tuple[int, int, list[int]]:
        """The axis that holds the samples, their place among its atoms, and all sizes there.

        Raises:
            Untyped: the value has no batch axis.
        """
        for at, axis in enumerate(self.axes):
            place = next((j for j, a in enumerate(axis[0]) if a.name == BATCH), None)
            if place is not None and len(axis) == 1:
                return at, place, sizes_of(axis[0], x.shape[at])
        raise Untyped("has no batch axis")

    def plain_grid(self) -> tuple[int, int] | None:
        """The axes of height and width, where each is whole, unshifted and alone."""
        places = {}
        for i, axis in enumerate(self.axes):
            for atom in (a for block in axis for a in block if a.moved and a.name not in "rv"):
                if len(axis) > 1 or len(axis[0]) > 1 or atom.name in places or not atom.centred:
                    return None
                places[atom.name] = i
        return (places["h"], places["w"]) if set(places) == {"h", "w"} else None

    def act(self, group: Group, g: Elements, x: Tensor) -> Tensor:
        """*ρ(g) x* for one element: exact on the lattice, interpolated on a plain grid off it.

        Raises:
            Untyped: the value has no plain grid that an element off the lattice could turn.
        """
        return self.mover(group, g)(x)

    def mover(self, group: Group, g: Elements) -> Callable[[Tensor], Tensor]:
        """`act` of one element, what depends on the element alone settled: it compiles.

        Raises:
            Untyped: the element is no symmetry of the square.
        """
        if not self.moves:
            return lambda x: x
        if isinstance(group, Shifts):
            return lambda x: self._interpolated(group, g, x)
        if group.permutes:
            return lambda x: self._blocks(x, lambda t, atoms: permute(t, atoms, g))
        names = {a.name for axis in self.axes for block in axis for a in block if a.moved}
        steps: list[Callable[[Tensor, list[Atom]], Tensor]] = []
        if names & {"h", "w"}:
            if not group.lattice:
                return lambda x: self._interpolated(group, g, x)
            swap, flips = signed(group, g)
            steps.append(lambda t, atoms: pixels(t, atoms, swap, flips))
        if "v" in names:
            steps.append(lambda t, atoms: vectors(t, atoms, group, g))
        if "r" in names:
            k = number_of(group, g)
            steps.append(lambda t, atoms: channels(t, atoms, k))
        if not steps:
            return lambda x: x  # rows under a group that does not permute them

        def move(t: Tensor, atoms: list[Atom]) -> Tensor:
            for step in steps:
                t = step(t, atoms)
            return t

        return lambda x: self._blocks(x, move)

    def _interpolated(self, group: Group, g: Elements, x: Tensor) -> Tensor:
        order = self.plain_grid()
        if order is None:
            raise Untyped("is no plain grid, which rotations off the lattice need")
        front = x.movedim(order, (-2, -1))
        return act_on_grid(group, g, front.unsqueeze(0)).squeeze(0).movedim((-2, -1), order)  # type: ignore[arg-type]

    def _blocks(self, x: Tensor, move: Any, axis: int = 0) -> Tensor:
        """Apply `move` to every combination of blocks."""
        if axis == len(self.axes):
            atoms = [atom for ax in self.axes for atom in ax[0]]
            sizes = [sizes_of(ax[0], n) for ax, n in zip(self.axes, x.shape, strict=True)]
            flat = x.reshape([s for part in sizes for s in part])
            return move(flat, atoms).reshape(x.shape)
        if len(self.axes[axis]) == 1:
            return self._blocks(x, move, axis + 1)
        parts = x.split([size_of(block) for block in self.axes[axis]], axis)
        done = [
            self._with(axis, (block,))._blocks(part, move, axis + 1)
            for block, part in zip(self.axes[axis], parts, strict=True)
        ]
        return torch.cat(done, axis)

    def _with(self, at: int, axis: Axis) -> Kind:
        return Kind((*self.axes[:at], axis, *self.axes[at + 1 :]))


def _written(terms: Any, size: int, group: Group) -> Axis:
    """An axis of a signature: a sum of products of letters, the one unknown size solved for.

    Raises:
        Untyped: a letter cannot be followed, or the sizes do not follow from the axis.
    """
    if terms == (("h", "w"),):
        side = math.isqrt(size)
        return ((*letter("h", side)[0], *letter("w", side)[0]),)
    lengths = {"v": group.dim} | ({"r": group.order} if group.order else {})
    known = [[int(n) if n.isdigit() else lengths.get(n) for n in term] for term in terms]
    if len(terms) == 1 and known[0].count(None) <= 1:
        rest = math.prod(n for n in known[0] if n)
        known = [[size // max(rest, 1) if n is None else n for n in known[0]]]
    if any(n is None for term in known for n in term):
        raise Untyped("a sum of unknown sizes on one axis is not followed through a network")
    return tuple(
        tuple(atom for n, s in zip(term, part, strict=True) for atom in _atoms(n, s or 1, group))
        for term, part in zip(terms, known, strict=True)
    )


def _atoms(name: str, size: int, group: Group) -> Block:
    if name == "r" and group.order == size:
        return (Atom("r", size, images=images_of(group)),)
    return letter(name, size)[0]


def phases(kind: Kind) -> list[tuple[int, int]]:
    """(step, start) of each axis of which only some pixels were kept."""
    moved = [a for axis in kind.axes for block in axis for a in block if a.moved]
    return [a.was for a in moved if a.was]  # type: ignore[misc]
