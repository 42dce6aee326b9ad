"""Capture: a small fx graph for every container of a model, recorded, verified, never forced.

    capture(model, *args, **kwargs) → Captured

The example runs on a twin of the model, in eval and in train mode, watched by a torch function mode
(no proxies: real values, the model's own forward). Each container (a module with a forward of its
own) gives a plan in which its children are leaves. What cannot be recorded is demoted, innermost
first: a helper function to one node, then a method of the module, then the container, which stays
the user's own code. All plans are compared with the original forward (outputs, gradients, buffers,
random numbers), and those that differ are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError
from .demote import Demoted, Made
from .install import install_plans, restore
from .level import Level, Output, class_of, said
from .observe import observe
from .owned import is_leaf, under_leaf
from .plan import Plan, merged
from .record import Recorder
from .seams import watching
from .twin import fresh, held_random, twin_of
from .verify import faithful
from .walk import Walk

__all__ = ["Captured", "capture", "record"]

TRIES = 8


@dataclass
class Captured:
    """`plans[path]` of every container that a graph can stand for; the others have a reason.

    `partly[path]` is the reason why there is a graph in one mode (eval or train) only.
    """

    plans: dict[str, list[Plan]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    partly: dict[str, str] = field(default_factory=dict)
    classes: dict[str, type] = field(default_factory=dict)

    @property
    def tiers(self) -> dict[str, str]:
        """`graph` (a verified plan) or `hook` (its own code), by path."""
        found = dict.fromkeys(self.plans, "graph") | dict.fromkeys(self.reasons, "hook")
        return dict(sorted(found.items()))

    def visible(self, kind: type | tuple[type, ...] | None = None) -> set[str]:
        """Paths of the leaves that some plan calls, or whose weights it uses; of `kind` if named.

        The parts of a layer of torch itself (an attention's projections) are seen with it. A layer
        of that kind with a forward and a graph of its own (a standardised convolution) is seen too.
        """
        seen = {path for path in self.plans if kind and issubclass(self.classes[path], kind)}
        for path, plans in self.plans.items():
            for node in (node for plan in plans for node in plan.graph.nodes):
                target = f"{path}.{node.target}" if path else str(node.target)
                if node.op == "get_attr":
                    target = target.rpartition(".")[0]
                elif node.op != "call_module":
                    continue
                if target in self.tiers:
                    continue
                seen.add(target)
                if getattr(self.classes.get(target), "__module__", "").startswith("torch.nn."):
                    seen |= {n for n in self.classes if n.startswith(f"{target}.")}
        seen &= self.classes.keys()
        return seen if kind is None else {p for p in seen if issubclass(self.classes[p], kind)}

    def install(self, model: nn.Module) -> Callable[[], None]:
        """Let the plans run in `model`; returns the undo."""
        swapped = [model.get_submodule(path) for path in self.plans]
        for module, plans in zip(swapped, self.plans.values(), strict=True):
            install_plans(module, plans)

        def undo() -> None:
            for module in swapped:
                restore(module)

        return undo


def capture(model: nn.Module, *args: Any, **kwargs: Any) -> Captured:
    """The plans of a model's containers on this example.

    Runs the example on copies, some six times in eval and in train mode; parameters, buffers,
    attributes, hooks and random states of `model` stay as they are. Never raises because a forward
    cannot be traced, copied or run: that container is then its own code, with the reason.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    shut = tuple(f"{n}." for n, m in modules.items() if getattr(m, "_equiwrap_opaque", False))
    found = Captured()
    found.classes = {n: class_of(m) for n, m in modules.items() if not n.startswith(shut)}
    with held_random():
        for training in (False, True):
            try:
                _capture_mode(model, training, args, kwargs, found)
            except _Raises as reason:
                _lost(found, f"raises on the example: {reason}")
            except Exception as error:
                _lost(found, f"cannot be captured, a fault of equiwrap ({said(error)})")
    for path, module in model.named_modules():
        runs = not is_leaf(module, root=not path) and not isinstance(
            module, (nn.ModuleList, nn.ModuleDict)
        )
        if runs and path not in found.tiers and not under_leaf(model, path):
            found.reasons[path] = "is not called on the example"
    for path in found.reasons.keys() & found.plans.keys():
        found.partly[path] = found.reasons.pop(path)
    return found


def _lost(found: Captured, reason: str) -> None:
    """One of the modes gave nothing."""
    for path in found.plans or [""]:
        found.reasons.setdefault(path, reason)


class _Raises(Exception):
    """The plain model raises on the example, in these words."""


def _capture_mode(
    model: nn.Module, training: bool, args: Any, kwargs: Any, found: Captured
) -> None:
    levels, unwatched = _recorded(model, training, args, kwargs)
    plans: dict[str, list[Plan]] = {}
    for path, reason in unwatched.items():
        found.reasons.setdefault(path, reason)
    for level, made in levels:
        if isinstance(made, Plan):
            plans[level.path] = merged(plans.get(level.path, []), made)
        else:
            found.reasons.setdefault(level.path, str(made))
    for path, reason in faithful(model, training, args, kwargs, plans).items():
        found.reasons.setdefault(path, reason)
        plans.pop(path, None)
    for path, some in plans.items():
        for plan in some:
            found.plans[path] = merged(found.plans.get(path, []), plan)


def _recorded(
    model: nn.Module, training: bool, args: Any, kwargs: Any
) -> tuple[list[Made], dict[str, str]]:
    """The recordings of one run, after as many demotions as they ask for.

    A container in which only the watched run raises is not watched in the next.

    Raises:
        _Raises: the plain model does too.
    """
    demoted = Demoted()
    attempt = 0
    while True:
        recorder = Recorder()
        try:
            levels = _record(model, training, args, kwargs, demoted, recorder)
        except _Raises:
            raise
        except Exception as error:
            attempt += 1
            if attempt < TRIES and demoted.excuse(error):
                continue
            where = recorder.broken or ""
            if where in demoted.unwatched:
                raise
            demoted.unwatched[where] = f"cannot be watched by capture ({said(error)})"
            continue
        attempt += 1
        if attempt >= TRIES or not demoted.widen(levels):
            return levels, demoted.unwatched


def _record(
    model: nn.Module,
    training: bool,
    args: Any,
    kwargs: Any,
    demoted: Demoted,
    recorder: Recorder,
) -> list[Made]:
    """One watched run of a twin, after one that fills its caches."""
    levels: list[Made] = []

    def done(level: Level, inputs: Any, keywords: Any, value: Any) -> None:
        try:
            levels.append((level, Plan.of(level, inputs, keywords, value)))
        except Output as reason:
            levels.append((level, reason))
        except Exception as error:  # a fault of capture: the container is its own code
            levels.append((level, Output(f"cannot be recorded ({said(error)})")))

    recorder.done = done
    twin = _warm(model, training, args, kwargs)
    observe(twin, recorder, demoted)
    args, kwargs = fresh((args, kwargs))
    try:
        with watching(recorder), demoted.applied(recorder):
            twin(*args, **kwargs)
    finally:
        recorder.closed.clear()  # else the twin lives until Python looks for cycles
    return levels


def _warm(model: nn.Module, training: bool, args: Any, kwargs: Any) -> nn.Module:
    """A twin that has run once, without gradients where it can.

    Raises:
        _Raises: it cannot be copied, or raises on the example.
    """
    for mode in (torch.no_grad, torch.enable_grad):
        try:
            twin = twin_of(model, training)
        except Exception as error:
            raise _Raises(f"it cannot be copied: {said(error)}") from error
        given, named = fresh((args, kwargs))
        try:
            with mode():
                twin(*given, **named)
        except Exception as error:
            words = said(error)
        else:
            return twin
    raise _Raises(words)


def record(model: nn.Module, args: Any, kwargs: Any) -> Walk:
    """Every call of every container on this example, in eval mode, not verified.

    Raises:
        CaptureError: the model does not run on the example.
    """
    with held_random():
        try:
            levels, _ = _recorded(model, False, args, kwargs)
        except _Raises as error:
            raise CaptureError(
                f"{type(model).__name__} does not run on the example ({error}): give one that it "
                "takes."
            ) from error
    walk = Walk()
    for level, made in levels:
        walk.calls.setdefault(level.path, []).append(made)
    return walk
