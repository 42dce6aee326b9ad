"""The places that a torch function mode cannot see, patched for as long as a recorder watches.

Entering autocast or checkpointing, printing and warning mark the open recording; asking whether
gradients or autocast are on ties it to the answer; `torch.broadcast_shapes` becomes a node. All of
them do what they did before.
"""

from __future__ import annotations

import builtins
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from .marks import RECORDERS
from .nested import strip

if TYPE_CHECKING:
    from .record import Recorder

__all__ = ["AUTOCAST", "everywhere", "watching"]

AUTOCAST = "opens an autocast region"
_LOCK = threading.RLock()  # patches are seen by the whole process
_FOUND: dict[str, tuple[int, list[str]]] = {}  # how many names a module has, and the questions


@contextmanager
def watching(recorder: Recorder) -> Iterator[None]:
    """Gradients are on, and the recorder hears of what it cannot see."""
    autocast = torch.amp.autocast_mode.autocast
    hooks = torch.autograd.graph.saved_tensors_hooks
    heard = [
        (autocast, "__enter__", AUTOCAST),
        (hooks, "__enter__", "checkpoints activations"),
        (warnings, "warn", "calls warn"),
        (builtins, "print", "calls print"),
    ]
    asked = [("is_grad_enabled", "moded"), ("is_autocast_enabled", "typed")]
    with _LOCK, ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for place, name, reason in heard:
            new = _noted(recorder, getattr(place, name), reason)
            stack.enter_context(patch.object(place, name, new))
        questions = [(getattr(torch, name), flag) for name, flag in asked]
        heard_by = {function: _asked(recorder, function, flag) for function, flag in questions}
        stack.enter_context(everywhere(heard_by))
        stack.enter_context(patch.object(torch, "broadcast_shapes", _shapes(recorder)))
        RECORDERS.append(recorder)
        stack.callback(RECORDERS.pop)
        yield


@contextmanager
def everywhere(others: dict[Callable[..., Any], Callable[..., Any]]) -> Iterator[None]:
    """While it lasts, every module that names one of these functions names its other one."""
    new = {id(function): other for function, other in others.items()}
    builtin = all(isinstance(function, types.BuiltinFunctionType) for function in others)
    named = [
        (space, name, space[name])
        for module, space in _spaces()
        for name in _names(module, space, new, builtin)
    ]
    for space, name, value in named:
        space[name] = new[id(value)]
    try:
        yield
    finally:
        for space, name, value in named:
            space[name] = value


def _spaces() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and not name.startswith(("torch._C", "equiwrap")):
            yield name, vars(module)


def _names(module: str, space: dict[str, Any], new: dict[int, Any], keep: bool) -> list[str]:
    """The names of these functions in a module; of torch's own remembered while none is added."""
    size, found = _FOUND.get(module, (-1, []))
    if not keep or size != len(space):
        found = [name for name, value in list(space.items()) if id(value) in new]
    if keep:
        _FOUND[module] = len(space), found
    return [name for name in found if id(space.get(name)) in new]


def _noted(recorder: Recorder, original: Callable[..., Any], reason: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if recorder.stack and recorder.on:
            recorder.mark(recorder.stack[-1], reason)
        return original(*args, **kwargs)

    return call


def _asked(recorder: Recorder, original: Callable[..., Any], flag: str) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        if recorder.stack:
            setattr(recorder.stack[-1], flag, True)
        return original(*args)

    return call


def _shapes(recorder: Recorder) -> Callable[..., Any]:
    original = torch.broadcast_shapes

    def call(*shapes: Any) -> Any:
        value = original(*[strip(tuple(s)) for s in shapes])
        if not recorder.stack or not recorder.on:
            return value
        return recorder.stack[-1].place("call_function", original, shapes, {}, value)

    return call
