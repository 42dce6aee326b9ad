"""Capture: a small fx graph for every container of a model, recorded, verified, never forced.

    capture(model, *args, **kwargs) → Captured

The example runs on a twin of the model, in eval and in train mode. Each container (a module with a
forward of its own) gives a plan in which its children are leaves. What cannot be recorded is
demoted, innermost first: a helper function to one node, then a method of the module, then the
container, which stays the user's own code. All plans are compared with the original forward
(outputs, gradients, buffers, random numbers), and those that differ are dropped.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from ..errors import CaptureError
from .install import install_plans, own_forward, restore, swap
from .level import Level, Output, class_of
from .plan import ABSENT, Plan
from .record import Recorder, is_leaf
from .twin import fresh, held_random, twin_of
from .verify import faithful
from .walk import Walk

__all__ = ["Captured", "capture", "opaque", "record"]

TRIES = 8


def opaque(thing: Any) -> Any:
    """Mark a module class or a module as one node that capture does not look into; returns it."""
    if isinstance(thing, nn.Module):
        thing.__dict__["_equiwrap_opaque"] = True
    else:
        target = thing.forward if isinstance(thing, type) else thing
        target._equiwrap_opaque = True
    return thing


@dataclass
class Captured:
    """`plans[path]` of every container that a graph can stand for; the others have a reason."""

    plans: dict[str, list[Plan]]
    reasons: dict[str, str]
    leaves: dict[str, str] = field(default_factory=dict)

    @property
    def tiers(self) -> dict[str, str]:
        """`graph` (a verified plan) or `hook` (its own code), by path."""
        found = dict.fromkeys(self.plans, "graph") | dict.fromkeys(self.reasons, "hook")
        return dict(sorted(found.items()))

    def visible(self, kind: type | tuple[type, ...] | None = None) -> set[str]:
        """Paths of the leaves that some plan calls; of these classes if named."""
        seen = set()
        for path, plans in self.plans.items():
            for plan in plans:
                for node in plan.graph.nodes:
                    if node.op == "call_module":
                        seen.add(f"{path}.{node.target}" if path else str(node.target))
        seen -= set(self.tiers)
        return seen if kind is None else {p for p in seen if issubclass(self.classes[p], kind)}

    classes: dict[str, type] = field(default_factory=dict)

    def install(self, model: nn.Module) -> Callable[[], None]:
        """Let the plans run in `model`; returns the undo."""
        swapped = [
            (model.get_submodule(path), plans) for path, plans in self.plans.items() if plans
        ]
        for module, plans in swapped:
            install_plans(module, plans)

        def undo() -> None:
            for module, _ in swapped:
                restore(module)

        return undo


def capture(model: nn.Module, *args: Any, **kwargs: Any) -> Captured:
    """The plans of a model's containers on this example.

    Runs the example on copies, six times in eval and train mode; parameters, buffers, attributes,
    hooks and random states of `model` stay as they are. Never fails because a forward cannot be
    traced: that container is then its own code, with the reason.
    """
    modules = model.named_modules(remove_duplicate=False)
    found = Captured({}, {}, classes={n: class_of(m) for n, m in modules})
    with held_random():
        for training in (False, True):
            _capture_mode(model, training, args, kwargs, found)
    for path, module in model.named_modules():
        runs = not is_leaf(module) and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
        seen = path in found.plans or path in found.reasons
        if runs and not seen and not _under_leaf(model, path):
            found.reasons[path] = "is not called on the example"
    for path in found.reasons:
        found.plans.pop(path, None)
    return found


def _under_leaf(model: nn.Module, path: str) -> bool:
    parts = path.split(".")
    return any(is_leaf(model.get_submodule(".".join(parts[:i]))) for i in range(1, len(parts)))


def _capture_mode(
    model: nn.Module, training: bool, args: Any, kwargs: Any, found: Captured
) -> None:
    demoted = _Demoted()
    for attempt in range(TRIES):
        try:
            levels = _record(model, training, args, kwargs, demoted)
        except Exception as error:
            if attempt == 0 and not training:
                found.reasons[""] = f"raises on the example: {type(error).__name__}: {error}"
            return
        if attempt == TRIES - 1 or not demoted.widen(levels):
            break
    plans: dict[str, list[Plan]] = {}
    for level, made in levels:
        if isinstance(made, Plan):
            known = plans.setdefault(level.path, [])
            if all(plan.key != made.key or plan.reads != made.reads for plan in known):
                known.append(made)
        else:
            found.reasons.setdefault(level.path, str(made))
    for path in faithful(model, training, args, kwargs, plans):
        found.reasons.setdefault(path, "its graph does not give what its forward gives")
        plans.pop(path, None)
    for path, some in plans.items():
        found.plans.setdefault(path, []).extend(some)


def _record(
    model: nn.Module, training: bool, args: Any, kwargs: Any, demoted: _Demoted
) -> list[tuple[Level, Plan | Output]]:
    """One watched run of a twin, after one that fills its caches."""
    levels: list[tuple[Level, Plan | Output]] = []

    def done(level: Level, inputs: Any, keywords: Any, value: Any) -> None:
        try:
            levels.append((level, Plan.of(level, inputs, keywords, value)))
        except Output as reason:
            levels.append((level, reason))

    twin = twin_of(model, training)
    given = fresh((args, kwargs))
    with torch.no_grad():
        twin(*given[0], **given[1])
    recorder = Recorder(done)
    observe(twin, recorder, demoted)
    args, kwargs = fresh((args, kwargs))
    with recorder.watching(), demoted.applied(twin, recorder):
        twin(*args, **kwargs)
    return levels


def _method(recorder: Recorder, original: type, name: str) -> Callable[..., Any]:
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run = getattr(original, name).__get__(self)
        return recorder.demoted_method(self, name, run)(*args, **kwargs)

    return method


def record(model: nn.Module, args: Any, kwargs: Any) -> Walk:
    """Every call of every container on this example, in eval mode, not verified.

    Raises:
        CaptureError: the model does not run on the example.
    """
    demoted = _Demoted()
    levels: list[tuple[Level, Plan | Output]] = []
    with held_random():
        for attempt in range(TRIES):
            try:
                levels = _record(model, False, args, kwargs, demoted)
            except Exception as error:
                raise CaptureError(
                    f"{type(model).__name__} does not run on the example "
                    f"({type(error).__name__}: {error}): give one that it takes."
                ) from error
            if attempt == TRIES - 1 or not demoted.widen(levels):
                break
    walk = Walk()
    for level, made in levels:
        walk.calls.setdefault(level.path, []).append(made)
    return walk


def observe(twin: nn.Module, recorder: Recorder, demoted: _Demoted) -> None:
    """Give the modules of a twin classes whose calls, forwards and reads the recorder sees."""
    for path, module in list(twin.named_modules()):
        if _under_leaf(twin, path):
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
            space[name] = _method(recorder, original, name)
        if not is_leaf(module):
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


class _Demoted:
    """The helper functions and methods that are recorded as one node."""

    def __init__(self) -> None:
        self.functions: dict[types.CodeType, dict[str, Any]] = {}
        self.methods: dict[type, set[str]] = {}

    def widen(self, levels: list[tuple[Level, Plan | Output]]) -> bool:
        """Demote the innermost helper of every recording that failed; False if there is none."""
        grown = False
        for level, made in levels:
            if isinstance(made, Plan):
                continue
            grown |= any(self._demote(level, *frame) for frame in level.frames)
        return grown

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
    def applied(self, twin: nn.Module, recorder: Recorder) -> Iterator[None]:
        """While recording, the demoted functions are leaves wherever a module names them."""
        import sys

        with ExitStack() as stack:
            for code, space in self.functions.items():
                function = space[code.co_name]
                leaf = recorder.demoted(function)
                for module in list(sys.modules.values()):
                    names = vars(module) if isinstance(module, types.ModuleType) else {}
                    for name, value in list(names.items()):
                        if value is function:
                            stack.enter_context(patch.dict(names, {name: leaf}))
            yield


def _is_function(code: types.CodeType, space: dict[str, Any]) -> bool:
    found = space.get(code.co_name)
    inner = getattr(found, "__wrapped__", found)
    home = space.get("__name__", "")
    return getattr(inner, "__code__", None) is code and not home.startswith("equiwrap")
