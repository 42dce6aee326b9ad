"""Numbers that remember the graph node they came from: sizes read off a tensor while recording.

A traced number has the value that it had on the example and calls itself an `int` or a `float`, so
that the user's code runs as it would; torch's argument parser takes it for a symbolic number.
Arithmetic makes new nodes. Whatever needs the bare value (a comparison, `range`, an index, a hash,
`str`) leaves a *guard*: a node and the value that it must have for the recording to hold.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import fx

__all__ = ["Sizes", "Traced", "bare", "is_traced", "traced"]


class Owner(Protocol):
    """The recording that a traced number belongs to."""

    live: bool

    def compute(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args) as a node, traced again if it is a number."""

    def guard(self, node: fx.Node, value: Any) -> None:
        """The recording holds only where the node has this value."""


class Traced:
    """A number with its node; `value` is what it was on the example."""

    value: int | float
    origin: fx.Node
    owner: Owner

    def __init__(self, value: int | float, origin: fx.Node, owner: Owner) -> None:
        self.value, self.origin, self.owner = value, origin, owner

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        return type(self.value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self.value, name):  # torch's parser asks for some
            raise AttributeError(name)
        return getattr(self._pin(), name)

    def _pin(self) -> Any:
        if self.owner.live:
            self.owner.guard(self.origin, self.value)
        return self.value

    def __hash__(self) -> int:
        # einops caches by shape, and takes an uncached road for sizes that cannot be hashed
        if sys._getframe(1).f_globals.get("__name__", "").startswith("einops"):
            raise TypeError("a traced size is not hashed")
        return hash(self._pin())

    def __bool__(self) -> bool:
        return _compare(operator.ne, self, 0)

    def __round__(self, digits: int | None = None) -> Any:
        return _calculate(round, self) if digits is None else round(self._pin(), digits)


class _Int(Traced, torch.SymInt):
    """A size."""


class _Float(Traced, torch.SymFloat):  # type: ignore[misc]
    """A quotient of sizes."""


def traced(value: int | float, origin: fx.Node, owner: Owner) -> Traced:
    """The number, tied to its node."""
    return (_Float if isinstance(value, float) else _Int)(value, origin, owner)


def is_traced(value: Any) -> bool:
    """True for a number that knows its node."""
    return type(value) in (_Int, _Float)


def bare(value: Any) -> Any:
    """The number itself, without a guard: for calls that the graph repeats."""
    return value.value if is_traced(value) else value


def _calculate(function: Callable[..., Any], *args: Any) -> Any:
    owner = next(a.owner for a in args if is_traced(a))
    plain = all(is_traced(a) or type(a) in (int, float) for a in args)
    if owner.live and plain and all(a.owner is owner for a in args if is_traced(a)):
        return owner.compute(function, *args)
    return function(*[_pinned(a) for a in args])


def _compare(function: Callable[..., Any], *args: Any) -> bool:
    found = _calculate(function, *args)
    return found._pin() if is_traced(found) else found


def _forward(function: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *rest: then(function, self, *rest)


def _backward(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: _calculate(function, other, self)


for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow"):
    _function = getattr(operator, _name)
    setattr(Traced, f"__{_name}__", _forward(_function, _calculate))
    setattr(Traced, f"__r{_name}__", _backward(_function))
for _name in ("neg", "pos", "abs"):
    setattr(Traced, f"__{_name}__", _forward(getattr(operator, _name), _calculate))
for _name in ("ceil", "floor", "trunc"):
    setattr(Traced, f"__{_name}__", _forward(getattr(math, _name), _calculate))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Traced, f"__{_name}__", _forward(getattr(operator, _name), _compare))
for _name, _type in {"int": int, "float": float, "str": str, "repr": repr}.items():
    setattr(Traced, f"__{_name}__", lambda self, _type=_type: _type(self._pin()))
for _name in ("and", "or", "xor", "lshift", "rshift", "divmod"):
    _function = getattr(operator, f"__{_name}__", divmod)
    setattr(
        Traced, f"__{_name}__", lambda self, other, _f=_function: _f(self._pin(), _pinned(other))
    )
    setattr(
        Traced, f"__r{_name}__", lambda self, other, _f=_function: _f(_pinned(other), self._pin())
    )
Traced.__index__ = lambda self: int(self._pin())  # type: ignore[attr-defined]
setattr(Traced, "__format__", lambda self, spec: format(self._pin(), spec))  # noqa: B010


def _pinned(value: Any) -> Any:
    return value._pin() if is_traced(value) else value


class Sizes(tuple):
    """`x.shape` while recording: a tuple of traced numbers with torch.Size's one method."""

    __slots__ = ()

    def numel(self) -> Any:
        """The product."""
        return math.prod(self)

    def __getitem__(self, at: Any) -> Any:
        found = tuple.__getitem__(self, at)
        return Sizes(found) if isinstance(at, slice) else found

    def __add__(self, other: Any) -> Any:
        return Sizes(tuple.__add__(self, tuple(other)))

    def __radd__(self, other: Any) -> Any:
        return Sizes((*other, *self))
