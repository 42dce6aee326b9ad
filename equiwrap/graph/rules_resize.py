"""Rules for what resizes and shifts a grid: padding, interpolation, rolls, pixel shuffles."""

from __future__ import annotations

from typing import Any

from torch import nn

from .kinds import Atom, Kind, Untyped, free, letter
from .regroup import regroup
from .rules import Call, layer, length, operation, rests
from .rules_space import grid, resized

__all__: list[str] = []


@operation("pad")
def pad(call: Call) -> Any:
    """Alike on both sides of every axis that moves.

    Raises:
        Untyped: the grid is shifted, or tokens are cut off.
    """
    kind, amounts = call.kind(), list(call.arg(1, "pad"))
    axes = list(kind.axes)
    for i in range(len(amounts) // 2):
        at = len(axes) - 1 - i
        left, right = amounts[2 * i : 2 * i + 2]
        size = call.shape[at]
        if left == right == 0:
            continue
        if rests(axes[at]):
            axes[at] = ((Atom("", size),),)
            continue
        atom = axes[at][0][0]
        if len(axes[at]) > 1 or len(axes[at][0]) > 1:  # entries beside the tokens of a grid
            ends = [free(n) if n > 0 else () for n in (left, right)]
            if min(left, right) < 0:
                raise Untyped("cuts an axis that the group moves", kind="flatten")
            axes[at] = (*ends[0], *axes[at], *ends[1])
            continue
        if not atom.centred:
            raise Untyped("pads a shifted grid")
        if left != right:
            call.breaks(
                f"pads {left} pixels on one side and {right} on the other",
                "pad both sides alike",
                "padding",
            )
        axes[at] = ((Atom(atom.name, size, size - 1),),)
    return Kind(tuple(axes))


@layer(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d)
def pad_layer(call: Call) -> Any:
    """As `pad`."""
    call.args = (call.args[0], call.module.padding)  # type: ignore[union-attr]
    return pad(call)


@operation("interpolate", "upsample")
def interpolate(call: Call) -> Any:
    """Centred, but for nearest neighbours of most ratios other than whole numbers upwards."""
    kind = grid(call)
    mode = call.arg(3, "mode", "nearest")
    for old, new in zip(kind.shape[2:], call.shape[2:], strict=True):
        if mode.startswith("nearest") and not _mirrors(old, new, mode):
            call.breaks(
                f"nearest neighbours from {old} to {new} pixels round towards one corner",
                "use mode='bilinear'",
                "stride",
            )
            break
    return resized(call, kind)


def _mirrors(old: int, new: int, mode: str) -> bool:
    """True where the pixel picked for n − 1 − i is the mirror image of the one picked for i."""
    half = mode == "nearest-exact"
    picked = [(2 * i + half) * old // (2 * new) for i in range(new)]
    return all(a + b == old - 1 for a, b in zip(picked, picked[::-1], strict=True))


@layer(nn.Upsample)
def upsample_layer(call: Call) -> Any:
    """As `interpolate`."""
    call.kwargs = {"mode": call.module.mode}  # type: ignore[union-attr]
    return interpolate(call)


@operation("roll")
def roll(call: Call) -> Any:
    """y[i] = x[i − s]: a flip of the shifted grid sends i to t + 2s − i.

    Raises:
        Untyped: the grid is cut.
    """
    kind = call.kind()
    shifts, dims = call.arg(1, "shifts"), call.arg(2, "dims")
    shifts, dims = (
        (value,) if isinstance(value, int) else tuple(value or ()) for value in (shifts, dims)
    )
    axes = list(kind.axes)
    for shift, at in zip(shifts, dims, strict=True):
        at = at % len(axes)
        if rests(axes[at]):
            continue
        if len(axes[at]) > 1 or len(axes[at][0]) > 1:
            raise Untyped("shifts a grid that is cut")
        atom = axes[at][0][0]
        turn = (atom.turn + 2 * shift) % atom.size
        axes[at] = ((Atom(atom.name, atom.size, turn),),)
    return Kind(tuple(axes))


@operation("pixel_unshuffle")
def unshuffle(call: Call) -> Any:
    """Blocks of r × r pixels as channels, which then move: `b c (h r) (w r) -> b (c r r) h w`."""
    kind = grid(call)
    r = call.arg(1, "downscale_factor")
    (b, c, height, width), (_, _, h, w) = kind.axes, call.shape
    wide = regroup(Kind((b, c, height, width)), (length(b), length(c), h, r, w, r))
    b, c, h, i, w, j = wide.axes
    return Kind((b, ((*c[0], *i[0], *j[0]),), h, w))


@operation("pixel_shuffle")
def shuffle(call: Call) -> Any:
    """Channels become pixels, where they move as such: the inverse of `unshuffle`.

    Raises:
        Untyped: they rest; the layer that makes them is asked for others.
    """
    kind = call.kind()
    r = call.arg(1, "upscale_factor")
    b, c, h, w = call.shape
    wanted = ((Atom("", c), *letter("h", r)[0], *letter("w", r)[0]),)
    if call.hidden is not None and call.hidden.mode != "trivial":
        call.hidden.claim(Kind((kind.axes[1],)), Kind((wanted,)))
    wide = regroup(kind, (b, c, r, r, *kind.shape[2:]))
    names = [atom.name for axis in wide.axes[2:4] for atom in axis[0] if atom.moved]
    if names != ["h", "w"]:
        raise Untyped(
            "moves channels to pixels, and channels rest",
            'upsample bilinearly and convolve, or project with hidden="regular"',
            "flatten",
        )
    return regroup(Kind(tuple(wide.axes[i] for i in (0, 1, 4, 2, 5, 3))), (b, c, h, w))


@layer(nn.PixelShuffle, nn.PixelUnshuffle)
def shuffle_layer(call: Call) -> Any:
    """As `shuffle` and `unshuffle`."""
    m: Any = call.module
    up = isinstance(m, nn.PixelShuffle)
    call.args = (call.args[0], m.upscale_factor if up else m.downscale_factor)
    return shuffle(call) if up else unshuffle(call)
