"""Averaging around a sub-network: `at="layer4"`, or several.

    x ─▶ stem ─▶ … ─▶ [frame ─▶ canonicalize ─▶ layer4 ─▶ restore] ─▶ head ─▶ y

The wrapped model shares the attribute dictionary of the plain one. Its generated class only answers
differently where it is asked for the sub-network: with a wrapped module over that one's dictionary.
Modules on the way to a nested path are seen through such classes too; none of the user's objects is
touched.
"""

from __future__ import annotations

import copy
import difflib
import types
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import SignatureError
from ..signature import Signature, looks_like_images
from .build import Asked, build, trial_example, verify
from .config import Config
from .handle import Handle
from .install import PREFIX, install, original_forward, view_of
from .report import Report

__all__ = ["Around", "AroundReport", "around"]

Made = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class AroundReport:
    """The report of each sub-network, by path."""

    parts: tuple[tuple[str, Report], ...]

    def __str__(self) -> str:
        return "\n".join(f"at         {path}\n{report}" for path, report in self.parts)

    def __repr__(self) -> str:
        return str(self)


class Around:
    """`model.equiwrap` of a model that is wrapped inside: `parts[path]` are ordinary handles."""

    def __init__(self, view: nn.Module, parts: dict[str, Handle]) -> None:
        self.view, self.parts, self.in_place, self.compiled = view, parts, False, None
        self.forward = original_forward(view)
        for part in parts.values():
            part.module = install(part.view, part, in_place=False)
        self.module: nn.Module = view

    def put(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The wrapped module: `model` with its class swapped, or a second object beside it."""
        tree: dict[str, Any] = {}
        for path, part in self.parts.items():
            place, names = tree, path.split(".")
            for name in names[:-1]:
                place = place.setdefault(name, {})
            place[names[-1]] = part.module
        generated = _seen_through(self.view, tree, self._space())
        self.in_place = in_place
        if in_place:
            model.__class__ = generated
        self.module = model if in_place else view_of(model, generated)
        return self.module

    @property
    def enabled(self) -> bool:
        """False while `ew.disabled` lasts."""
        return all(part.enabled for part in self.parts.values())

    @enabled.setter
    def enabled(self, value: bool) -> None:
        for part in self.parts.values():
            part.enabled = value

    @property
    def config(self) -> Config:
        """What was asked for."""
        paths = tuple(self.parts)
        return replace(self.parts[paths[0]].config, at=paths if len(paths) > 1 else paths[0])

    @property
    def signature(self) -> Signature:
        """The model as a whole has none.

        Raises:
            SignatureError: always.
        """
        raise SignatureError(
            f"Only {', '.join(self.parts)} of this model has a signature: give signature= for the "
            "whole of it, or ask for `model.equiwrap.errors(x)`."
        )

    def report(self) -> AroundReport:
        """The report of every sub-network."""
        return AroundReport(tuple((path, part.report()) for path, part in self.parts.items()))

    def errors(self, *inputs: Any, **kwargs: Any) -> dict[str, Any]:
        """The error of every sub-network on what reaches it when the model runs on these inputs."""
        calls = _calls(
            self.module, {p: part.module for p, part in self.parts.items()}, inputs, kwargs
        )
        return {path: self.parts[path].errors(*calls[path][0], **calls[path][1]) for path in calls}

    def print_graph(self) -> str:
        """Print the generated forward around every sub-network, and return them."""
        return "\n".join(part.print_graph() for part in self.parts.values())

    # -- copying ----------------------------------------------------------------------------------

    def spec(self) -> list[tuple[str, nn.Module, dict[str, Any]]]:
        """What, beside the model, rebuilds the wrapping."""
        return [(path, part.frame, part.spec()) for path, part in self.parts.items()]

    def _space(self) -> dict[str, Any]:
        def deepcopy(this: nn.Module, memo: dict[int, Any]) -> nn.Module:
            view = copy.deepcopy(self.view, memo)
            twin = memo[id(this)] = _rebuild(view, copy.deepcopy(self.spec(), memo))
            return twin

        def reduce(this: nn.Module, protocol: Any = None) -> Any:
            return _rebuild, (self.view, self.spec())

        def load(this: nn.Module, state: Any, strict: bool = True, **kwargs: Any) -> Any:
            own = {k: v for k, v in this.state_dict().items() if f".{PREFIX}." in k}
            given = state if any(k in state for k in own) else {**state, **own}
            return type(self.view).load_state_dict(this, given, strict=strict, **kwargs)

        return {
            "__deepcopy__": deepcopy,
            "__reduce_ex__": reduce,
            "load_state_dict": load,
            PREFIX: self,
            "_compiled_call_impl": property(
                lambda this: self.compiled, lambda this, value: setattr(self, "compiled", value)
            ),
        }


def _rebuild(view: nn.Module, spec: list[tuple[str, Any, dict[str, Any]]]) -> nn.Module:
    parts = {path: Handle(view.get_submodule(path), frame, **given) for path, frame, given in spec}
    return Around(view, parts).put(view, in_place=False)


def _seen_through(
    module: nn.Module, tree: dict[str, Any], space: dict[str, Any]
) -> type[nn.Module]:
    """A subclass whose instances show other children under these names, while they are there."""
    original = type(module)
    plain = {name: module._modules[name] for name in tree}
    shown = {name: _shown(plain[name], part) for name, part in tree.items()}

    def now(self: nn.Module, name: str) -> Any:
        child = self.__dict__["_modules"][name]
        return shown[name] if name in plain and child is plain[name] else child

    def modules(self: nn.Module) -> dict[str, Any]:
        return {name: now(self, name) for name in self.__dict__["_modules"]}

    def reduce(self: nn.Module, protocol: Any = None) -> Any:
        return _bare, (original,), self.__dict__

    body = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__reduce_ex__": reduce,
        "_modules": property(modules),
        **{name: property(partial(lambda name, self: now(self, name), name)) for name in tree},
        **space,
    }
    return types.new_class(original.__name__, (original,), {}, lambda own: own.update(body))


def _shown(child: Any, part: Any) -> nn.Module:
    return part if isinstance(part, nn.Module) else view_of(child, _seen_through(child, part, {}))


def _bare(cls: type[nn.Module]) -> nn.Module:
    return cls.__new__(cls)


# -- asking ----------------------------------------------------------------------------------------


def around(model: nn.Module, view: nn.Module, asked: Asked, *, in_place: bool) -> nn.Module:
    """`equivariantize(..., at=...)`.

    Raises:
        SignatureError: a path does not exist, is not called, lies in another, or beside an argument
            that concerns the whole model.
        EquivarianceError: the error of a sub-network on the example is above `tol`.
    """
    paths = [asked.at] if isinstance(asked.at, str) else list(asked.at or ())
    _check(view, paths, asked)
    calls: dict[str, Made] = {}
    example = asked.inputs
    if example is None and looks_like_images(view):
        example = trial_example(view, original_forward(view), what="Sub-networks are looked at")
    if example is not None:
        calls = _calls(view, {path: view.get_submodule(path) for path in paths}, example, {})
        lost = [path for path in paths if path not in calls]
        if lost:
            raise SignatureError(
                f"at={lost[0]!r} was asked for, and the model does not call it on the example: "
                "name a module that runs, as a whole, in forward."
            )
    parts = {}
    for path in paths:
        frame = asked.frame if isinstance(asked.frame, str) else copy.deepcopy(asked.frame)
        inputs = calls[path][0] if path in calls else None
        parts[path] = build(view.get_submodule(path), replace(asked, frame=frame), inputs, path)
    made = Around(view, parts)
    for path, part in parts.items() if asked.example is not None else ():
        verify(part, calls[path][0], asked.tol)
    return made.put(model, in_place=in_place)


def _check(view: nn.Module, paths: list[str], asked: Asked) -> None:
    """Nothing, or a sentence.

    Raises:
        SignatureError: a path does not exist or lies in another; calibrate or probes came beside.
    """
    known = [name for name, _ in view.named_modules() if name]
    for path in paths:
        if path not in known:
            near = ", ".join(difflib.get_close_matches(path, known, 3, 0.3)) or "none"
            raise SignatureError(
                f"at={path!r} is no path of a module of this {type(view).__name__}; the nearest "
                f"are {near}."
            )
    inner = [p for p in paths if any(p.startswith(f"{q}.") for q in paths)]
    if not paths or inner or len(set(paths)) < len(paths):
        raise SignatureError(
            f"at={asked.at!r} was given: name one sub-network or several, each once and none "
            "inside another."
        )
    if asked.calibrate is not None or asked.probes is not None:
        name = "probes" if asked.calibrate is None else "calibrate"
        raise SignatureError(
            f"{name}= came beside at=, and belongs to the whole model; the parts have probes of "
            f'their own: model.equiwrap.parts["{paths[0]}"].probes.measure(features).'
        )


def _calls(
    model: nn.Module, parts: dict[str, nn.Module], inputs: Iterable[Any], kwargs: dict[str, Any]
) -> dict[str, Made]:
    """The arguments of the first call of each part, in eval mode."""
    found: dict[str, Made] = {}
    modes = {m: m.training for m in model.modules()}
    handles = []
    for path, part in parts.items():

        def note(_: Any, args: Any, named: Any, path: str = path) -> None:
            found.setdefault(path, (args, named))

        handles.append(part.register_forward_pre_hook(note, with_kwargs=True))
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(*inputs, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for m, mode in modes.items():
            m.training = mode
    return found
