"""What the hidden channels of a model do on data: variables, their values, their energies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .hidden import channels_of
from .kinds import Kind, free
from .propagate import Site, Typing
from .snap import moved_inputs
from .twin import held_random
from .walk import Visit

__all__ = ["energies_of", "first_inputs", "seen_at", "values_of", "variables"]

SAMPLES = 64


def first_inputs(data: Any) -> tuple[Any, ...]:
    """Up to 64 inputs, from a tensor, a tuple of inputs or a loader of either."""
    if not isinstance(data, (Tensor, tuple)) and isinstance(data, Iterable):
        data = next(iter(data), ())
        data = data[0] if isinstance(data, (list, tuple)) and data else data
    given = data if isinstance(data, tuple) else (data,)
    return tuple(x[:SAMPLES] if isinstance(x, Tensor) and x.dim() else x for x in given)


def variables(typing: Typing) -> dict[str, list[str]]:
    """Sources that share their channels, under the first of them."""
    parent: dict[str, str] = {}

    def root(path: str) -> str:
        while parent.setdefault(path, path) != path:
            path = parent[path]
        return path

    for site in typing.sites.values():
        for axis in site.kind.axes if isinstance(site.kind, Kind) else ():
            for atom in channels_of(axis):
                first, *others = sorted(atom.origin)
                for other in others:
                    parent[root(other)] = root(first)
                root(first)
    found: dict[str, list[str]] = {}
    for path in typing.hidden.sizes:
        if path in parent:
            found.setdefault(root(path), []).append(path)
    return found


def seen_at(typing: Typing, paths: list[str]) -> Site | None:
    """The last value with all of these channels, on a grid if there is one."""
    wanted = set(paths)
    best: tuple[bool, Site] | None = None
    for site in typing.sites.values():
        if not isinstance(site.kind, Kind) or site.inner or typing.hidden.leads.get(paths[0]):
            continue
        axes = [axis for axis in site.kind.axes if channels_of(axis)]
        if len(axes) != 1 or len(axes[0]) > 1 or not wanted >= set(channels_of(axes[0])[0].origin):
            continue
        size = Kind((axes[0],)).shape[0]
        on_grid = site.kind.plain_grid() is not None
        if size == typing.hidden.sizes[paths[0]] and (best is None or on_grid >= best[0]):
            best = on_grid, site
    return None if best is None else best[1]


def values_of(
    twin: nn.Module, typing: Typing, inputs: tuple[Any, ...], sites: list[Site]
) -> dict[Any, tuple[Tensor, list[Tensor]]]:
    """`{site: (a(x), [a(g x) for every g])}`."""
    keys = {site.at.key for site in sites}
    runs: list[dict[Any, Tensor]] = []
    for g in typing.group.elements():
        found: dict[Any, Tensor] = {}

        def visitor(visit: Visit, go: Callable[[], Any], found: dict[Any, Tensor] = found) -> Any:
            value = go()
            if visit.at.key in keys:
                found[visit.at.key] = value.detach().clone()
            return value

        with torch.no_grad(), held_random(), typing.walk.visited(twin, visitor):
            twin(*moved_inputs(typing, g, inputs))
        runs.append(found)
    return {key: (runs[0][key], [run[key] for run in runs]) for key in keys}


def energies_of(typing: Typing, site: Site, plain: Tensor, moved: list[Tensor]) -> Tensor:
    """*T[g, c, d]*: over samples and pixels, in float64."""
    kind = site.kind
    at = next(i for i, axis in enumerate(kind.axes) if channels_of(axis))
    pixels = Kind(tuple(free(plain.shape[at]) if i == at else a for i, a in enumerate(kind.axes)))
    rows = []
    for g, there in zip(typing.group.elements(), moved, strict=True):
        here = pixels.act(typing.group, g, plain).movedim(at, 0).flatten(1).double()
        rows.append(here @ there.movedim(at, 0).flatten(1).double().mT / here.shape[1])
    return torch.stack(rows)
