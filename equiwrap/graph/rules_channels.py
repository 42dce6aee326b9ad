"""What a kernel does to channels: which come out, and what its weight must be symmetric with."""

from __future__ import annotations

import torch

from .kinds import Atom, Axis, Kind, Untyped, free, letter
from .rules import Call, Const, length, rests

__all__ = ["mixed", "whole_table"]


def mixed(
    call: Call,
    weight: Const,
    channels: Axis,
    groups: int,
    *,
    point: bool = False,
    up: bool = False,
) -> Axis:
    """The channels that come out of a kernel `[o, i, h, w]`, which must be symmetric with them.

    Raises:
        Untyped: groups of channels cut across those that move.
    """
    count = call.shape[1]
    k = weight.value.shape[2:]
    out, inside = call.fresh(weight, count), channels
    if groups > 1:
        out, inside = _grouped(call, channels, out, groups)
    bias = call.kwargs.get("bias")
    if isinstance(bias, Const):
        call.demand(bias, Kind((out,)))
    if rests(out) and rests(inside):
        broken = max(k) == 1 or (call.swaps and k[0] != k[1])  # `aligned` has said the second
        if not (broken or point):
            if whole_table(weight):
                call.kernels += weight.sources
            else:
                _demand(call, weight, out, inside, up)
        return out
    if not call.swaps or k[0] == k[1]:
        _demand(call, weight, out, inside, up)
    return out


def _demand(call: Call, weight: Const, out: Axis, inside: Axis, up: bool) -> None:
    first, second, *k = weight.value.shape
    sides = [out, inside] if not up else [inside, out]
    sides = [
        axis if length(axis) == n else free(n)
        for axis, n in zip(sides, (first, second), strict=True)
    ]
    call.demand(weight, Kind((*sides, letter("h", k[0]), letter("w", k[1]))))


def _grouped(call: Call, channels: Axis, out: Axis, groups: int) -> tuple[Axis, Axis]:
    """(outputs, inputs of one group): each channel by itself, or groups of whole fields.

    Raises:
        Untyped: groups of channels cut across those that move.
    """
    count = call.shape[1]
    inside = length(channels) // groups
    if rests(channels) and rests(out):
        return out, free(inside)
    if inside == 1 and count == groups:
        return channels, free(1)  # depthwise: what comes out moves as what goes in
    why = Untyped("convolves groups of channels, which the group moves", lead=groups)
    if not _whole(channels, groups):
        raise why
    if not _whole(out, groups) and call.hidden is not None:
        out = call.hidden.clash(out, why)
    if not _whole(out, groups):
        raise why
    if rests(channels):
        return out, free(inside)
    rest = Atom("", channels[0][0].size // groups)
    block = (rest, *channels[0][1:]) if rest.size > 1 else channels[0][1:]
    return out, (block,)


def _whole(axis: Axis, groups: int) -> bool:
    """True where every group holds whole fields."""
    first = axis[0][0]
    return rests(axis) or (len(axis) == 1 and not first.name and first.size % groups == 0)


def whole_table(const: Const) -> bool:
    """True for a parameter as it stands."""
    if const.whole is not None:
        return const.remake is not None
    if const.terms is None or const.source is None:
        return const.remake is None and len(const.sources) == 1
    labels = const.terms[0][0]
    return torch.equal(labels.flatten(), torch.arange(const.sources[const.source].numel()))
