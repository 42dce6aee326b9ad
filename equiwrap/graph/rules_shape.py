"""Rules for what only rearranges: views, transpositions, joins, parts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import nn

from .hidden import channels_of
from .kinds import Atom, Axis, Kind, Untyped, free, phases, size_of
from .regroup import merge, regroup, whole_grid
from .rules import (
    Call,
    Const,
    axis_at,
    counts,
    dims_of,
    idle,
    layer,
    length,
    operation,
    rests,
)

__all__: list[str] = []


@operation(
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "unsqueeze",
    "squeeze",
    "view_as",
    "ravel",
    "reshape_as",
)
def reshape(call: Call) -> Any:
    """Axes are cut and joined in order.

    Raises:
        Untyped: the new axes cut across the old ones; `lead` says how channels are cut.
    """
    kind = call.kind()
    try:
        return regroup(kind, call.shape)
    except Untyped as why:
        why.lead = _lead(kind, tuple(call.shape))
        raise


def _lead(kind: Kind, shape: tuple[int, ...]) -> int:
    """Into how many parts a new shape cuts an axis of moved channels; 0 where it does not."""
    for at, axis in enumerate(kind.axes):
        if not channels_of(axis):
            continue
        before, size = math.prod(kind.shape[:at]), length(axis)
        for start in range(len(shape)):
            if math.prod(shape[:start]) != before:
                continue
            for stop in range(start + 2, len(shape) + 1):
                if math.prod(shape[start:stop]) == size:
                    return size // shape[stop - 1]
    return 0


@layer(nn.Flatten, nn.Unflatten)
def flatten_layer(call: Call) -> Any:
    """As `reshape`."""
    return reshape(call)


@operation("channel_shuffle", "native_channel_shuffle")
@layer(nn.ChannelShuffle)
def shuffle(call: Call) -> Any:
    """`(g n)` channels become `(n g)`.

    Raises:
        Untyped: channels that move are cut across their fields.
    """
    kind = call.kind()
    groups = int(getattr(call.module, "groups", 0) or call.arg(1, "groups"))  # type: ignore[call-overload]
    first, count, *rest = kind.shape
    try:
        cut = regroup(kind, (first, groups, count // groups, *rest))
    except Untyped as why:
        why.lead = groups
        raise
    return regroup(Kind((cut.axes[0], cut.axes[2], cut.axes[1], *cut.axes[3:])), kind.shape)


def _order(call: Call, kind: Kind) -> list[int]:
    if call.name == "permute":
        given: Any = call.args[1:] or (call.kwargs["dims"],)
        given = given[0] if isinstance(given[0], (tuple, list)) else given
        return [axis_at(kind, int(i)) for i in given]
    order = list(range(len(kind.axes)))
    if call.name in ("t", "T", "mT", "adjoint"):
        order[-1], order[-2] = order[-2], order[-1]
    elif call.name == "movedim":
        source, target = (dims_of(kind, call.args[i]) for i in (1, 2))
        rest = iter(i for i in order if i not in source)
        return [source[target.index(i)] if i in target else next(rest) for i in order]
    else:
        i, j = (axis_at(kind, call.arg(n, f"dim{n - 1}")) for n in (1, 2))
        order[i], order[j] = order[j], order[i]
    return order


@operation("permute", "transpose", "swapaxes", "swapdims", "movedim", "t", "T", "mT")
def permute(call: Call) -> Any:
    """Axes in another order."""
    kind = call.kind()
    return Kind(tuple(kind.axes[i] for i in _order(call, kind)))


@operation("expand", "broadcast_to", "expand_as")
def expand(call: Call) -> Any:
    """Axes of one entry become longer; nothing moves along them."""
    kind = call.kind()
    extra = len(call.shape) - len(kind.axes)
    axes = [free(1)] * extra + list(kind.axes)
    return Kind(
        tuple(
            free(size) if length(axis) == 1 and size != 1 and not counts(axis) else axis
            for axis, size in zip(axes, call.shape, strict=True)
        )
    )


@operation("repeat", "tile")
def repeat(call: Call) -> Any:
    """As `expand`, and along axes that rest.

    Raises:
        Untyped: the axis moves.
    """
    kind = call.kind()
    extra = len(call.shape) - len(kind.axes)
    axes = [free(1)] * extra + list(kind.axes)
    found = []
    for axis, size in zip(axes, call.shape, strict=True):
        if length(axis) != size and not rests(axis):
            raise Untyped("repeats an axis that the group moves")
        found.append(axis if length(axis) == size else free(size))
    return Kind(tuple(found))


@operation("repeat_interleave")
def repeat_entries(call: Call) -> Any:
    """Each entry of an axis several times: a factor behind it, which rests.

    Raises:
        Untyped: the counts are a tensor, or the axis is a sum.
    """
    kind, times, at = call.kind(), call.arg(1, "repeats"), call.arg(2, "dim")
    if not isinstance(times, int) or at is None:
        raise Untyped("repeats entries by a tensor of counts")
    at = axis_at(kind, at)
    if len(kind.axes[at]) > 1:
        raise Untyped("repeats the entries of a joined axis")
    axis = (merge((*kind.axes[at][0], *free(times)[0])),)
    return Kind((*kind.axes[:at], axis, *kind.axes[at + 1 :]))


@operation("cat", "concat", "concatenate")
def cat(call: Call) -> Any:
    """Direct sum along one axis; the others must move alike.

    Raises:
        Untyped: they do not.
    """
    parts = list(call.arg(0, "tensors"))
    kinds = [p for p in parts if isinstance(p, Kind)]
    for part in parts:
        if isinstance(part, Untyped):
            raise part
    if not kinds:
        raise Untyped("joins no typed tensor")
    at = axis_at(kinds[0], call.arg(1, "dim", 0))
    if len(kinds) == len(parts) and phases(kinds[0]):
        return _woven(kinds, at)
    axes: list[Axis] = []
    for i in range(len(kinds[0].axes)):
        if i == at:
            blocks = [_blocks(part, at) for part in parts]
            joined = tuple(block for some in blocks for block in some)
            plain = all(not atom.moved for block in joined for atom in block)
            axes.append(free(sum(map(size_of, joined))) if plain else joined)
            continue
        seen = {axis for axis in (k.axes[i] for k in kinds) if not rests(axis)}
        if len(seen) > 1 or (seen and any(rests(k.axes[i]) for k in kinds)):
            raise Untyped("joins tensors that the group moves differently")
        samples = next((k.axes[i] for k in kinds if counts(k.axes[i])), free(call.shape[i]))
        axes.append(seen.pop() if seen else samples)
    found = Kind(tuple(axes))
    for part in parts:
        if isinstance(part, Const):
            own = _blocks(part, at)
            call.demand(part, Kind((*axes[:at], own, *axes[at + 1 :])))
    return found


def _woven(kinds: list[Kind], at: int) -> Kind:
    """All the s × s thinned grids of an image, joined along channels: these move with the pixels.

    Raises:
        Untyped: some are missing, or stand in another order than rows or columns.
    """
    places = [tuple(phases(kind)) for kind in kinds]
    (step, _), *_ = places[0]
    every = [((step, i), (step, j)) for i in range(step) for j in range(step)]
    by_columns = [(h, w) for w, h in every]
    if not idle(kinds[0].axes[at]) or places not in (every, by_columns):
        return whole_grid(kinds[0])
    names = "hw" if places == every else "wh"
    inner = tuple(Atom(name, step, step - 1) for name in names)
    plain = [
        ((replace(axis[0][0], was=()),),) if any(atom.moved for atom in axis[0]) else axis
        for axis in kinds[0].axes
    ]
    plain[at] = ((*inner, Atom("", length(plain[at]))),)
    return Kind(tuple(plain))


def _blocks(part: Any, at: int) -> Axis:
    return part.axes[at] if isinstance(part, Kind) else free(part.value.shape[at])


@operation("stack")
def stack(call: Call) -> Any:
    """A new axis that rests.

    Raises:
        Untyped: they move differently.
    """
    parts = list(call.arg(0, "tensors"))
    for part in parts:
        if isinstance(part, Untyped):
            raise part
    if not all(isinstance(p, Kind) and p == parts[0] for p in parts):
        raise Untyped("stacks tensors that the group moves differently")
    at = call.arg(1, "dim", 0) % (len(parts[0].axes) + 1)
    axes = parts[0].axes
    return Kind((*axes[:at], free(len(parts)), *axes[at:]))
