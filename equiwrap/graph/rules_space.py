"""Rules for what samples a grid: convolutions, pooling, padding, resizing, shifts.

A sampling of N pixels with kernel k, stride s, padding p, dilation d is symmetric under reflection
iff (N + 2p − d(k − 1) − 1) mod s = 0. A symmetric kernel then gives an equivariant layer; otherwise
the layer breaks the symmetry whatever its weights are.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .kinds import Atom, Kind, Untyped
from .rules import Call, Const, layer, length, operation, rests

__all__: list[str] = []


def pair(value: Any) -> tuple[int, int]:
    """One number for both axes, or one each."""
    return tuple(value)[-2:] if isinstance(value, (tuple, list)) else (value, value)  # type: ignore[return-value]


def grid(call: Call) -> Kind:
    """An image [b, c, h, w] with a plain grid.

    Raises:
        Untyped: the value is something else.
    """
    kind = call.kind()
    if len(kind.axes) != 4:
        raise Untyped("works on an image with other axes than b c h w")
    for axis, name in zip(kind.axes[2:], "hw", strict=True):
        atoms = axis[0]
        if length(axis) > 1 and (len(axis) > 1 or len(atoms) > 1 or atoms[0].name != name):
            raise Untyped("works on a grid that is cut or turned")
        if length(axis) > 1 and not atoms[0].centred:
            raise Untyped("works on a shifted grid")
    if not rests(kind.axes[1]) or not rests(kind.axes[0]):
        raise Untyped("works on channels that the group moves")
    return kind


def resized(call: Call, kind: Kind, channels: int | None = None) -> Kind:
    """The same image with the sizes of the result."""
    sizes = call.shape[-2:]
    axes = [((Atom(n, s, s - 1),),) for n, s in zip("hw", sizes, strict=True)]
    first = kind.axes[1] if channels is None else ((Atom("", channels),),)
    return Kind((kind.axes[0], first, *axes))


def aligned(call: Call, kind: Kind, k: Any, s: Any, p: Any, d: Any) -> None:
    """Note where the sampling is not centred, or treats the axes differently."""
    for size, kk, ss, pp, dd in zip(kind.shape[2:], *map(pair, (k, s, p, d)), strict=True):
        rest = (size + 2 * pp - dd * (kk - 1) - 1) % ss
        if size > 1 and rest:
            call.breaks(
                f"stride {ss} on an even grid ({size}): the sampling lattice is not centred"
                if size % 2 == 0
                else f"stride {ss} on a grid of {size}: the sampling lattice is not centred",
                "",  # the audit finds the size
                "stride",
            )
            return
    alike = all(a == b for a, b in map(pair, (k, s, p, d)))
    if call.swaps and not alike and max(kind.shape[2:]) > 1:
        raise Untyped(
            "treats height and width differently, which the group exchanges",
            "use a square kernel, or C2 or D2",
        )


@operation("conv2d")
def conv(call: Call) -> Any:
    """Cross-correlation with a kernel of the parameters."""
    kind = grid(call)
    weight = call.arg(1, "weight")
    if not isinstance(weight, Const):
        raise Untyped("convolves with a kernel that depends on the input")
    k = tuple(weight.value.shape[2:])
    stride, padding = call.arg(3, "stride", 1), call.arg(4, "padding", 0)
    return _conv(call, kind, k, stride, padding, call.arg(5, "dilation", 1), weight.source)


@layer(nn.Conv2d)
def conv_layer(call: Call) -> Any:
    """As `conv`; its weight is a kernel that the group turns."""
    m: Any = call.module
    source = f"{call.path}.weight"
    return _conv(call, grid(call), m.kernel_size, m.stride, m.padding, m.dilation, source)


def _conv(call: Call, kind: Kind, k: Any, s: Any, p: Any, d: Any, source: str | None) -> Kind:
    if p == "same":
        span = [dd * (kk - 1) for kk, dd in zip(pair(k), pair(d), strict=True)]
        if any(x % 2 for x in span):
            call.breaks(
                "pads an even kernel to the same size, with one more pixel on one side",
                "use an odd kernel, or pad both sides alike",
                "padding",
            )
        p = tuple(x // 2 for x in span)
    p = 0 if p == "valid" else p
    aligned(call, kind, k, s, p, d)
    if max(pair(k)) > 1 and max(kind.shape[2:]) > 1:
        if source is None:
            raise Untyped("convolves with a kernel that was computed")
        call.kernels.append(source)
    return resized(call, kind, call.shape[1])


@operation("conv_transpose2d")
def conv_transpose(call: Call) -> Any:
    """As `conv`, upwards."""
    weight = call.arg(1, "weight")
    if not isinstance(weight, Const) or weight.source is None:
        raise Untyped("convolves with a kernel that was computed")
    call.kernels.append(weight.source)
    return _up(call, call.arg(5, "output_padding", 0))


@layer(nn.ConvTranspose2d)
def conv_transpose_layer(call: Call) -> Any:
    """As `conv_transpose`."""
    m: Any = call.module
    call.kernels.append(f"{call.path}.weight")
    return _up(call, m.output_padding)


def _up(call: Call, extra: Any) -> Kind:
    if any(pair(extra)):
        call.breaks(
            "output_padding adds pixels on one side only",
            "use a kernel whose size has the parity of the stride, and no output_padding",
            "padding",
        )
    return resized(call, grid(call), call.shape[1])


@operation("max_pool2d", "avg_pool2d", "lp_pool2d", "boolean_dispatch", "max_pool2d_with_indices")
def pool(call: Call) -> Any:
    """Windows, laid out as for a convolution."""
    k = call.arg(1, "kernel_size")
    stride = call.arg(2, "stride") or k
    dilation = call.arg(4, "dilation", 1) if call.name.startswith("max") else 1
    ceil = call.kwargs.get("ceil_mode", False)
    return _pool(call, k, stride, call.arg(3, "padding", 0), dilation, ceil)


@layer(nn.MaxPool2d, nn.AvgPool2d)
def pool_layer(call: Call) -> Any:
    """As `pool`."""
    m: Any = call.module
    dilation = getattr(m, "dilation", 1)
    return _pool(call, m.kernel_size, m.stride or m.kernel_size, m.padding, dilation, m.ceil_mode)


def _pool(call: Call, k: Any, s: Any, p: Any, d: Any, ceil: bool) -> Any:
    kind = grid(call)
    aligned(call, kind, k, s, p, d)
    if ceil and call.broken:
        call.broken[-1].fix = "set ceil_mode to False, and see to the size"
    return resized(call, kind)


@operation("adaptive_avg_pool2d", "adaptive_max_pool2d")
def adaptive(call: Call) -> Any:
    """Centred for every pair of sizes."""
    return resized(call, grid(call))


@layer(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
def adaptive_layer(call: Call) -> Any:
    """As `adaptive`."""
    return resized(call, grid(call))


@operation("pad")
def pad(call: Call) -> Any:
    """Alike on both sides of every axis that moves."""
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
        if len(axes[at]) > 1 or len(axes[at][0]) > 1 or not atom.centred:
            raise Untyped("pads a grid that is cut or shifted")
        if left != right:
            call.breaks(
                f"pads {left} pixels on one side and {right} on the other",
                "pad both sides alike, or use a size that needs no padding",
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
    """Centred, but for nearest neighbours of a ratio that is not a whole number upwards."""
    kind = grid(call)
    mode = call.arg(3, "mode", "nearest")
    for old, new in zip(kind.shape[2:], call.shape[2:], strict=True):
        if mode == "nearest" and new % max(old, 1):
            call.breaks(
                f"nearest neighbours from {old} to {new} pixels round towards one corner",
                "use mode='nearest-exact' or 'bilinear'",
                "stride",
            )
            break
    return resized(call, kind)


@layer(nn.Upsample)
def upsample_layer(call: Call) -> Any:
    """As `interpolate`."""
    call.kwargs = {"mode": call.module.mode}  # type: ignore[union-attr]
    return interpolate(call)


@operation("roll")
def roll(call: Call) -> Any:
    """y[i] = x[i − s]: a flip of the shifted grid sends i to t + 2s − i."""
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


@operation("pixel_shuffle", "pixel_unshuffle")
def shuffle(call: Call) -> Any:
    """Channels become pixels: they would have to move.

    Raises:
        Untyped: always.
    """
    call.kind()
    raise Untyped(
        "moves channels to pixels, and channels rest",
        "upsample by bilinear interpolation and a convolution",
        "flatten",
    )


@layer(nn.PixelShuffle, nn.PixelUnshuffle)
def shuffle_layer(call: Call) -> Any:
    """As `shuffle`.

    Raises:
        Untyped: always.
    """
    return shuffle(call)
