"""What a module is and holds: its class, its tensors by path, the globals that its code names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .nested import plain

__all__ = ["class_of", "globals_of", "is_leaf", "reader", "tensors_of", "under_leaf"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYERS = ("torch.nn", "torch.jit", "torch.ao", "torch._dynamo", "torch.fx")


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class that the user wrote."""
    module = module.__dict__.get("_equiwrap_inner", module)
    return getattr(type(module), "_equiwrap_of", type(module))


def is_leaf(module: nn.Module, root: bool = False) -> bool:
    """A layer of torch itself (parametrised or not), or scripted, or marked `opaque`.

    A layer of torch that is the whole model (`root`) is a container: there is no call of it to see.
    """
    if isinstance(module, torch.jit.ScriptModule) or "_equiwrap_inner" in module.__dict__:
        return True
    own = getattr(type(module), "_equiwrap_of", type(module))
    if getattr(module, "_equiwrap_opaque", False):
        return True
    if root or isinstance(module, _CONTAINERS):
        return False
    home = own.__mro__[1].__module__ if hasattr(module, "parametrizations") else own.__module__
    return home.startswith(_LAYERS)


def under_leaf(model: nn.Module, path: str) -> bool:
    """True for the parts of a leaf."""
    parts = path.split(".")
    return any(is_leaf(model.get_submodule(".".join(parts[:i]))) for i in range(1, len(parts)))


def tensors_of(module: nn.Module) -> Iterable[tuple[Tensor, tuple[str, tuple[Any, ...]]]]:
    """Parameters, buffers, attributes by path (and keys into dicts and lists); first name wins."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        for place in (owner._parameters, owner._buffers, owner.__dict__):
            for name, value in place.items():
                path = f"{prefix}.{name}" if prefix else name
                if isinstance(value, Tensor):
                    yield value, (path, ())
                elif place is owner.__dict__ and isinstance(value, (dict, list, tuple)):
                    items = value.items() if isinstance(value, dict) else enumerate(value)
                    for key, part in items:
                        if isinstance(part, Tensor) and plain(key):
                            yield part, (path, (key,))


def globals_of(module: nn.Module) -> list[tuple[dict[str, Any], str, Any]]:
    """The global variables that the forward names: where, name, value."""
    forward = getattr(class_of(module).forward, "__func__", class_of(module).forward)
    space = getattr(forward, "__globals__", {})
    names = getattr(getattr(forward, "__code__", None), "co_names", ())
    return [(space, name, space[name]) for name in names if name in space]


def reader(space: dict[str, Any], name: str) -> Callable[[], Tensor]:
    """A function that gives the global tensor of this name."""

    def read() -> Tensor:
        return space[name]

    read.__name__ = f"global_{name}"
    return read
