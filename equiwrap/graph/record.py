"""Watching a model run: each container's operations are recorded while its own forward executes.

`Recorder` is a torch function mode: it sees every torch call on real tensors, factories included.
The modules of a *twin* of the model get observed classes (`observe`), so that child calls are
leaves of their parent's recording and containers open recordings of their own. What a mode cannot
see is heard at a few `seams`.
"""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import article
from .changes import attributes_now, draws_now, versions_now
from .level import Level
from .nested import PLAIN, identities, leaves_of, rebuild, strip
from .owned import is_leaf
from .seams import AUTOCAST
from .traced import traced

__all__ = ["Recorder", "is_leaf"]

_DATA = {"__bool__", "item", "tolist", "__float__", "__int__", "__index__", "numpy", "__array__"}
_DATA |= {"__complex__", "__contains__", "is_nonzero", "equal", "allclose", "__dlpack__"}
_DATA |= {"is_contiguous", "data_ptr", "untyped_storage", "storage"}
_STATE = {"_set_grad_enabled", "requires_grad_", "register_hook", "retain_grad", "set_"}
_TYPED = {"dtype", "device", "is_cuda", "layout", "is_cpu", "type", "get_device", "itemsize"}
_TYPED |= {"is_floating_point", "is_complex", "element_size"}
_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_WRAPPED = {f: name for name, f in vars(torch.Tensor).items() if isinstance(f, types.FunctionType)}
_NAMES = {"__getitem__": operator.getitem, "__setitem__": operator.setitem}


class Recorder(TorchFunctionMode):
    """The stack of open recordings; `done` receives every closed one."""

    done: Callable[[Level, tuple[Any, ...], dict[str, Any], Any], None]

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[Level] = []
        self.entering: nn.Module | None = None
        self.paths: dict[int, str] = {}  # of the observed modules
        self.on = False
        self.closed: dict[int, Level] = {}  # the last recording of each module
        self.broken: str | None = None  # the innermost container in which an error rose

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
            self.mark(level, f"sets .{func.__self__.__name__} of a tensor")
        elif name in _DATA:
            self.mark(level, f"reads data: {name.strip('_')} of a tensor")
        elif name in _STATE:
            self.mark(level, f"calls {name.strip('_')}")
        try:
            value = func(*strip(args), **strip(kwargs))
        except Exception:
            self.mark(level, f"catches an error of {name}")
            raise
        if name in ("dim", "__repr__", "__format__", "ndimension", "__hash__"):
            return value
        if name in _TYPED:
            level.ask(args[0] if args else None)
            if not isinstance(value, (Tensor, torch.device)):
                return value
        return self._record(level, func, name, args, kwargs, value)

    def _record(
        self, level: Level, func: Any, name: str, args: Any, kwargs: Any, value: Any
    ) -> Any:
        if isinstance(func, types.FunctionType):  # `__pow__` calls itself pow
            name = _WRAPPED.get(func, name)
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
            self.mark(level, level.reason)
        return found

    def _attribute(self, level: Level, func: Any, args: tuple[Any, ...]) -> Any:
        name = func.__self__.__name__
        value = func(*args)
        if name in _TYPED:
            level.ask(args[0])
        if name in ("requires_grad", "grad_fn", "is_leaf"):
            self.mark(level, f"asks for .{name} of a tensor")
        if name == "shape" or isinstance(value, (Tensor, torch.device)):
            return level.place("call_function", getattr, (args[0], name), {}, value)
        return value

    def mark(self, level: Level, reason: str) -> None:
        """Say why a recording fails; the functions on the way there may be demoted."""
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
                self.mark(level, "reads the attribute dictionary of a module")
        elif name not in _INTERNAL:
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
        if not self.stack or not self.on:  # in a leaf or in a demoted helper
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
                before = versions_now(module)
                value = run(*strip(args), **strip(kwargs))
                written = before != versions_now(module)
        except Exception:
            self.mark(level, f"catches an error of {path}")
            raise
        level.draws = draws_now()
        loose = self._inherit(level, module, path, value)
        found = self._place("call_module", path, args, kwargs, value, loose)
        level.touched |= written
        return found

    def _place(self, *recorded: Any) -> Any:
        """A node, the recorder's own reads of attributes unheard."""
        self.on = False
        try:
            return self.stack[-1].place(*recorded)
        finally:
            self.on = True

    def _inherit(self, level: Level, module: nn.Module, path: str, value: Any) -> str:
        """Constants in what a child returns hold as long as the child's own recording does.

        The path of the child where they are to be checked at every call: its own recording may give
        way to its forward, or it only turned gradients off or autocast on.
        """
        child = self.closed.get(id(module))
        if child is None:
            return ""
        open_ended = bool(child.reason or child.expected) or child.counts
        if isinstance(value, Tensor):
            return path if open_ended else ""
        level.sized |= child.sized and level.touched
        open_ended |= child.sized
        for (inner, name), read in child.reads.items():
            level.reads.setdefault((f"{path}.{inner}" if inner else path, name), read)
        if child.reason and child.reason not in (AUTOCAST, "calls set_grad_enabled"):
            self.mark(level, f"depends on what {path} returns, which {child.reason}")
        return path if open_ended else ""

    def _check_draws(self, level: Level) -> None:
        if level.draws != draws_now():
            self.mark(level, "draws Python or numpy random numbers")

    def forward(self, module: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A container's own forward, recorded."""
        if self.entering is not module:  # forward was called directly: part of the caller
            return run(*args, **kwargs)
        self.entering = None
        level = Level(self.paths[id(module)], module)
        level.draws, before = draws_now(), attributes_now(module)
        leaves: list[Any] = []
        leaves_of((args, kwargs), leaves)
        given = [self._placeholder(level, i, leaf) for i, leaf in enumerate(leaves)]
        inputs, keywords = rebuild((args, kwargs), iter(given))
        structure = identities((inputs, keywords))
        self.stack.append(level)
        try:
            with self:
                self.on = True
                value = run(*inputs, **keywords)
        except Exception:
            self.broken = self.broken or level.path
            raise
        finally:
            self.on = False
            self.stack.pop()
            if level.draws != draws_now():
                level.mark("draws Python or numpy random numbers")
            if before != attributes_now(module):
                level.mark("changes attributes of its module")
            if structure != identities((inputs, keywords)):
                level.mark("changes an argument that is not a tensor")
            level.live = False
        self.closed[id(module)] = level
        self.done(level, args, kwargs, value)
        level.release()
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
            level.mark(f"takes {article(leaf)}, whose attributes cannot be watched")
        return leaf

    def demoted_method(self, module: nn.Module, name: str, run: Callable[..., Any]) -> Any:
        """A method of a module as one node."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.stack or not self.on:
                return run(*args, **kwargs)
            with self.suspended():
                value = run(*strip(args), **strip(kwargs))
            return self._place("call_method", name, (module, *args), kwargs, value, name)

        return call

    def demoted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A helper function as one node."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if not self.stack or not self.on:
                return function(*args, **kwargs)
            with self.suspended():
                value = function(*strip(args), **strip(kwargs))
            name = getattr(function, "__name__", "a helper")
            return self._place("call_function", function, args, kwargs, value, name)

        return run


_FORWARD = Recorder.forward.__code__
