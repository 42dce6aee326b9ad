"""The type of a value inside a network: which axes the group moves, and how.

A `Kind` is a tuple of axes; an axis is a direct sum of blocks (prefix tokens ⊕ grid tokens); a
block is a product of atoms (the token axis of a vision transformer is h × w, a window partition
splits h into two). Atoms named h and w are flipped and exchanged by the planar lattice groups, n is
permuted, v carries the defining representation, b counts the samples, every other atom is left
alone.

    act(g, x):  unflatten every axis into its atoms, move them, flatten again
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..grids import act_on_grid
from ..groups import Elements, Group
from ..signature import TensorType

__all__ = ["Atom", "Axis", "Block", "Kind", "Untyped", "free", "merge", "regroup", "size_of"]

MOVED = ("h", "w", "n", "v")
BATCH = "b"


class Untyped(Exception):
    """No type can be given, with the reason; `fix` says what helps, `kind` which family it is."""

    def __init__(self, reason: str, fix: str = "", kind: str = "other") -> None:
        super().__init__(reason)
        self.reason, self.fix, self.kind = reason, fix, kind


@dataclass(frozen=True)
class Atom:
    """`size` entries; a flip of a grid atom sends entry i to (turn − i) mod size."""

    name: str
    size: int
    turn: int = -1

    @property
    def centred(self) -> bool:
        """True where a flip reverses the atom as it stands."""
        return self.turn == self.size - 1

    @property
    def moved(self) -> bool:
        """True where the group acts on it."""
        return self.name in MOVED and self.size > 1


Block = tuple[Atom, ...]
Axis = tuple[Block, ...]


def free(size: int) -> Axis:
    """An axis on which nothing happens."""
    return ((Atom("", size),),)


def size_of(block: Block) -> int:
    """The number of entries of a block."""
    return math.prod(atom.size for atom in block)


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
    def moves(self) -> bool:
        """True where some element changes the value."""
        return any(atom.moved for axis in self.axes for block in axis for atom in block)

    def __str__(self) -> str:
        return " ".join(_name(axis) for axis in self.axes)

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
                return at, place, _sizes(axis[0], x.shape[at])
        raise Untyped("has no batch axis")

    def plain_grid(self) -> tuple[int, int] | None:
        """The axes of height and width, where each is whole, unshifted and alone."""
        places = {}
        for i, axis in enumerate(self.axes):
            for atom in (atom for block in axis for atom in block if atom.moved):
                if len(axis) > 1 or len(axis[0]) > 1 or atom.name in places or not atom.centred:
                    return None
                places[atom.name] = i
        return (places["h"], places["w"]) if set(places) == {"h", "w"} else None

    def act(self, group: Group, g: Elements, x: Tensor) -> Tensor:
        """*ρ(g) x* for one element: exact on the lattice, interpolated on a plain grid off it.

        Raises:
            Untyped: the value has no plain grid that an element off the lattice could turn.
        """
        if not self.moves:
            return x
        if group.permutes:
            return self._blocks(x, lambda t, atoms: _permute(t, atoms, g))
        if any(a.name == "v" for axis in self.axes for b in axis for a in b):
            return self._blocks(x, lambda t, atoms: _vectors(t, atoms, group, g))
        if group.lattice:
            swap, flips = _signed(group, g)
            return self._blocks(x, lambda t, atoms: _pixels(t, atoms, swap, flips))
        return self._interpolated(group, g, x)

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
            sizes = [_sizes(ax[0], n) for ax, n in zip(self.axes, x.shape, strict=True)]
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
    lengths = {"v": group.dim}
    known = [[int(n) if n.isdigit() else lengths.get(n) for n in term] for term in terms]
    if len(terms) == 1 and known[0].count(None) <= 1:
        rest = math.prod(n for n in known[0] if n)
        known = [[size // max(rest, 1) if n is None else n for n in known[0]]]
    if any(n is None for term in known for n in term):
        raise Untyped("a sum of unknown sizes on one axis is not followed through a network")
    return tuple(
        tuple(atom for n, s in zip(term, part, strict=True) for atom in letter(n, s or 1)[0])
        for term, part in zip(terms, known, strict=True)
    )


def letter(name: str, size: int) -> Axis:
    """The axis of a letter of a signature.

    Raises:
        Untyped: the letter is moved in a way that is not followed through a network.
    """
    if name in ("h", "w"):
        return ((Atom(name, size, size - 1),),)
    if name in ("n", "v", BATCH):
        return ((Atom(name, size),),)
    if name in ("p", "a", "r", "d"):
        raise Untyped(f"the letter {name} is not followed through a network")
    return free(size)


def _name(axis: Axis) -> str:
    parts = []
    for block in axis:
        names = [a.name or ("1" if a.size == 1 else "c") for a in block]
        parts.append(" ".join(names))
    text = " + ".join(parts)
    return f"({text})" if " " in text else text


def _sizes(block: Block, total: int) -> list[int]:
    """Sizes on this very tensor: a batch other than the example's changes the first free atom."""
    sizes = [atom.size for atom in block]
    if math.prod(sizes) != total:
        at = next((i for i, a in enumerate(block) if a.name == BATCH), None)
        rest = math.prod(sizes) // max(sizes[at], 1) if at is not None else 0
        if at is None or not rest or total % rest:
            raise Untyped(f"has {total} entries where the example had {math.prod(sizes)}")
        sizes[at] = total // rest
    return sizes


# -- moves -----------------------------------------------------------------------------------------


def _signed(group: Group, g: Elements) -> tuple[bool, tuple[bool, bool]]:
    """(exchange h and w?, flip h?, flip w?): what an element does to an image, in this order."""
    return _signed_entries(group, tuple(g.round().int().flatten().tolist()))  # type: ignore[union-attr]


@functools.lru_cache(maxsize=256)
def _signed_entries(group: Group, entries: tuple[int, ...]) -> tuple[bool, tuple[bool, bool]]:
    probe = torch.arange(4.0).reshape(1, 2, 2)
    moved = act_on_grid(group, torch.tensor(entries, dtype=torch.float32).reshape(2, 2), probe)[0]
    for swap, fh, fw in itertools.product((False, True), repeat=3):
        image = probe[0].T if swap else probe[0]
        dims = [d for d, f in ((0, fh), (1, fw)) if f]
        if torch.equal(image.flip(dims), moved):
            return swap, (fh, fw)
    raise Untyped("is moved by an element that is no symmetry of the square")


def _pixels(x: Tensor, atoms: Sequence[Atom], swap: bool, flips: tuple[bool, bool]) -> Tensor:
    h = [i for i, a in enumerate(atoms) if a.name == "h"]
    w = [i for i, a in enumerate(atoms) if a.name == "w"]
    if swap:
        if len(h) != len(w) or any(
            replace(atoms[i], name="w") != atoms[j] for i, j in zip(h, w, strict=True)
        ):
            raise Untyped("keeps height and width apart, which the group exchanges")
        order = list(range(x.dim()))
        for i, j in zip(h, w, strict=True):
            order[i], order[j] = j, i
        x = x.permute(order)
    flipped = [*(h if flips[0] else ()), *(w if flips[1] else ())]
    x = x.flip(flipped) if flipped else x
    for i in flipped:  # flip sends i to size − 1 − i; the turn adds the rest
        shift = (atoms[i].turn + 1) % atoms[i].size
        x = x.roll(shift, i) if shift else x
    return x


def _permute(x: Tensor, atoms: Sequence[Atom], g: Any) -> Tensor:
    index = g.reshape(-1)
    for i, atom in enumerate(atoms):
        if atom.name == "n":
            x = x.index_select(i, index.to(x.device))
    return x


def _vectors(x: Tensor, atoms: Sequence[Atom], group: Group, g: Any) -> Tensor:
    matrix = (g[0] if isinstance(g, tuple) else g).reshape(group.dim, group.dim).to(x)
    for i, atom in enumerate(atoms):
        if atom.name == "v":
            x = torch.tensordot(x, matrix, dims=([i], [1])).movedim(-1, i)
        elif atom.name in ("h", "w"):
            raise Untyped("has vectors on a grid, which is not followed through a network")
    return x


# -- regrouping ------------------------------------------------------------------------------------


def merge(block: Block) -> Block:
    """Neighbouring parts of one grid axis as one atom, where a flip allows it."""
    done: list[Atom] = []
    for atom in block:
        last = done[-1] if done else None
        if last is not None and atom.name == last.name and atom.name in ("", "h", "w"):
            if not atom.name:
                done[-1] = Atom("", last.size * atom.size)
                continue
            if atom.centred:  # t = size·t_outer + (size − 1)
                turn = atom.size * last.turn + atom.size - 1
                size = last.size * atom.size
                done[-1] = Atom(atom.name, size, turn % size)
                continue
        if atom.size != 1 or atom.name == BATCH:
            done.append(atom)
    return tuple(done) or (Atom("", 1),)


def split(atom: Atom, outer: int, inner: int) -> tuple[Atom, Atom]:
    """*i = inner·a + b*: flips act on a and b apart iff turn ≡ −1 modulo the inner size.

    Raises:
        Untyped: they do not, as with a shift of 3 in windows of 7.
    """
    if atom.name not in ("h", "w"):
        if atom.name:
            raise Untyped(f"splits the axis {atom.name}")
        return Atom("", outer), Atom("", inner)
    if (atom.turn + 1) % inner:
        raise Untyped(
            f"splits a grid of {atom.size} into parts of {inner} that are not centred",
            "use an even window with a shift of half of it",
            "odd window",
        )
    turn = (atom.turn - (inner - 1)) // inner
    return Atom(atom.name, outer, turn % outer), Atom(atom.name, inner, inner - 1)


def regroup(kind: Kind, shape: Sequence[int]) -> Kind:
    """The kind after a reshape: atoms are cut and joined in order.

    Raises:
        Untyped: the new axes cut across the old ones.
    """
    if tuple(shape) == kind.shape:
        return kind
    if any(len(axis) > 1 for axis in kind.axes):
        return _regroup_sums(kind, tuple(shape))
    queue = [a for axis in kind.axes for a in axis[0] if a.size != 1]
    axes: list[Axis] = []
    for size in shape:
        need, block = size, []
        while need > 1:
            if not queue:
                raise Untyped("reshapes across the axes that the group moves", kind="flatten")
            atom = queue.pop(0)
            if need % atom.size == 0:
                block.append(atom)
                need //= atom.size
            elif atom.size % need == 0:
                first, second = split(atom, need, atom.size // need)
                block.append(first)
                queue.insert(0, second)
                need = 1
            elif not atom.name and queue and not queue[0].name:
                queue[0] = Atom("", atom.size * queue[0].size)
            else:
                raise Untyped("reshapes across the axes that the group moves", kind="flatten")
        axes.append((merge(tuple(block)),))
    return Kind(tuple(axes))


def _regroup_sums(kind: Kind, shape: tuple[int, ...]) -> Kind:
    """A direct sum keeps its axis: only the axes before and behind are regrouped.

    Raises:
        Untyped: the axis of the sum is cut.
    """
    at = next(i for i, axis in enumerate(kind.axes) if len(axis) > 1)
    before = math.prod(kind.shape[:at])
    total = 1
    for i, size in enumerate(shape):
        if total == before and size == kind.shape[at]:
            head = regroup(Kind(kind.axes[:at]), shape[:i])
            tail = regroup(Kind(kind.axes[at + 1 :]), shape[i + 1 :])
            return Kind((*head.axes, kind.axes[at], *tail.axes))
        total *= size
    raise Untyped("reshapes across a joined axis (class tokens beside a grid)", kind="flatten")
