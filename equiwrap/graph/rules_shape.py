"""Rules for what only rearranges: views, transpositions, joins, parts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .kinds import Axis, Kind, Untyped, free, regroup, size_of
from .rules import (
    Call,
    Const,
    axis_at,
    counts,
    dims_of,
    idle,
    layer,
    length,
    lone,
    operation,
    rests,
)

__all__: list[str] = []


@operation("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "ravel")
def reshape(call: Call) -> Any:
    """Axes are cut and joined in order."""
    return regroup(call.kind(), call.shape)


@layer(nn.Flatten, nn.Unflatten)
def flatten_layer(call: Call) -> Any:
    """As `reshape`."""
    return reshape(call)


def _order(call: Call, kind: Kind) -> list[int]:
    if call.name == "permute":
        given = call.args[1:] or (call.kwargs["dims"],)
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
    """As `expand`, and along axes that rest."""
    kind = call.kind()
    extra = len(call.shape) - len(kind.axes)
    axes = [free(1)] * extra + list(kind.axes)
    found = []
    for axis, size in zip(axes, call.shape, strict=True):
        if length(axis) != size and not rests(axis):
            raise Untyped("repeats an axis that the group moves")
        found.append(axis if length(axis) == size else free(size))
    return Kind(tuple(found))


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


def _blocks(part: Any, at: int) -> Axis:
    return part.axes[at] if isinstance(part, Kind) else free(part.value.shape[at])


@operation("stack")
def stack(call: Call) -> Any:
    """A new axis that rests."""
    parts = list(call.arg(0, "tensors"))
    for part in parts:
        if isinstance(part, Untyped):
            raise part
    if not all(isinstance(p, Kind) and p == parts[0] for p in parts):
        raise Untyped("stacks tensors that the group moves differently")
    at = call.arg(1, "dim", 0) % (len(parts[0].axes) + 1)
    axes = parts[0].axes
    return Kind((*axes[:at], free(len(parts)), *axes[at:]))


@operation("split", "chunk", "tensor_split", "split_with_sizes")
def split(call: Call) -> Any:
    """Parts along one axis: of an axis that rests, or whole blocks of a direct sum."""
    kind = call.kind()
    at = axis_at(kind, call.arg(2, "dim", 0))
    found, start = [], 0
    for shape in call.shape:
        found.append(_part(kind, at, start, start + shape[at]))
        start += shape[at]
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
            else:
                return Untyped("takes a part of an axis that the group moves", kind="flatten")
        place += size
    return Kind((*kind.axes[:at], tuple(kept), *kind.axes[at + 1 :]))


@operation("unbind")
def unbind(call: Call) -> Any:
    """The entries along an axis that rests."""
    kind = call.kind()
    at = axis_at(kind, call.arg(1, "dim", 0))
    if not idle(kind.axes[at]):
        raise Untyped("takes apart an axis that the group moves", kind="flatten")
    one = Kind((*kind.axes[:at], *kind.axes[at + 1 :]))
    return tuple([one] * length(kind.axes[at]))


@operation("select")
def select(call: Call) -> Any:
    """One entry of an axis that rests."""
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
    return lone(Kind((*axes, *kind.axes[place:])), call)


def _sliced(axis: Axis, item: slice) -> Axis:
    start, stop, step = item.indices(length(axis))
    count = len(range(start, stop, step))
    if count == length(axis) and step == 1:
        return axis
    if idle(axis):
        return free(count)
    part = _part(Kind((axis,)), 0, start, stop)
    if step != 1 or isinstance(part, Untyped):
        raise Untyped(
            f"keeps pixels {start}:{stop}:{step} of an axis that the group moves",
            "blur and subsample from the centre, or use an odd size",
            "stride",
        )
    return part.axes[0]
