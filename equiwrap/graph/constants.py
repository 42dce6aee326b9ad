"""Values that follow from parameters alone: a position table, cut, gathered and transposed.

Where such a chain only moves entries, labels say which entry of the table lies where: the same
operations applied to the numbers 0, 1, 2, …. The orbits of the entries follow from it. Sums of
tables keep the labels of each. Where a chain computes (a table resized, a kernel normalised), it is
run again on projected tables: `settled` proposes how each lies on a grid, and keeps what works.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..groups import Elements, Group
from ..reynolds import orbit_mean, orbits_of
from .kinds import Atom, Kind, Untyped, free, letter
from .rules import Const

__all__ = ["constant", "invariant", "run_constant", "settled", "whole_constant"]

_MOVES = """view reshape permute transpose expand unsqueeze squeeze flatten unflatten getitem
index_select flip roll narrow select chunk split unbind movedim repeat t expand_as view_as
swapaxes rot90 repeat_interleave gather take"""
_SAME = "contiguous clone detach to float double half type type_as requires_grad_ cuda cpu"
_SUMS = "add sub add_ __radd__"
Tables = dict[str, Tensor]


def constant(value: Tensor, path: str) -> Const:
    """A parameter by its path; a buffer is a computed table, which is left as it is."""
    if not isinstance(value, nn.Parameter):
        return Const(value.detach(), whole=path)
    labels = torch.arange(value.numel()).reshape(value.shape)
    return replace(whole_constant(value, path), terms=((labels, path),))


def whole_constant(value: nn.Parameter, path: str) -> Const:
    """A parameter as it stands, without labels of its entries."""
    fixed = value.detach()
    return Const(fixed, None, {path: fixed}, lambda tables: tables.get(path, fixed), path)


def cached(value: Any, module: nn.Module, path: str) -> Any:
    """A tensor kept in a cache, recognised as `table[:, index]` of a parameter and a buffer."""
    if not isinstance(value, Tensor):
        return value
    for name, table in module.named_parameters(recurse=False):
        for index in module.buffers(recurse=False):
            if table.dim() == 2 and not index.is_floating_point():
                full = constant(table, f"{path}.{name}" if path else name)
                found = run_constant("getitem", operator.getitem, (full, (slice(None), index)), {})
                if torch.equal(found.value, value):
                    return found
    return Const(value)


def run_constant(name: str, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The operation on constants: on the values, and on the labels where it only moves them."""
    with torch.no_grad():
        found = run(*_map(_value, args), **_map(_value, kwargs))
    consts = [c for c in _leaves((args, kwargs)) if isinstance(c, Const)]
    sources = {path: value for const in consts for path, value in const.sources.items()}

    def again(tables: Tables) -> Any:
        remade = [_map(lambda leaf: _remade(leaf, tables), part) for part in (args, kwargs)]
        return run(*remade[0], **remade[1])

    if isinstance(found, Tensor):
        terms = _terms(name, run, args, kwargs, found)
        return Const(found, terms, sources, again if sources else None)
    if not isinstance(found, (tuple, list)):
        return found
    first = args[0] if args else None
    moved: list[tuple[Any, str]] = []
    if isinstance(first, Const) and name in _MOVES.split():
        moved = [_moved(run, term, args, kwargs) for term in first.terms or ()]
    return tuple(
        Const(
            part,
            tuple((parts[i], path) for parts, path in moved) or None,
            sources,
            partial(_one, again, i) if sources else None,
        )
        if isinstance(part, Tensor)
        else part
        for i, part in enumerate(found)
    )


def _one(again: Callable[[Tables], Any], i: int, tables: Tables) -> Tensor:
    return again(tables)[i]


def _terms(
    name: str, run: Callable[..., Any], args: Any, kwargs: Any, found: Tensor
) -> tuple[tuple[Tensor, str], ...] | None:
    consts = [a for a in args if isinstance(a, Const)]
    if not consts or consts[0] is not args[0] or consts[0].terms is None:
        return None
    terms = consts[0].terms
    if name in _SAME.split():
        return terms
    if name in _MOVES.split():
        return tuple(_moved(run, term, args, kwargs) for term in terms)
    if name in _SUMS.split() and all(c.terms is not None for c in consts):
        every = [term for const in consts for term in const.terms or ()]
        return tuple((labels.expand(found.shape), path) for labels, path in every)
    numbers = all(isinstance(a, (int, float)) for a in args[1:])
    return terms if name in ("mul", "div", "mul_", "div_", "neg") and numbers else None


def _moved(
    run: Callable[..., Any], term: tuple[Tensor, str], args: Any, kwargs: Any
) -> tuple[Any, str]:
    labels, path = term
    return run(labels, *_map(_value, args[1:]), **_map(_value, kwargs)), path


def _value(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Const) else leaf


def _remade(leaf: Any, tables: Tables) -> Any:
    if not isinstance(leaf, Const):
        return leaf
    return leaf.value if leaf.remake is None else leaf.remake(tables)


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    return tree_map(function, value, is_leaf=lambda leaf: isinstance(leaf, Const))


def _leaves(value: Any) -> list[Any]:
    return tree_leaves(value, is_leaf=lambda leaf: isinstance(leaf, Const))


# -- demands ---------------------------------------------------------------------------------------


def invariant(group: Group, elements: list[Elements], value: Tensor, kind: Kind) -> bool:
    """*g·t = t* for these elements, to 1e-5 of the size of the table."""
    value = value.double() if value.is_floating_point() or value.dtype == torch.bool else value
    size = max(float(value.abs().max()), 1e-30) if value.numel() else 1.0
    moved = [kind.act(group, g, value).to(value) for g in elements]
    return all(torch.allclose(m, value, rtol=0, atol=1e-5 * size) for m in moved)


def settled(
    group: Group, elements: list[Elements], const: Const, kind: Kind
) -> list[tuple[str, Tensor, Kind]] | None:
    """(path, labels, kind) of the tables whose projection makes a computed constant invariant.

    Each source is tried alone, the others at zero. None where a source has no such projection.
    """
    found = []
    for path, table in const.sources.items():
        quiet = {other: torch.zeros_like(t) for other, t in const.sources.items() if other != path}
        for proposal in proposals(tuple(table.shape)):
            labels = torch.arange(table.numel()).reshape(table.shape)
            pairs = [(labels, proposal.act(group, g, labels)) for g in elements]
            projected = orbit_mean(table, orbits_of(table.numel(), pairs))
            try:
                remade = const.remake({**quiet, path: projected})  # type: ignore[misc]
                good = invariant(group, elements, remade, kind)
            except (RuntimeError, Untyped):
                continue
            if good:
                found.append((path, labels, proposal))
                break
        else:
            return None
    return found


def proposals(shape: tuple[int, ...]) -> Iterator[Kind]:
    """Ways in which a table may lie on a square grid: two axes of it, or one with all its pixels.

    Up to eight entries (class tokens) may stand before the pixels.
    """
    for i in range(len(shape) - 2, -1, -1):
        if shape[i] == shape[i + 1] > 1:
            axes = [free(size) for size in shape]
            axes[i : i + 2] = [letter("h", shape[i]), letter("w", shape[i])]
            yield Kind(tuple(axes))
    for i, size in enumerate(shape):
        for before in range(9):
            side = math.isqrt(max(size - before, 0))
            if side > 1 and side * side == size - before:
                pixels = (Atom("h", side, side - 1), Atom("w", side, side - 1))
                whole = (*free(before), pixels) if before else (pixels,)
                yield Kind((*map(free, shape[:i]), whole, *map(free, shape[i + 1 :])))
