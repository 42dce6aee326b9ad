"""Hooks of a copy: those that are part of the model stay, what somebody hung on it goes."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

__all__ = ["drop_hooks"]

_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_LIBRARIES = ("torch.nn", "transformers")


def drop_hooks(model: nn.Module) -> None:
    """Removes the hooks of all modules, in place, but for those that the forward needs.

    These are what the libraries install (weight norm; hidden states of transformers, which are
    collected so), and methods of the model or of what it holds, as in a network that keeps its own
    features, or a layer that waits for its shape.
    """
    own = {id(model)}
    for module in model.modules():
        own.update([id(module), *map(id, module.__dict__.values())])
    for module in model.modules():
        for kind in _KINDS:
            hooks = module.__dict__.get(kind) or {}
            for key, hook in list(hooks.items()):
                if not _needed(hook, own):
                    del hooks[key]


def _needed(hook: Any, own: set[int]) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    owner = getattr(hook, "__self__", None)
    if owner is not None and id(owner) in own:
        return True
    places = (getattr(hook, "__module__", None), type(hook).__module__)
    return any(f"{place}.".startswith(f"{lib}.") for place in places for lib in _LIBRARIES)
