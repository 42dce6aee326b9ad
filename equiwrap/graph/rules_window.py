"""Rules for windows as tensors of their own, and for one-dimensional convolutions over tokens."""

from __future__ import annotations

from typing import Any

from torch import nn

from .constants import constant
from .kinds import Atom, Axis, Kind, Untyped, free
from .regroup import regroup
from .rules import Call, Const, axis_at, counts, layer, length, operation, rests
from .rules_space import aligned, grid, pair

__all__: list[str] = []


@operation("unfold")
def unfold(call: Call) -> Any:
    """Windows of one axis (a tensor's method), or of an image as channels (the function)."""
    kind = call.kind()
    if len(call.shape) == len(kind.axes) + 1:
        return _windows(call, kind)
    names = ("kernel_size", "dilation", "padding", "stride")
    given = [call.arg(i + 1, name, default) for i, (name, default) in _defaults(names)]
    return _columns(call, *given)


def _defaults(names: tuple[str, ...]) -> Any:
    return enumerate(zip(names, (1, 1, 0, 1), strict=True))


@layer(nn.Unfold)
def unfold_layer(call: Call) -> Any:
    """As `unfold`."""
    m: Any = call.module
    return _columns(call, m.kernel_size, m.dilation, m.padding, m.stride)


def _windows(call: Call, kind: Kind) -> Kind:
    """`size` entries every `step`, on a new last axis."""
    at = axis_at(kind, call.arg(1, "dimension"))
    size, step = call.arg(2, "size"), call.arg(3, "step")
    axis, count = kind.axes[at], call.shape[at]
    if rests(axis) and not counts(axis):
        return Kind((*kind.axes[:at], free(count), *kind.axes[at + 1 :], free(size)))
    atom = _lone_atom(axis)
    rest = (atom.size - size) % step
    if rest:
        call.breaks(
            f"windows of {size} every {step} on a grid of {atom.size} are not centred",
            "",
            "stride",
            (rest, step),
        )
    outer: Axis = ((Atom(atom.name, count, count - 1),),)
    inner: Axis = ((Atom(atom.name, size, size - 1),),)
    return Kind((*kind.axes[:at], outer, *kind.axes[at + 1 :], inner))


def _lone_atom(axis: Axis) -> Atom:
    """The one atom of a plain grid axis.

    Raises:
        Untyped: it is cut, joined or shifted.
    """
    atom = axis[0][0]
    if len(axis) > 1 or len(axis[0]) > 1 or not atom.centred:
        raise Untyped("takes windows of an axis that is cut or shifted")
    return atom


def _columns(call: Call, k: Any, d: Any, p: Any, s: Any) -> Kind:
    """`b c h w -> b (c k k) (h w)`: the pixels of a window move with it."""
    kind = grid(call)
    aligned(call, kind, k, s, p, d)
    (kh, kw), b, c = pair(k), kind.axes[0], kind.axes[1]
    sizes = [
        (n + 2 * pp - dd * (kk - 1) - 1) // ss + 1
        for n, kk, dd, pp, ss in zip(kind.shape[2:], *map(pair, (k, d, p, s)), strict=True)
    ]
    inner = (*c[0], Atom("h", kh, kh - 1), Atom("w", kw, kw - 1))
    outer = (Atom("h", sizes[0], sizes[0] - 1), Atom("w", sizes[1], sizes[1] - 1))
    return Kind((b, (inner,), (outer,)))


@operation("fold")
def fold(call: Call) -> Any:
    """The sum of windows back into an image: the transpose of `unfold`.

    Raises:
        Untyped: the pixels of the windows rest.
    """
    names = ("kernel_size", "dilation", "padding", "stride")
    k, d, p, s = (call.arg(i + 2, name, default) for i, (name, default) in _defaults(names))
    kind = call.kind()
    (kh, kw), (b, c, h, w) = pair(k), call.shape
    sizes = [
        (n + 2 * pp - dd * (kk - 1) - 1) // ss + 1
        for n, kk, dd, pp, ss in zip((h, w), *map(pair, (k, d, p, s)), strict=True)
    ]
    wide = regroup(kind, (b, c, kh, kw, *sizes))
    names_of = [[a.name for a in axis[0] if a.size > 1] for axis in wide.axes[2:]]
    if names_of != [["h"], ["w"], ["h"], ["w"]]:
        raise Untyped("adds windows whose pixels rest", kind="flatten")
    image = Kind((*wide.axes[:2], ((Atom("h", h, h - 1),),), ((Atom("w", w, w - 1),),)))
    aligned(call, image, k, s, p, d)
    return image


@layer(nn.Fold)
def fold_layer(call: Call) -> Any:
    """As `fold`."""
    m: Any = call.module
    call.args = (call.args[0], m.output_size, m.kernel_size, m.dilation, m.padding, m.stride)
    return fold(call)


@operation("adaptive_avg_pool1d", "adaptive_max_pool1d", "avg_pool1d", "max_pool1d")
def pool1d(call: Call) -> Any:
    """Over a whole axis, or along one that rests.

    Raises:
        Untyped: windows follow the order of an axis that moves.
    """
    kind = call.kind()
    if not rests(kind.axes[-1]) and call.shape[-1] > 1:
        raise Untyped("pools along the order of an axis that the group moves", kind="flatten")
    return Kind((*kind.axes[:-1], free(call.shape[-1])))


@layer(nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.AvgPool1d, nn.MaxPool1d)
def pool1d_layer(call: Call) -> Any:
    """As `pool1d`."""
    return pool1d(call)


@operation("conv1d")
def conv1d(call: Call) -> Any:
    """Along the channels alone, or along an axis that rests.

    Raises:
        Untyped: the kernel depends on the input.
    """
    weight = call.arg(1, "weight")
    if not isinstance(weight, Const):
        raise Untyped("convolves with a kernel that depends on the input")
    return _conv1d(call, weight, call.arg(6, "groups", 1))


@layer(nn.Conv1d)
def conv1d_layer(call: Call) -> Any:
    """As `conv1d`."""
    m: Any = call.module
    return _conv1d(call, constant(m.weight, f"{call.path}.weight"), m.groups)


def _conv1d(call: Call, weight: Const, groups: int) -> Kind:
    kind = call.kind()
    first, channels, along = kind.axes
    if not rests(channels):
        if groups > 1:
            raise Untyped("convolves groups of channels that the group moves")
        call.demand(weight, Kind((free(call.shape[1]), channels, free(weight.value.shape[2]))))
    if rests(along):
        return Kind((first, free(call.shape[1]), free(call.shape[2])))
    if weight.value.shape[2] > 1 or call.shape[2] != length(along):
        raise Untyped("convolves along the order of an axis that the group moves", kind="flatten")
    return Kind((first, free(call.shape[1]), along))
