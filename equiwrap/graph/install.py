"""How plans come to run: a container's class is swapped for a generated subclass, and back.

Nothing else of the module moves: parameters, hooks, attributes, `isinstance`, keys. A call that no
plan holds for runs the container's own forward.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

from torch import nn

from .expect import attempted
from .owned import class_of
from .plan import Plan, lookup

__all__ = ["restore", "swap"]


def swap(module: nn.Module, space: dict[str, Any]) -> None:
    """Give the module a generated subclass of its class with these attributes."""
    original = type(module)
    body = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "_equiwrap_of": class_of(module),
        "_equiwrap_below": original,
        **space,
    }
    if "forward" in module.__dict__ and "forward" in body:
        method = body["forward"]
        body["forward"] = property(lambda self: method.__get__(self), lambda self, value: None)
    module.__class__ = types.new_class(
        original.__name__, (original,), {}, lambda own: own.update(body)
    )


def restore(module: nn.Module) -> None:
    """Undo the last `swap`, also below classes that were put on top (parametrizations)."""
    top = type(module)
    if "_equiwrap_below" in vars(top):
        module.__class__ = vars(top)["_equiwrap_below"]
        return
    for cls in top.__mro__:
        if any("_equiwrap_below" in vars(base) for base in cls.__bases__):
            cls.__bases__ = tuple(vars(b).get("_equiwrap_below", b) for b in cls.__bases__)
            return


def own_forward(module: nn.Module, original: type[nn.Module]) -> Callable[..., Any]:
    """The forward that the user wrote, of the class or set on the instance."""
    own = module.__dict__.get("forward")
    return original.forward.__get__(module) if own is None else own


def install_plans(module: nn.Module, plans: list[Plan]) -> None:
    """Calls that a plan holds for run its generated forward."""
    original = type(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plan, leaves = lookup(plans, self, args, kwargs)
        if plan is None:
            return own_forward(self, original)(*args, **kwargs)
        if not plan.uncertain:
            return plan(self, leaves)
        return attempted(
            lambda: plan(self, leaves), lambda: own_forward(self, original)(*args, **kwargs), leaves
        )

    functools.update_wrapper(forward, original.forward, updated=())

    def deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
        own = getattr(original, "__deepcopy__", None)
        if own is not None:
            return own(self, memo)
        if "parametrizations" in self._modules:  # torch refuses to pickle these, and copies them so
            twin = memo[id(self)] = self.__new__(type(self))
            twin.__dict__ = copy.deepcopy(self.__dict__, memo)
            return twin
        return copy._reconstruct(self, memo, *original.__reduce_ex__(self, 4))  # type: ignore[attr-defined]

    def reduce(self: nn.Module, protocol: Any = None) -> Any:
        return _plain, (class_of(self),), self.__dict__

    swap(module, {"forward": forward, "__deepcopy__": deepcopy, "__reduce_ex__": reduce})


def _plain(cls: type[nn.Module]) -> nn.Module:
    return cls.__new__(cls)
