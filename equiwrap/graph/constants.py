"""Values that follow from parameters alone: a position table, cut, gathered and transposed.

Where such a chain only moves entries, labels say which entry of the table lies where: the same
operations applied to the numbers 0, 1, 2, …. The orbits of the entries follow from it. Sums of
tables keep the labels of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .rules import Const

__all__ = ["constant", "run_constant"]

_MOVES = """view reshape permute transpose expand unsqueeze squeeze flatten unflatten getitem
index_select flip roll narrow select chunk split unbind movedim repeat t expand_as view_as
swapaxes rot90 repeat_interleave gather take"""
_SAME = "contiguous clone detach to float double half type type_as requires_grad_ cuda cpu"
_SUMS = "add sub add_ __radd__"


def constant(value: Tensor, path: str) -> Const:
    """A parameter or buffer by its path."""
    labels = torch.arange(value.numel()).reshape(value.shape)
    return Const(value.detach(), ((labels, path),))


def run_constant(name: str, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The operation on constants: on the values, and on the labels where it only moves them."""
    with torch.no_grad():
        found = run(*_map(_value, args), **_map(_value, kwargs))
    if isinstance(found, Tensor):
        return Const(found, _terms(name, run, args, kwargs, found))
    first = args[0] if args else None
    if isinstance(found, (tuple, list)) and isinstance(first, Const) and name in _MOVES.split():
        moved = [_moved(run, term, args, kwargs) for term in first.terms or ()]
        return tuple(
            Const(v, tuple((parts[i], path) for parts, path in moved) or None)
            for i, v in enumerate(found)
        )
    if isinstance(found, (tuple, list)):
        return tuple(Const(v) if isinstance(v, Tensor) else v for v in found)
    return found


def _terms(
    name: str, run: Callable[..., Any], args: Any, kwargs: Any, found: Tensor
) -> tuple[tuple[Tensor, str], ...] | None:
    consts = [a for a in args if isinstance(a, Const)]
    if not consts or consts[0] is not args[0] or any(c.terms is None for c in consts[:1]):
        return None
    terms = consts[0].terms or ()
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


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    return tree_map(function, value, is_leaf=lambda leaf: isinstance(leaf, Const))
