"""Nested arguments and results: their leaves, their structure, and which values are plain."""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

from .traced import Sizes, is_traced

__all__ = ["PLAIN", "identities", "leaves_of", "plain", "rebuild", "strip"]

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), enum.Enum)
PLAIN_TORCH = (torch.dtype, torch.device, torch.memory_format, torch.layout)


def plain(value: Any) -> bool:
    """True for a number, a text, None, a dtype, …, and for tuples of them."""
    if isinstance(value, (tuple, frozenset)):
        return all(plain(part) for part in value)
    return isinstance(value, (*PLAIN, *PLAIN_TORCH))


def leaves_of(value: Any, found: list[Any]) -> Any:
    """Append the leaves of nested tuples, lists and dicts; return the structure, which compares."""
    kind = type(value)
    if kind in (tuple, list) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return kind, tuple([leaves_of(part, found) for part in value])
    if kind in (dict, OrderedDict):
        return kind, tuple([(key, leaves_of(part, found)) for key, part in value.items()])
    found.append(value)
    return None


def _mapped(value: Any, leaf: Any) -> Any:
    """The same nesting, in new containers, with `leaf(x)` for every leaf x."""
    kind = type(value)
    if kind in (tuple, list):
        return kind([_mapped(part, leaf) for part in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*[_mapped(part, leaf) for part in value])
    if kind in (dict, OrderedDict):
        return kind((key, _mapped(part, leaf)) for key, part in value.items())
    return leaf(value)


def rebuild(value: Any, leaves: Iterator[Any]) -> Any:
    """The nesting of `value` around other leaves."""
    return _mapped(value, lambda _: next(leaves))


def identities(value: Any) -> Any:
    """Structure and identities of the leaves: equal while nothing was put in or taken out."""
    leaves: list[Any] = []
    structure = leaves_of(value, leaves)
    return structure, [id(leaf) for leaf in leaves]


def strip(value: Any) -> Any:
    """Traced numbers → their values, through nested containers."""

    def bare(leaf: Any) -> Any:
        if is_traced(leaf):
            return leaf.value
        if type(leaf) is Sizes:
            return torch.Size([strip(v) for v in leaf])
        if type(leaf) is slice:
            return slice(strip(leaf.start), strip(leaf.stop), strip(leaf.step))
        return leaf

    return _mapped(value, bare)
