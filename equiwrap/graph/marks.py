"""`opaque`: the user's word that capture shall not look into something."""

from __future__ import annotations

import functools
import types
from typing import Any, TypeVar

from torch import nn

__all__ = ["RECORDERS", "opaque"]

RECORDERS: list[Any] = []  # at work: an opaque function asks whether it is being recorded

T = TypeVar("T")


def opaque(thing: T) -> T:
    """Mark a module, a module class or a function as one node that capture does not look into.

        @ew.opaque                      @ew.opaque                      ew.opaque(model.encoder)
        class Router(nn.Module): ...    def neighbours(x, r): ...

    A module or a class is marked and given back (with its subclasses); of a function a wrapper is
    given back, which is the function itself for everybody but capture. An opaque module runs its
    own code, keeps its place as one node in the graph around it, and its layers are not seen.
    Nothing has to be marked for capture to work: what cannot be recorded is left alone by itself.
    Use it for what should not be rewritten or probed, or to keep a graph short.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(thing, nn.Module):
        thing.__dict__["_equiwrap_opaque"] = True
        return thing
    if isinstance(thing, type) and issubclass(thing, nn.Module):
        thing._equiwrap_opaque = True  # type: ignore[attr-defined]
        return thing
    if not isinstance(thing, (types.FunctionType, types.BuiltinFunctionType)):
        raise TypeError(
            f"opaque({thing!r}) was asked for; it takes a module, a module class or a function."
        )
    function = thing

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not RECORDERS:
            return function(*args, **kwargs)
        return RECORDERS[-1].demoted(function)(*args, **kwargs)

    return run  # type: ignore[return-value]
