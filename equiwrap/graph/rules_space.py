"""Rules for what samples a grid: convolutions, pooling, padding, resizing, shifts.

A sampling of N pixels with kernel k, stride s, padding p, dilation d is symmetric under reflection
iff (N + 2p − d(k − 1) − 1) mod s = 0. A symmetric kernel then gives an equivariant layer; otherwise
the layer breaks the symmetry whatever its weights are.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .constants import constant, whole_constant
from .kinds import Atom, Axis, Kind, Untyped
from .regroup import whole_grid
from .rules import Call, Const, layer, length, operation, plain_or_channels, rests
from .rules_channels import mixed
from .rules_maps import own

__all__: list[str] = []


def pair(value: Any) -> tuple[int, int]:
    """One number for both axes, or one each."""
    return tuple(value)[-2:] if isinstance(value, (tuple, list)) else (value, value)  # type: ignore[return-value]


def grid(call: Call, *, moved: bool = False) -> Kind:
    """An image [b, c, h, w] with a plain grid; `moved` channels where they are allowed.

    Windows may lie along the batch, where they move.

    Raises:
        Untyped: the value is something else.
    """
    kind = whole_grid(call.kind())
    if len(kind.axes) != 4:
        raise Untyped("works on an image with other axes than b c h w")
    for axis, name in zip(kind.axes[2:], "hw", strict=True):
        atoms = axis[0]
        if length(axis) > 1 and (len(axis) > 1 or len(atoms) > 1 or atoms[0].name != name):
            raise Untyped("works on a grid that is cut or turned")
        if length(axis) > 1 and not atoms[0].centred:
            raise Untyped("works on a shifted grid")
    if not (moved or plain_or_channels(kind.axes[1])):
        raise Untyped("works on channels that the group moves")
    return kind


def resized(call: Call, kind: Kind, channels: Axis | None = None) -> Kind:
    """The same image with the sizes of the result, on other channels where they are given."""
    sizes = call.shape[-2:]
    axes = [((Atom(n, s, s - 1),),) for n, s in zip("hw", sizes, strict=True)]
    return Kind((kind.axes[0], kind.axes[1] if channels is None else channels, *axes))


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
                (rest, ss),
            )
            return
    alike = all(a == b for a, b in map(pair, (k, s, p, d)))
    if call.swaps and not alike and max(kind.shape[2:]) > 1:
        k = " × ".join(map(str, pair(k)))
        call.breaks(
            f"a window of {k} treats height and width differently, which the group exchanges",
            "use a square kernel, or C2 or D2",
            "other",
        )


@operation("conv2d")
def conv(call: Call) -> Any:
    """Cross-correlation with a kernel of the parameters.

    Raises:
        Untyped: the kernel depends on the input.
    """
    weight = call.arg(1, "weight")
    if not isinstance(weight, Const):
        raise Untyped("convolves with a kernel that depends on the input")
    stride, padding = call.arg(3, "stride", 1), call.arg(4, "padding", 0)
    dilation, groups = call.arg(5, "dilation", 1), call.arg(6, "groups", 1)
    call.kwargs = {"bias": call.arg(2, "bias")}
    return _conv(call, weight, stride, padding, dilation, groups)


@layer(nn.Conv2d)
def conv_layer(call: Call) -> Any:
    """As `conv`; its weight is a kernel that the group turns."""
    m: Any = call.module
    weight = _own(call)
    call.kwargs = {"bias": own(call, "bias")}
    return _conv(call, weight, m.stride, m.padding, m.dilation, m.groups)


def _own(call: Call) -> Const:
    """The kernel of a layer; a table of its entries only where channels are pixels."""
    weight, path = call.module.weight, f"{call.path}.weight"  # type: ignore[union-attr]
    if isinstance(weight, nn.Parameter) and plain_or_channels(call.kind().axes[1]):
        return whole_constant(weight, path)
    return constant(weight, path)  # type: ignore[arg-type]


def _conv(call: Call, weight: Const, s: Any, p: Any, d: Any, groups: int) -> Kind:
    k = tuple(weight.value.shape[2:])
    still = p in (0, (0, 0), "valid", "same") and plain_or_channels(call.kind().axes[1])
    if max(*k, *pair(s)) == 1 and still:
        b, channels, *rest = call.kind().axes  # pixel by pixel, whatever the pixels are
        return Kind((b, mixed(call, weight, channels, groups), *rest))
    kind = grid(call, moved=groups == 1)
    if p == "same":
        span = [dd * (kk - 1) for kk, dd in zip(k, pair(d), strict=True)]
        if any(x % 2 for x in span):
            call.breaks(
                "pads an even kernel to the same size, with one more pixel on one side",
                "use an odd kernel, or pad both sides alike",
                "padding",
            )
        p = tuple(x // 2 for x in span)
    p = 0 if p == "valid" else p
    aligned(call, kind, k, s, p, d)
    point = max(kind.shape[2:]) == 1
    return resized(call, kind, mixed(call, weight, kind.axes[1], groups, point=point))


@operation("conv_transpose2d")
def conv_transpose(call: Call) -> Any:
    """As `conv`, upwards.

    Raises:
        Untyped: the kernel depends on the input.
    """
    weight = call.arg(1, "weight")
    if not isinstance(weight, Const):
        raise Untyped("convolves with a kernel that depends on the input")
    extra, groups = call.arg(5, "output_padding", 0), call.arg(6, "groups", 1)
    call.kwargs = {"bias": call.arg(2, "bias")}
    return _up(call, weight, extra, groups)


@layer(nn.ConvTranspose2d)
def conv_transpose_layer(call: Call) -> Any:
    """As `conv_transpose`."""
    m: Any = call.module
    weight = _own(call)
    call.kwargs = {"bias": own(call, "bias")}
    return _up(call, weight, m.output_padding, m.groups)


def _up(call: Call, weight: Const, extra: Any, groups: int) -> Kind:
    """As `_conv`.

    Raises:
        Untyped: channels that the group moves are convolved in groups.
    """
    kind = grid(call)
    if groups > 1 and not (rests(kind.axes[1]) and rests(call.fresh(weight, call.shape[1]))):
        raise Untyped("convolves groups of channels, which the group moves")
    channels = mixed(call, weight, kind.axes[1], 1, up=True)
    k = weight.value.shape[2:]
    if call.swaps and k[0] != k[1]:
        call.breaks("a window that is not square, where the group exchanges its axes", "", "other")
    if any(pair(extra)):
        call.breaks(
            "output_padding adds pixels on one side only",
            "use a kernel whose size has the parity of the stride, and no output_padding",
            "padding",
        )
    return resized(call, kind, channels)


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
