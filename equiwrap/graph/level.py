"""One container's recording: every tensor, number and module call of its forward as an fx node.

The forward runs on real values; a tensor is known by its identity. What a graph cannot repeat
*marks* the recording with a reason, and the run goes on undisturbed.
"""

from __future__ import annotations

import enum
import operator
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from .known import known_sizes, parts_follow
from .traced import Sizes, bare, is_traced, traced

__all__ = ["PLAIN", "Level", "Output", "class_of", "leaves_of", "plain", "strip"]

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), enum.Enum)
_TORCH = (torch.dtype, torch.device, torch.memory_format, torch.layout)


def plain(value: Any) -> bool:
    """True for a number, a text, None, a dtype, …, and for tuples of them."""
    if isinstance(value, (tuple, frozenset)):
        return all(plain(part) for part in value)
    return isinstance(value, (*PLAIN, *_TORCH))


def leaves_of(value: Any, found: list[Any]) -> Any:
    """Append the leaves of nested tuples, lists and dicts; return the structure, which compares."""
    if type(value) in (tuple, list):
        return type(value), tuple(leaves_of(part, found) for part in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value), tuple(leaves_of(part, found) for part in value)
    if type(value) is dict:
        return dict, tuple((key, leaves_of(part, found)) for key, part in value.items())
    found.append(value)
    return None


class Output(Exception):
    """A value that the recording cannot express, with the reason."""


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
        self.typed = False  # the code asked for a dtype or a device
        self.sized = False  # what a child returned depends on sizes
        self.moded = False  # the code asked whether gradients are on
        self.modules = {id(m): n for n, m in module.named_modules(remove_duplicate=False)}
        self.owned: dict[int, tuple[str, tuple[Any, ...]]] | None = None
        self.mode = _mode()
        self.globals = _globals(module)
        self.constants = {id(v): _reader(s, n) for s, n, v in self.globals if isinstance(v, Tensor)}

    # -- what holds -------------------------------------------------------------------------------

    def mark(self, reason: str) -> None:
        """This call cannot be repeated by a graph; the first reason is kept."""
        if not self.reason:
            self.reason = reason

    def guard(self, node: fx.Node, value: Any) -> None:
        """The recording holds only where the node has this value."""
        if (node, value) not in self.guards:
            self.guards.append((node, value))

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
        if type(value) is dict:
            return {key: self.argument(part) for key, part in value.items()}
        if type(value) is slice:
            return slice(*[self.argument(v) for v in (value.start, value.stop, value.step)])
        if id(value) in self.nodes and not isinstance(value, PLAIN):
            return self.nodes[id(value)]()
        if isinstance(value, (*PLAIN, *_TORCH)):
            return value
        if isinstance(value, nn.Module) and id(value) in self.modules:
            path = self.modules[id(value)]
            return self.graph.get_attr(path) if path else self.this
        raise Output(f"passes a {type(value).__name__}, which a graph cannot hold")

    def tensor(self, value: Tensor) -> fx.Node:
        """The node of a tensor: made here, or an attribute of the module.

        Raises:
            Output: it comes from elsewhere.
        """
        found = self.nodes.get(id(value))
        if found is not None:
            return found()
        if self.owned is None:
            self.owned = dict(reversed(list(_tensors(self.module))))
        place = self.owned.get(id(value))
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

    # -- recording --------------------------------------------------------------------------------

    def place(self, op: str, target: Any, args: Any, kwargs: Any, value: Any) -> Any:
        """Record a call that gave `value`; returns the value, its numbers traced."""
        if self.mode != _mode():
            self.mark("changes a mode of torch inside its forward")
        if self.reason:
            return value
        try:
            given = tuple(self.argument(a) for a in args)
            named = {key: self.argument(a) for key, a in kwargs.items()}
        except Output as reason:
            self.mark(str(reason))
            return value
        name = f"{target}_".replace(".", "_") if op == "call_module" and target == "self" else None
        node = self.graph.create_node(op, target, given, named, name)
        self.examples[node] = value
        self._structure(op, target, given, named, value, node)
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        inplace = op != "call_module" and name.endswith("_") and not name.endswith("__")
        return self.result(value if inplace or "out" in kwargs else self._apart(value), node)

    def _apart(self, value: Any) -> Any:
        """An argument that comes back as it was, under an identity of its own.

        On another call the two may be different tensors (`contiguous`, `to`, a child that pads).
        """
        if isinstance(value, Tensor) and id(value) in self.nodes:
            with torch._C.DisableTorchFunction():
                return torch.ops.aten.alias(value)
        if type(value) in (tuple, list):
            return type(value)(self._apart(part) for part in value)
        return value

    def _structure(
        self, op: str, target: Any, given: Any, named: Any, value: Any, node: fx.Node
    ) -> None:
        """How many tensors, of which rank: where sizes decide it, it is a guard."""
        leaf = self.module.get_submodule(target) if op == "call_module" else None
        sizes = known_sizes(op, target, given, value, self.known, leaf)
        if sizes is not None:
            self.known[node] = sizes
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        if op != "call_module" and type(value) in (tuple, list):
            follows = parts_follow(target, given, named, self.known)
            if follows is False:
                self.guard(self.graph.call_function(len, (node,)), len(value))
            elif isinstance(follows, fx.Node):
                self.guard(follows, len(value))
        if name.startswith("squeeze") and isinstance(value, Tensor):
            self.guard(self.graph.call_method("dim", (node,)), value.dim())

    def result(self, value: Any, node: fx.Node) -> Any:
        """Make the tensors of a result known, and trace its numbers."""
        if isinstance(value, Tensor):
            self.know(value, lambda: node)
        elif isinstance(value, torch.Size):
            return Sizes(traced(v, self._get(node, i, v), self) for i, v in enumerate(value))
        elif type(value) in (int, float):
            return traced(value, node, self)
        elif isinstance(value, torch.device):
            self.know(value, lambda: node)
        elif type(value) in (tuple, list):
            return type(value)(self._inner(v, node, i) for i, v in enumerate(value))
        elif isinstance(value, tuple):
            parts = [self._inner(v, node, i) for i, v in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else value
        elif type(value) is dict:
            return {key: self._inner(part, node, key) for key, part in value.items()}
        elif isinstance(value, dict):
            for key, part in value.items():
                self._inner(part, node, key)
        elif value is not None and not isinstance(value, (*PLAIN, *_TORCH)):
            self._fields(value, node)
        return value

    def _inner(self, value: Any, node: fx.Node, key: Any) -> Any:
        holds = any(
            isinstance(v, (Tensor, int, float, torch.device)) for v in tree_flatten(value)[0]
        )
        if not holds or isinstance(value, bool):
            return value
        if isinstance(value, Tensor):  # the node is made on first use
            self.know(value, _once(lambda: self._get(node, key, value)))
            return value
        return self.result(value, self._get(node, key, value))

    def _get(self, node: fx.Node, key: Any, value: Any) -> fx.Node:
        found = self.graph.call_function(operator.getitem, (node, key))
        self.examples[found] = value
        return found

    def _fields(self, value: Any, node: fx.Node) -> None:
        """Tensors in the attributes of a dataclass or another result object."""
        for name, part in getattr(value, "__dict__", {}).items():
            if isinstance(part, Tensor):

                def get(name: str = name, part: Any = part) -> fx.Node:
                    found = self.graph.call_function(getattr, (node, name))
                    self.examples[found] = part
                    return found

                self.know(part, _once(get))
        self.know(value, lambda: node)


def _mode() -> tuple[Any, ...]:
    """The modes of torch that change what an operation does."""
    c = torch._C
    return (
        c.is_grad_enabled(),  # torch's own name is watched while recording
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        c._get_flash_sdp_enabled(),
        c._get_math_sdp_enabled(),
        c._get_mem_efficient_sdp_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    )


def _globals(module: nn.Module) -> list[tuple[dict[str, Any], str, Any]]:
    """The global variables that the forward names: where, name, value."""
    forward = getattr(class_of(module).forward, "__func__", class_of(module).forward)
    space = getattr(forward, "__globals__", {})
    names = getattr(getattr(forward, "__code__", None), "co_names", ())
    return [(space, name, space[name]) for name in names if name in space]


def _reader(space: dict[str, Any], name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        return space[name]

    read.__name__ = f"global_{name}"
    return read


def class_of(module: nn.Module) -> type[nn.Module]:
    """The class that the user wrote."""
    module = module.__dict__.get("_equiwrap_inner", module)
    return getattr(type(module), "_equiwrap_of", type(module))


def _once(make: Callable[[], fx.Node]) -> Callable[[], fx.Node]:
    made: list[fx.Node] = []

    def get() -> fx.Node:
        if not made:
            made.append(make())
        return made[0]

    return get


def _tensors(module: nn.Module) -> Iterable[tuple[int, tuple[str, tuple[Any, ...]]]]:
    """Parameters, buffers and attributes by path (and keys into dicts and lists); first name wins."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        places = [owner._parameters, owner._buffers, owner.__dict__]
        for place in places:
            for name, value in place.items():
                path = f"{prefix}.{name}" if prefix else name
                if isinstance(value, Tensor):
                    yield id(value), (path, ())
                elif place is owner.__dict__ and isinstance(value, (dict, list, tuple)):
                    items = value.items() if isinstance(value, dict) else enumerate(value)
                    for key, part in items:
                        if isinstance(part, Tensor) and plain(key):
                            yield id(part), (path, (key,))


def strip(value: Any) -> Any:
    """Traced numbers → their values, through nested containers."""
    if is_traced(value):
        return value.value
    if type(value) in (tuple, list):
        return type(value)(strip(v) for v in value)
    if type(value) is Sizes:
        return torch.Size([strip(v) for v in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[strip(v) for v in value])
    if type(value) is dict:
        return {k: strip(v) for k, v in value.items()}
    if type(value) is slice:
        return slice(strip(value.start), strip(value.stop), strip(value.step))
    return value
