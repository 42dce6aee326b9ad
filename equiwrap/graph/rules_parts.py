"""Rules for what takes parts of a tensor, or follows the order of an axis."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .hidden import channels_of
from .kinds import Atom, Axis, Block, Kind, Untyped, free, size_of
from .rules import (
    Call,
    Const,
    axis_at,
    counts,
    dims_of,
    idle,
    join,
    layer,
    length,
    operation,
    rests,
)
from .rules_shape import permute

__all__: list[str] = []


@operation("split", "chunk", "tensor_split", "split_with_sizes")
def split(call: Call) -> Any:
    """Parts along one axis: of an axis that rests, or whole blocks of a direct sum.

    Raises:
        Untyped: channels that move are cut across their fields.
    """
    kind = call.kind()
    at = axis_at(kind, call.arg(2, "dim", 0))
    found: list[Any] = []
    start = 0
    for shape in call.shape:
        found.append(_part(kind, at, start, start + shape[at]))
        start += shape[at]
    if channels_of(kind.axes[at]) and any(isinstance(part, Untyped) for part in found):
        lead = length(kind.axes[at]) // math.gcd(*[shape[at] for shape in call.shape])
        raise Untyped("takes apart channels that the group moves", lead=lead)
    return tuple(found)


def _part(kind: Kind, at: int, start: int, stop: int) -> Any:
    axis = kind.axes[at]
    if counts(axis):
        return Untyped("takes some samples of the batch")
    if rests(axis):
        return Kind((*kind.axes[:at], free(stop - start), *kind.axes[at + 1 :]))
    place, kept = 0, []
    for block in axis:
        size = size_of(block)
        if place < stop and place + size > start:
            if all(not atom.moved for atom in block):  # part of a block that rests
                inside = min(place + size, stop) - max(place, start)
                kept.append(free(inside)[0])
            elif start <= place and place + size <= stop:
                kept.append(block)
            elif some := _fields(block, max(start - place, 0), min(stop - place, size)):
                kept.append(some)
            else:
                return Untyped("takes a part of an axis that the group moves", kind="flatten")
        place += size
    return Kind((*kind.axes[:at], tuple(kept), *kind.axes[at + 1 :]))


def _fields(block: Block, start: int, stop: int) -> Block | None:
    """Some of the copies of a block whose first atom counts them; None where they are cut."""
    first, each = block[0], size_of(block[1:])
    if first.name or start % each or stop % each:
        return None
    count = (stop - start) // each
    return (replace(first, size=count), *block[1:]) if count > 1 else block[1:]


@operation("glu")
@layer(nn.GLU)
def gated(call: Call) -> Any:
    """One half of an axis times a function of the other half.

    Raises:
        Untyped: channels that move are cut across their fields.
    """
    kind = call.kind()
    at = axis_at(kind, getattr(call.module, "dim", call.arg(1, "dim", -1)))
    half = length(kind.axes[at]) // 2
    parts = [_part(kind, at, 0, half), _part(kind, at, half, 2 * half)]
    if any(isinstance(part, Untyped) for part in parts):
        raise Untyped("takes halves of an axis that the group moves", lead=2)
    return join(call, parts)


@operation("unbind")
def unbind(call: Call) -> Any:
    """The entries along an axis that rests.

    Raises:
        Untyped: the axis moves.
    """
    kind = call.kind()
    at = axis_at(kind, call.arg(1, "dim", 0))
    if not idle(kind.axes[at]):
        raise Untyped("takes apart an axis that the group moves", kind="flatten")
    one = Kind((*kind.axes[:at], *kind.axes[at + 1 :]))
    return tuple([one] * length(kind.axes[at]))


@operation("select")
def select(call: Call) -> Any:
    """One entry of an axis that rests.

    Raises:
        Untyped: the axis moves.
    """
    kind = call.kind()
    at = axis_at(kind, call.arg(1, "dim"))
    index = call.arg(2, "index") % length(kind.axes[at])
    part = _part(kind, at, index, index + 1)
    if isinstance(part, Untyped) or not rests(part.axes[at]):
        raise Untyped("takes one entry of an axis that the group moves", kind="flatten")
    return Kind((*kind.axes[:at], *kind.axes[at + 1 :]))


@operation("narrow")
def narrow(call: Call) -> Any:
    """Some entries of an axis that rests."""
    kind = call.kind()
    at, start = axis_at(kind, call.arg(1, "dim")), call.arg(2, "start")
    return _part(kind, at, start, start + call.arg(3, "length"))


@operation("getitem")
def getitem(call: Call) -> Any:
    """Parts and entries of axes that rest, whole blocks of direct sums, new axes.

    Raises:
        Untyped: the index cuts an axis that the group moves.
    """
    source, index = call.args
    if isinstance(source, (tuple, list, dict)):
        return source[index]
    if isinstance(source, Untyped):
        raise source
    kind = call.kind()
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, (Tensor, list, Kind, Const, Untyped)) for i in index):
        raise Untyped("picks entries by other tensors", kind="flatten")
    wide = sum(i is not None and i is not Ellipsis for i in index)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (len(kind.axes) - wide), *index[at + 1 :])
    axes: list[Axis] = []
    place = 0
    for item in index:
        if item is None:
            axes.append(free(1))
            continue
        axis = kind.axes[place]
        if isinstance(item, slice):
            axes.append(_sliced(axis, item))
        else:
            start = item % length(axis)
            part = _part(Kind((axis,)), 0, start, start + 1)
            if isinstance(part, Untyped) or not rests(part.axes[0]):
                raise Untyped("takes one entry of an axis that the group moves", kind="flatten")
        place += 1
    return Kind((*axes, *kind.axes[place:]))


@operation("getattr")
def attribute(call: Call) -> Any:
    """A field of a result, or a transposed view.

    Raises:
        Untyped: another attribute of a tensor.
    """
    source, name = call.args
    if not isinstance(source, (Kind, Untyped)):
        return getattr(source, name)
    if name not in ("T", "mT", "data"):
        raise Untyped(f"reads the attribute {name}")
    call.name = name
    return call.kind() if name == "data" else permute(call)


@operation(
    "cumsum", "cumprod", "cummax", "cummin", "sort", "argsort", "flip", "diff", "logcumsumexp"
)
def ordered(call: Call) -> Any:
    """In the order of an axis, which must rest.

    Raises:
        Untyped: it moves.
    """
    kind = call.kind()
    dims = call.arg(1, "dims" if call.name == "flip" else "dim", -1)
    if not all(idle(kind.axes[at]) for at in dims_of(kind, dims)):
        raise Untyped(f"follows the order of an axis that the group moves ({call.name})")
    if not all(isinstance(n, int) for n in call.shape):
        return tuple([kind] * len(call.shape))
    axes = zip(kind.axes, call.shape, strict=True)
    return Kind(tuple(axis if length(axis) == n else free(n) for axis, n in axes))


@operation("rot90", "tril", "triu", "rfft2", "fft2", "rfft", "fft", "irfft2", "ifft2", "stft")
def refused(call: Call) -> Any:
    """Not followed, though a shape may stay.

    Raises:
        Untyped: always.
    """
    call.kind()
    raise Untyped(f"{call.name} is not followed")


def _sliced(axis: Axis, item: slice) -> Axis:
    start, stop, step = item.indices(length(axis))
    count = len(range(start, stop, step))
    if count == length(axis) and step == 1:
        return axis
    if idle(axis):
        return free(count)
    atom = axis[0][0]
    plain = len(axis) == len(axis[0]) == 1 and atom.centred and not atom.was
    if plain and 2 * start + (count - 1) * step == length(axis) - 1:  # from end to end
        return ((Atom(atom.name, count, count - 1),),)
    if plain and count * step == length(axis):
        return ((Atom(atom.name, count, count - 1, (step, start)),),)
    part = _part(Kind((axis,)), 0, start, stop)
    if channels_of(axis) and isinstance(part, Untyped):
        lead = length(axis) // math.gcd(length(axis), start, stop)
        raise Untyped("takes a part of channels that the group moves", lead=lead)
    if step != 1 or isinstance(part, Untyped):
        raise Untyped(
            f"keeps pixels {start}:{stop}:{step} of an axis that the group moves",
            "blur and subsample from the centre, or use an odd size",
            "stride",
        )
    return part.axes[0]
