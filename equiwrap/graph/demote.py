"""What is recorded as one node because a graph cannot repeat what happens inside.

Innermost first: a helper function, then a method of the module, then the container itself, which
stays the user's own code.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .level import Level, Output, class_of
from .plan import Plan
from .record import Recorder
from .seams import everywhere

__all__ = ["Demoted", "method_leaf"]

Made = tuple[Level, Plan | Output]


class Demoted:
    """The helper functions and methods that are recorded as one node."""

    def __init__(self) -> None:
        self.functions: dict[types.CodeType, dict[str, Any]] = {}
        self.methods: dict[type, set[str]] = {}
        self.unwatched: dict[str, str] = {}  # containers that do not run while they are recorded

    def widen(self, levels: list[Made]) -> bool:
        """Demote the innermost helper of every recording that failed; False if there is none."""
        failed = [level for level, made in levels if not isinstance(made, Plan)]
        found = [any(self._demote(level, *frame) for frame in level.frames) for level in failed]
        return any(found)

    def excuse(self, error: BaseException) -> bool:
        """Demote the innermost helper in which a watched run raised; False if there is none."""
        frames = []
        trace = error.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame)
            trace = trace.tb_next
        for frame in reversed(frames):
            code, space = frame.f_code, frame.f_globals
            if _is_function(code, space) and code not in self.functions:
                self.functions[code] = space
                return True
        return False

    def _demote(self, level: Level, code: types.CodeType, space: Any, owner: Any) -> bool:
        if _is_function(code, space) and code not in self.functions:
            self.functions[code] = space
            return True
        if not isinstance(owner, nn.Module) or id(owner) not in level.modules:
            return False
        cls, name = class_of(owner), code.co_name
        method = getattr(cls, name, None)
        known = self.methods.setdefault(cls, set())
        if getattr(method, "__code__", None) is not code or name in {"forward", *known}:
            return False
        known.add(name)
        return True

    @contextmanager
    def applied(self, recorder: Recorder) -> Iterator[None]:
        """While recording, the demoted functions are leaves wherever a module names them."""
        functions = [space[code.co_name] for code, space in self.functions.items()]
        if not functions:
            yield
            return
        with everywhere({function: recorder.demoted(function) for function in functions}):
            yield


def _is_function(code: types.CodeType, space: dict[str, Any]) -> bool:
    found = space.get(code.co_name)
    inner = getattr(found, "__wrapped__", found)
    home = space.get("__name__", "")
    return getattr(inner, "__code__", None) is code and not home.startswith("equiwrap")


def method_leaf(recorder: Recorder, original: type, name: str) -> Callable[..., Any]:
    """A method that is recorded as one node."""

    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run = getattr(original, name).__get__(self)
        return recorder.demoted_method(self, name, run)(*args, **kwargs)

    return method
