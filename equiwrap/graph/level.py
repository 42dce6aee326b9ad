"""One container's recording: every tensor, number and module call of its forward as an fx node.

There are no proxies: the model's own forward runs on real values, and a tensor is known by its
identity. What a graph cannot repeat *marks* the recording with a reason; the run goes on
undisturbed.
"""

from __future__ import annotations

import operator
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from ..errors import article
from .expect import constants_in, counted, counts, expect, shown
from .known import hoists
from .nested import PLAIN, PLAIN_TORCH, leaves_of
from .owned import class_of, globals_of, reader, tensors_of
from .results import apart, result, structure
from .traced import Sizes, bare, is_traced, traced

__all__ = ["Level", "Output", "class_of", "leaves_of", "said"]


class Output(Exception):
    """A value that the recording cannot express, with the reason."""


def said(error: BaseException) -> str:
    """The kind and the words of an error, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Level:
    """The growing graph of one call of one container."""

    def __init__(self, path: str, module: nn.Module) -> None:
        self.path, self.module = path, module
        self.graph = fx.Graph()
        self.this = self.graph.placeholder("this")  # the module, for helpers that take it
        self.live, self.reason = True, ""
        self.frames: list[tuple[types.CodeType, dict[str, Any], Any]] = []
        self.draws: Any = None
        self.keep: list[Any] = []  # identities stay unique while their objects live
        self.nodes: dict[int, Callable[[], fx.Node]] = {}
        self.guards: list[tuple[fx.Node, Any]] = []
        self.reads: dict[tuple[str, str], Any] = {}
        self.examples: dict[fx.Node, Any] = {}
        self.known: dict[fx.Node, tuple[Any, ...]] = {}
        self.typed = False  # the code asked for a dtype, a device or the state of autocast
        self.asked: set[fx.Node] = set()  # whose dtype or device it was
        self.loose: set[fx.Node] = set()  # results that may be of another kind on another call
        self.counts = False  # sizes of its results may depend on data
        self.expected: list[tuple[fx.Node, Any]] = []  # what is checked while the plan runs
        self.memory: set[int] = set()
        self.touched = False  # after a write in place the call cannot begin anew
        self.sized = False  # what a child returned depends on sizes
        self.moded = False  # the code asked whether gradients are on
        self.modules = {id(m): n for n, m in module.named_modules(remove_duplicate=False)}
        self.owned: dict[int, tuple[str, tuple[Any, ...]]] | None = None
        self.mode = _mode()
        self.globals = globals_of(module)
        self.constants = {id(v): reader(s, n) for s, n, v in self.globals if isinstance(v, Tensor)}

    # -- what holds -------------------------------------------------------------------------------

    def mark(self, reason: str) -> None:
        """Say why a graph cannot repeat this call; the first reason is kept."""
        if not self.reason:
            self.reason = reason

    def guard(self, node: fx.Node, value: Any) -> None:
        """The recording holds only where the node has this value."""
        if (node, value) in self.guards:
            return
        follows = hoists(node)
        if not follows and not self.touched:
            self.expect(node, value, exact=True)
        elif not follows and counted(node, self.examples, self.loose):
            self.mark(f"branches on {node.name}, which depends on data, after a write")
        else:
            self.guards.append((node, value))

    def expect(self, node: fx.Node, value: Any, exact: bool = False) -> None:
        """Check while the plan runs that the node has this form, or exactly this value."""
        form = ("equals", value) if exact else shown(value)
        if (node, form) not in self.expected:
            self.expected.append((node, form))
            self.graph.call_function(expect, (node, *form))

    def ask(self, value: Any) -> None:
        """The code asked for the dtype or the device of a value."""
        self.typed = True
        if isinstance(value, Tensor) and not self.reason:
            try:
                self.asked.add(self.tensor(value))
            except Output as reason:
                self.mark(str(reason))

    def release(self) -> None:
        """Let go of the values seen: the plan is made, or there is none."""
        self.live, self.sized = False, self.sized or bool(self.guards)
        self.counts = any(counts(node, self.examples) for node in self.graph.nodes)
        for held in (self.keep, self.nodes, self.examples, self.constants, self.guards):
            held.clear()  # type: ignore[attr-defined]
        self.owned = None

    def compute(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args) on numbers, as a node."""
        value = function(*[bare(a) for a in args])
        node = self.graph.call_function(function, tuple(self._number(a) for a in args))
        self.examples[node] = value
        return traced(value, node, self)

    @staticmethod
    def _number(value: Any) -> Any:
        return value.origin if is_traced(value) else value

    # -- values to nodes --------------------------------------------------------------------------

    def know(self, value: Any, node: Callable[[], fx.Node]) -> None:
        """From here on this very object is what `node()` gives."""
        self.keep.append(value)
        self.nodes[id(value)] = node

    def argument(self, value: Any) -> Any:
        """The fx argument for a value.

        Raises:
            Output: the value is of a kind that a graph cannot hold.
        """
        if is_traced(value):
            if value.owner is self:
                return value.origin
            return value.value
        if isinstance(value, Tensor):
            return self.tensor(value)
        if type(value) is Sizes:
            return self.graph.call_function(torch.Size, ([self.argument(v) for v in value],))
        if type(value) in (tuple, list, torch.Size):
            parts = [self.argument(part) for part in value]
            return parts if type(value) is list else tuple(parts)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*[self.argument(part) for part in value])
        if type(value) in (dict, OrderedDict):
            named = {key: self.argument(part) for key, part in value.items()}
            if type(value) is dict:
                return named
            return self.graph.call_function(OrderedDict, (list(named.items()),))
        if type(value) is slice:
            return slice(*[self.argument(v) for v in (value.start, value.stop, value.step)])
        if id(value) in self.nodes and not isinstance(value, PLAIN):
            return self.nodes[id(value)]()
        if isinstance(value, (*PLAIN, *PLAIN_TORCH)):
            return value
        if isinstance(value, nn.Module) and id(value) in self.modules:
            path = self.modules[id(value)]
            return self.graph.get_attr(path) if path else self.this
        raise Output(f"passes {article(value)}, which a graph cannot hold")

    def tensor(self, value: Tensor) -> fx.Node:
        """The node of a tensor: made here, or an attribute of the module.

        Raises:
            Output: it comes from elsewhere.
        """
        found = self.nodes.get(id(value))
        if found is not None:
            return found()
        place = self._owned().get(id(value))
        if place is None and id(value) in self.constants:
            node = self.graph.call_function(self.constants[id(value)])
        elif place is None:
            raise Output("uses a tensor that no recorded operation made")
        else:
            node = self.graph.get_attr(place[0])
            for key in place[1]:
                node = self.graph.call_function(operator.getitem, (node, key))
        self.examples[node] = value
        self.know(value, lambda: node)
        return node

    def _owned(self) -> dict[int, tuple[str, tuple[Any, ...]]]:
        """Where the module's tensors are, by identity; and where they and the arguments lie."""
        if self.owned is None:
            own = list(tensors_of(self.module))
            given = [v for n, v in self.examples.items() if n.op == "placeholder"]
            self.owned = {id(tensor): place for tensor, place in reversed(own)}
            outside = [*given, *(tensor for tensor, _ in own)]
            self.memory = {_storage(v) for v in outside if isinstance(v, Tensor)}
        return self.owned

    # -- recording --------------------------------------------------------------------------------

    def place(
        self, op: str, target: Any, args: Any, kwargs: Any, value: Any, loose: str = ""
    ) -> Any:
        """Record a call that gave `value`; returns the value, its numbers traced.

        `loose`: the name of a helper or a child that may return something else on another call.
        """
        if self.mode != _mode():
            self.mark("changes a mode of torch inside its forward")
        if self.reason:
            return value
        try:
            return self._placed(op, target, args, kwargs, value, loose)
        except Output as reason:
            self.mark(str(reason))
        except Exception as error:  # a fault of this file, not of the model
            self.mark(f"cannot be recorded ({said(error)})")
        return value

    def _placed(self, op: str, target: Any, args: Any, kwargs: Any, value: Any, loose: str) -> Any:
        given = tuple(self.argument(a) for a in args)
        named = {key: self.argument(a) for key, a in kwargs.items()}
        called = target if isinstance(target, str) else getattr(target, "__name__", "")
        name = f"{target}_".replace(".", "_") if op == "call_module" and target == "self" else None
        node = self.graph.create_node(op, target, given, named, name)
        self.examples[node] = value
        structure(self, node, value)
        if loose:
            self.loose.add(node)
            if not self.touched:
                self.expect(node, value)
            elif constants_in(value):
                self.mark(f"depends on what {loose} returns after a write")
        inplace = op != "call_module" and called.endswith("_") and not called.endswith("__")
        inplace |= "out" in kwargs
        writes = (inplace or called == "setitem") and self._outside(kwargs.get("out", args[:1]))
        self.touched |= writes
        return result(self, value if inplace else apart(self, value), node)

    def _outside(self, written: Any) -> bool:
        """True where memory is shared with an argument or an attribute."""
        self._owned()
        leaves = tree_flatten(written)[0]
        return any(isinstance(v, Tensor) and _storage(v) in self.memory for v in leaves)


def _storage(value: Tensor) -> int:
    """Where a tensor lies; 0 where that cannot be said."""
    try:
        with torch._C.DisableTorchFunction():
            return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse, for one
        return 0


def _mode() -> tuple[Any, ...]:
    """The modes of torch that change what an operation does."""
    c = torch._C
    return (
        c.is_grad_enabled(),  # torch.is_grad_enabled is heard by `seams`
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        c._get_flash_sdp_enabled(),
        c._get_math_sdp_enabled(),
        c._get_mem_efficient_sdp_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    )
