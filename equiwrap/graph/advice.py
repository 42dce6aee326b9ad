"""What to do about each broken symmetry: a size at which all samplings are centred, and the fix.

    fixes(typing, size_to_use(model, typing, inputs, kwargs))

Sizes are tried, one propagation on a batch of one a candidate.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .kinds import Kind, Untyped
from .propagate import Site, Typing, propagate

__all__ = ["fixes", "size_to_use"]

TRIES = 6


def size_to_use(
    model: nn.Module, typing: Typing, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> int | None:
    """*The nearest N at which no sampling of an N × N image is off its centre.*

    The size at hand if that already holds. The first misaligned layer sees a grid of about N/S: a
    change of N by S times its remainder (or its complement) aligns it and leaves all layers
    before it aligned; so the search goes deeper with every step, the smaller change first. At most
    six propagations. None where it finds no size that the model takes, as for a transformer of a
    fixed size, or where no input is an image.
    """
    side = _side(typing, inputs)
    if side is None or not _off(typing):
        return side
    unknown, tried = len(typing.untyped), {side}
    queue = _next(typing, side, side)
    while queue and len(tried) <= TRIES:
        size = heapq.heappop(queue)[-1]
        if size in tried or not side <= 2 * size <= 3 * side:
            continue
        tried.add(size)
        try:
            found = propagate(model, typing.signature, _resized(typing, inputs, size), kwargs)
        except Exception:  # whatever the model raises at a size that it does not take
            continue
        if not _off(found):
            if len(found.untyped) <= unknown:
                return size
            continue
        for further in _next(found, size, side):
            heapq.heappush(queue, further)
    return None


def _next(typing: Typing, size: int, side: int) -> list[tuple[int, int, int, int]]:
    """Sizes that align the first misaligned layer: (−S, change, −size, size), a heap."""
    site = _off(typing)[0]
    rest, stride = next((why.off for why in site.broken if why.off), (1, 2))
    grids = [_height(kind) for kind in site.inputs if isinstance(kind, Kind)]
    step = 2 ** round(math.log2(size / max([n for n in grids if n] or [size])))
    sizes = [size - step * rest, size + step * (stride - rest)]
    return sorted((-step, abs(n - side), -n, n) for n in sizes)


def _off(typing: Typing) -> list[Site]:
    """The sites whose sampling is not centred."""
    sites = typing.sites.values()
    return [s for s in sites if s.broken or (s.why is not None and s.why.kind == "stride")]


def _height(kind: Kind) -> int:
    atoms = [atom for axis in kind.axes for atom in axis[0] if atom.name == "h"]
    return max((a.size * (a.was[0] if a.was else 1) for a in atoms), default=0)


def fixes(typing: Typing, size: int | None) -> list[tuple[str, str, str, str]]:
    """(name, kind, reason, fix) of every node that breaks the symmetry or cannot be followed.

    In the order of execution; a node behind an untyped one is not blamed for it. `size` from
    `size_to_use` is named where it helps.
    """
    found: list[tuple[str, str, str, str]] = []
    seen: set[int] = set()
    for site in typing.sites.values():
        for why in _reasons(site):
            line = site.name, why.kind, why.reason, _fix(why, size)
            if id(why) not in seen and line not in found:
                found.append(line)
            seen.add(id(why))
    return found


def _reasons(site: Site) -> Iterator[Untyped]:
    yield from site.broken
    if site.why is not None:
        yield site.why


def _fix(why: Untyped, size: int | None) -> str:
    if why.kind == "stride":
        instead = why.fix or "blur-pool"
    elif why.kind == "padding":
        instead = why.fix or "pad both sides alike"
    else:
        return why.fix or "average the model, or the part that holds it"
    return f"use {size}, or {instead}" if size is not None else instead


def _side(typing: Typing, inputs: tuple[Any, ...]) -> int | None:
    """The side of the first image among the inputs."""
    for at in _images(typing, inputs):
        return max(inputs[at].shape[i] for i in _grid_axes(typing, inputs, at))
    return None


def _images(typing: Typing, inputs: tuple[Any, ...]) -> Iterator[int]:
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and len(_grid_axes(typing, inputs, i)) == 2:
            yield i


def _grid_axes(typing: Typing, inputs: tuple[Any, ...], at: int) -> list[int]:
    """The places of height and width among the axes of an input."""
    kinds = typing.signature.inputs
    if at >= len(kinds) or kinds[at][1].untouched:
        return []
    try:
        kind = Kind.of(kinds[at][1], inputs[at].shape)
    except Untyped:
        return []
    plain = [axis[0][0].name if len(axis) == len(axis[0]) == 1 else "" for axis in kind.axes]
    return [i for i, name in enumerate(plain) if name in ("h", "w")]


def _resized(typing: Typing, inputs: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """Noise of another size, one sample where every tensor is an image."""
    images = set(_images(typing, inputs))
    alone = all(i in images for i, x in enumerate(inputs) if isinstance(x, Tensor))
    done = list(inputs)
    for i in images:
        shape = list(inputs[i].shape)
        for axis in _grid_axes(typing, inputs, i):
            shape[axis] = size
        batch = typing.signature.inputs[i][1].batch
        if alone and batch is not None:
            shape[batch] = 1
        draw = torch.Generator().manual_seed(i)
        done[i] = torch.randn(shape, dtype=inputs[i].dtype, generator=draw).to(inputs[i].device)
    return tuple(done)
