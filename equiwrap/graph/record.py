"""Watching a model run: each container's operations are recorded while its own forward executes.

`Recorder` is a torch function mode: it sees every torch call on real tensors, factories included.
The modules of a *twin* of the model get observed classes, so that child calls are leaves of their
parent's recording and containers open recordings of their own. Nothing global is patched but three
context managers' `__enter__` and one question, all of which pass through.
"""

from __future__ import annotations

import builtins
import operator
import random
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .level import PLAIN, Level, leaves_of, plain, strip
from .traced import traced

__all__ = ["INTERNAL", "Recorder", "is_leaf"]

_LOCK = threading.RLock()
_DATA = {"__bool__", "item", "tolist", "__float__", "__int__", "__index__", "numpy", "__array__"}
_DATA |= {"__complex__", "__contains__", "is_nonzero", "equal", "allclose", "__dlpack__"}
_DATA |= {"is_contiguous", "data_ptr", "untyped_storage", "storage"}
_STATE = {"_set_grad_enabled", "requires_grad_", "register_hook", "retain_grad", "set_"}
_TYPED = {"dtype", "device", "is_cuda", "layout", "is_cpu", "type", "get_device", "itemsize"}
_TYPED |= {"is_floating_point", "is_complex", "element_size"}
INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NAMES = {"__getitem__": operator.getitem, "__setitem__": operator.setitem}


def is_leaf(module: nn.Module) -> bool:
    """A layer of torch itself (parametrised or not), or scripted, or marked `opaque`."""
    if isinstance(module, torch.jit.ScriptModule) or "_equiwrap_inner" in module.__dict__:
        return True
    if isinstance(module, _CONTAINERS):
        return False
    own = getattr(type(module), "_equiwrap_of", type(module))
    home = own.__module__
    if getattr(own.forward, "_equiwrap_opaque", False) or own.__dict__.get("_equiwrap_opaque"):
        return True
    if hasattr(module, "parametrizations"):
        home = own.__mro__[1].__module__
    roots = ("torch.nn", "torch.jit", "torch.ao", "torch._dynamo", "torch.fx")
    return home.startswith(roots)


class Recorder(TorchFunctionMode):
    """The stack of open recordings; `done` receives every closed one."""

    def __init__(self, done: Callable[[Level, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()
        self.stack: list[Level] = []
        self.done = done
        self.entering: nn.Module | None = None
        self.paths: dict[int, str] = {}  # of the observed modules
        self.on = False
        self.closed: dict[int, Level] = {}  # the last recording of each module

    # -- operations -------------------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.on = False  # torch pops the mode while this runs
        try:
            return self._operation(self.stack[-1], func, args, kwargs)
        finally:
            self.on = True

    def _operation(self, level: Level, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", str(func))
        if name == "__get__":
            return self._attribute(level, func, args)
        if name in ("__set__", "__delete__"):
            self._mark(level, f"sets .{func.__self__.__name__} of a tensor")
        elif name in _DATA:
            self._mark(level, f"reads data: {name.strip('_')} of a tensor")
        elif name in _STATE:
            self._mark(level, f"calls {name.strip('_')}")
        try:
            value = func(*strip(args), **strip(kwargs))
        except Exception:
            self._mark(level, f"catches an error of {name}")
            raise
        if name in ("dim", "__repr__", "__format__", "ndimension", "__hash__"):
            return value
        if name in _TYPED:
            level.typed = True
            if not isinstance(value, (Tensor, torch.device)):
                return value
        return self._record(level, func, name, args, kwargs, value)

    def _record(
        self, level: Level, func: Any, name: str, args: Any, kwargs: Any, value: Any
    ) -> Any:
        method = getattr(torch.Tensor, name, None) is not None and args
        wrapper = type(func).__name__ in ("method_descriptor", "wrapper_descriptor")
        if name in _NAMES:
            found = level.place("call_function", _NAMES[name], args, kwargs, value)
        elif name == "__len__":
            found = level.place("call_method", "size", (args[0], 0), {}, value)
        elif (wrapper or func is getattr(torch.Tensor, name, None)) and method:
            found = level.place("call_method", name, args, kwargs, value)
        else:
            found = level.place("call_function", func, args, kwargs, value)
        if level.reason and not level.frames:
            self._mark(level, level.reason)
        return found

    def _attribute(self, level: Level, func: Any, args: tuple[Any, ...]) -> Any:
        name = func.__self__.__name__
        value = func(*args)
        if name in _TYPED:
            level.typed = True
        if name in ("requires_grad", "grad_fn", "is_leaf"):
            self._mark(level, f"asks for .{name} of a tensor")
        if name == "shape" or isinstance(value, (Tensor, torch.device)):
            return level.place("call_function", getattr, (args[0], name), {}, value)
        return value

    def _mark(self, level: Level, reason: str) -> None:
        if not level.frames:
            frame: types.FrameType | None = sys._getframe(1)
            while frame is not None and frame.f_code is not _FORWARD:
                first = frame.f_code.co_varnames[:1]
                owner = frame.f_locals.get(first[0]) if first else None
                level.frames.append((frame.f_code, frame.f_globals, owner))
                frame = frame.f_back
        level.mark(reason)

    def read(self, module: nn.Module, name: str, value: Any) -> None:
        """An attribute of the instance or of its class was read by the recorded code."""
        level = self.stack[-1] if self.stack else None
        path = level.modules.get(id(module)) if level is not None else None
        reader = sys._getframe(2).f_globals.get("__name__", "")
        if level is None or path is None or reader.startswith("equiwrap.graph"):
            return
        if name == "__dict__":
            if not reader.startswith("torch."):
                self._mark(level, "reads the attribute dictionary of a module")
        elif name not in INTERNAL:
            level.reads.setdefault((path, name), value)

    # -- modules ----------------------------------------------------------------------------------

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Off the stack of modes: torch's own layers run as if nobody watched."""
        was, self.on = self.on, False
        if was:
            self.__exit__(None, None, None)
        try:
            yield
        finally:
            if was:
                self.__enter__()
            self.on = was

    def call(self, module: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module call, seen from the recording that makes it."""
        if not self.stack:
            self.entering = module
            return run(*strip(args), **strip(kwargs))
        level = self.stack[-1]
        path = level.modules.get(id(module))
        if not path:  # made on the way, as a slice of a Sequential is: part of the caller
            return run(*args, **kwargs)
        self._check_draws(level)
        self.entering = module
        try:
            with self.suspended():
                value = run(*strip(args), **strip(kwargs))
        except Exception:
            self._mark(level, f"catches an error of {path}")
            raise
        level.draws = _draws()
        self._inherit(level, module, path, value)
        return level.place("call_module", path, args, kwargs, value)

    def _inherit(self, level: Level, module: nn.Module, path: str, value: Any) -> None:
        """Constants in what a child returns hold as long as the child's own recording does."""
        if isinstance(value, Tensor):
            return
        child = self.closed.get(id(module))
        if child is None:
            return
        if child.reason:
            self._mark(level, f"depends on what {path} returns, which {child.reason}")
        level.sized |= bool(child.guards) or child.sized
        for (inner, name), read in child.reads.items():
            level.reads.setdefault((f"{path}.{inner}" if inner else path, name), read)

    def _shapes(self) -> Callable[..., Any]:
        """`torch.broadcast_shapes`, which no mode sees."""
        original = torch.broadcast_shapes

        def call(*shapes: Any) -> Any:
            value = original(*[strip(tuple(s)) for s in shapes])
            if not self.stack or not self.on:
                return value
            return self.stack[-1].place("call_function", original, shapes, {}, value)

        return call

    def _noted_function(self, place: Any, name: str) -> Any:
        original = getattr(place, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.stack and self.on:
                self._mark(self.stack[-1], f"calls {name}")
            return original(*args, **kwargs)

        return patch.object(place, name, call)

    def _check_draws(self, level: Level) -> None:
        if level.draws != _draws():
            self._mark(level, "draws Python or numpy random numbers")

    def forward(self, module: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A container's own forward, recorded."""
        if self.entering is not module:  # forward was called directly: part of the caller
            return run(*args, **kwargs)
        self.entering = None
        level = Level(self.paths[id(module)], module)
        level.draws, before = _draws(), _attributes(module)
        leaves: list[Any] = []
        leaves_of((args, kwargs), leaves)
        given = [self._placeholder(level, i, leaf) for i, leaf in enumerate(leaves)]
        inputs, keywords = _rebuild((args, kwargs), iter(given))
        structure = _identities((inputs, keywords))
        self.stack.append(level)
        try:
            with self:
                self.on = True
                value = run(*inputs, **keywords)
        finally:
            self.on = False
            self.stack.pop()
            if level.draws != _draws():
                level.mark("draws Python or numpy random numbers")
            if before != _attributes(module):
                level.mark("changes attributes of its module")
            if structure != _identities((inputs, keywords)):
                level.mark("changes an argument that is not a tensor")
            level.live = False
        self.closed[id(module)] = level
        self.done(level, args, kwargs, value)
        return strip(value)

    @staticmethod
    def _placeholder(level: Level, i: int, leaf: Any) -> Any:
        node = level.graph.placeholder(f"leaf{i}")
        level.examples[node] = leaf
        if type(leaf) in (int, float):
            return traced(leaf, node, level)
        if not isinstance(leaf, PLAIN) and id(leaf) not in level.nodes:
            level.know(leaf, lambda: node)
        if getattr(leaf, "__dict__", None) and not isinstance(leaf, (Tensor, nn.Module)):
            level.mark(f"takes a {type(leaf).__name__}, whose attributes cannot be watched")
        return leaf

    def demoted_method(self, module: nn.Module, name: str, run: Callable[..., Any]) -> Any:
        """A method of a module as one node."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.stack or not self.on:
                return run(*args, **kwargs)
            with self.suspended():
                value = run(*strip(args), **strip(kwargs))
            return self.stack[-1].place("call_method", name, (module, *args), kwargs, value)

        return call

    def demoted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A helper function as one node."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if not self.stack or not self.on:
                return function(*args, **kwargs)
            with self.suspended():
                value = function(*strip(args), **strip(kwargs))
            return self.stack[-1].place("call_function", function, args, kwargs, value)

        return run

    @contextmanager
    def watching(self) -> Iterator[Recorder]:
        """Contexts that a mode cannot see are reported; gradients are on."""

        def noted(cls: Any, reason: str) -> Any:
            original = cls.__enter__

            def enter(this: Any) -> Any:
                if self.stack:
                    self._mark(self.stack[-1], reason)
                return original(this)

            return patch.object(cls, "__enter__", enter)

        def question(name: str, flag: str) -> Any:
            asked = getattr(torch, name)

            def ask(*args: Any) -> Any:
                if self.stack:
                    setattr(self.stack[-1], flag, True)
                return asked(*args)

            return patch.object(torch, name, ask)

        with _LOCK, ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(noted(torch.amp.autocast_mode.autocast, "opens an autocast region"))
            hooks = torch.autograd.graph.saved_tensors_hooks
            stack.enter_context(noted(hooks, "checkpoints activations"))
            stack.enter_context(question("is_grad_enabled", "moded"))
            stack.enter_context(question("is_autocast_enabled", "typed"))
            stack.enter_context(patch.object(torch, "broadcast_shapes", self._shapes()))
            for place, name in ((warnings, "warn"), (builtins, "print")):
                stack.enter_context(self._noted_function(place, name))
            yield self


_FORWARD = Recorder.forward.__code__


def _rebuild(value: Any, leaves: Iterator[Any]) -> Any:
    if type(value) in (tuple, list):
        return type(value)(_rebuild(part, leaves) for part in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_rebuild(part, leaves) for part in value])
    if type(value) is dict:
        return {key: _rebuild(part, leaves) for key, part in value.items()}
    return next(leaves)


def _identities(value: Any) -> Any:
    leaves: list[Any] = []
    structure = leaves_of(value, leaves)
    return structure, [id(leaf) for leaf in leaves]


def _draws() -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return random.getstate(), None
    state = numpy.random.get_state()
    return random.getstate(), (state[1].tobytes(), *state[2:])


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a forward may rebind or let grow, by identity and by length."""
    found: dict[str, Any] = {}
    for name, value in module.__dict__.items():
        if name in ("_parameters", "_buffers", "_modules"):
            found |= {f"{name}.{key}": id(part) for key, part in value.items()}
        else:
            size = len(value) if isinstance(value, (list, dict, set)) else None
            found[name] = (value if plain(value) else id(value), size)
    return found
