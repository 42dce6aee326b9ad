"""Observed classes: the modules of a twin tell the recorder of calls, forwards and reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .demote import Demoted, method_leaf
from .install import own_forward, swap
from .owned import is_leaf, under_leaf
from .reads import ABSENT
from .record import Recorder

__all__ = ["observe"]


def observe(twin: nn.Module, recorder: Recorder, demoted: Demoted) -> None:
    """Give the modules of a twin classes whose calls, forwards and reads the recorder sees."""
    for path, module in list(twin.named_modules()):
        if under_leaf(twin, path):
            continue
        if isinstance(module, torch.jit.ScriptModule):  # its class cannot be swapped
            if not path:
                return
            module = _Stand(module)
            twin.set_submodule(path, module)
        original = type(module)

        def call(self: nn.Module, *args: Any, _of: Any = original, **kwargs: Any) -> Any:
            return recorder.call(self, _of.__call__.__get__(self), args, kwargs)

        def forward(self: nn.Module, *args: Any, _of: Any = original, **kwargs: Any) -> Any:
            return recorder.forward(self, own_forward(self, _of), args, kwargs)

        def read(self: nn.Module, name: str, _of: Any = original) -> Any:
            if recorder.on:
                own = _of.__getattribute__(self, "__dict__")
                recorder.read(self, name, own[name] if name in own else getattr(_of, name, ABSENT))
            return _of.__getattribute__(self, name)

        space: dict[str, Any] = {"__call__": call, "__getattribute__": read}
        for name in demoted.methods.get(original, ()):
            space[name] = method_leaf(recorder, original, name)
        if not is_leaf(module, root=not path) and path not in demoted.unwatched:
            space["forward"] = forward
        recorder.paths[id(module)] = path
        swap(module, space)


class _Stand(nn.Module):
    """In a twin, a scripted module behind a class that can be swapped."""

    _equiwrap_opaque = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["_equiwrap_inner"] = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_equiwrap_inner"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_equiwrap_inner"](*args, **kwargs)
