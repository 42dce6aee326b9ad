"""Views: the atoms of a type are cut and joined in order."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .kinds import BATCH, Atom, Axis, Block, Kind, Untyped, phases

__all__ = ["merge", "regroup", "split", "whole_grid"]


def whole_grid(kind: Kind) -> Kind:
    """The kind itself, if it has all its pixels.

    Raises:
        Untyped: only every second one, say, was kept.
    """
    for step, start in phases(kind):
        raise Untyped(
            f"keeps pixels {start}::{step} of an axis that the group moves",
            "blur and subsample from the centre, or use an odd size",
            "stride",
        )
    return kind


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
    whole_grid(kind)
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
