"""A plan: the recorded graph of one container, compiled, with the conditions under which it holds.

    forward(self, *args, **kwargs) ──▶ leaves ──▶ plan.run(self, *leaves) ──▶ outputs

A plan holds for calls of the same structure, the same constants (None, bool, str), ranks and
aliases, the same plain attributes read, and wherever its guards (facts about sizes that the code
branched on) are true. Guards that follow from the sizes of the inputs are checked before the call;
a plan with others is kept for the example's exact sizes.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .level import PLAIN, Level, Output, class_of, leaves_of, plain

__all__ = ["ABSENT", "Plan", "Shape", "lookup"]

_SHAPE = ("size", "numel", "nelement")


@dataclass(eq=False)
class Plan:
    """`run(self, *leaves) → output leaves`; `graph` is what it was generated from."""

    path: str
    graph: fx.Graph
    key: tuple[Any, ...]
    reads: tuple[tuple[str, str, Any], ...]
    check: Callable[..., Any] | None
    expected: tuple[Any, ...]
    run: Callable[..., Any]
    spec: Any
    typed: bool
    sized: bool
    grad: bool | None
    examples: dict[fx.Node, Any]
    globals: tuple[tuple[dict[str, Any], str, Any], ...] = ()

    def holds(self, module: nn.Module, leaves: list[Any]) -> bool:
        """True where the attributes read and the facts about sizes are those of the recording."""
        if self.grad is not None and torch.is_grad_enabled() != self.grad:
            return False
        for path, name, value in self.reads:
            try:
                owner = module.get_submodule(path) if path else module
            except AttributeError:
                return False
            if not _same(_attribute(owner, name), value):
                return False
        if any(not _same(space.get(name, ABSENT), v) for space, name, v in self.globals):
            return False
        return self.check is None or tuple(self.check(module, module, *leaves)) == self.expected

    def __call__(self, module: nn.Module, leaves: list[Any]) -> Any:
        """The outputs of the container's forward."""
        found = self.run(module, module, *leaves)
        return found if self.spec is None else tree_unflatten(list(found), self.spec)

    @classmethod
    def of(cls, level: Level, args: Any, kwargs: Any, value: Any) -> Plan:
        """The plan of a closed recording.

        Raises:
            Output: the recording was marked, or its result cannot be expressed.
        """
        if level.reason:
            raise Output(level.reason)
        flat, spec = (None, None) if isinstance(value, Tensor) else tree_flatten(value)
        result = level.argument(value if flat is None else tuple(flat))
        level.graph.output(result)
        pinned = [node for node, _ in level.guards]
        before = {node for node in pinned if not _hoists(node)}
        check, sized = _checker(level, pinned) if not before else None, bool(before) or level.sized
        _sweep(level.graph)
        leaves: list[Any] = []
        structure = leaves_of((args, kwargs), leaves)
        return cls(
            level.path,
            level.graph,
            call_key(structure, leaves, level.typed, sized),
            _reads(level),
            check if pinned else None,
            tuple(v for _, v in level.guards),
            _compile(level.graph),
            spec,
            level.typed,
            sized,
            torch._C.is_grad_enabled() if level.moded else None,  # the public name is watched
            {node: _light(value) for node, value in level.examples.items()},
            tuple(
                (space, name, _snapshot(v))
                for space, name, v in level.globals
                if plain(v) or isinstance(v, (dict, list))
            ),
        )


def _reads(level: Level) -> tuple[tuple[str, str, Any], ...]:
    """The attributes that the code read, and the shape of what it reached through."""
    found = [(path, name, _snapshot(value)) for (path, name), value in level.reads.items()]
    for path in sorted(_owners(level)):
        try:
            owner = level.module.get_submodule(path)
        except AttributeError:
            continue
        found.append((path, "_modules", _shape_of(owner)))
    return tuple(found)


class Shape(tuple):
    """The sizes of a tensor, where the example had one."""


def _light(value: Any) -> Any:
    """What is kept of an example: shapes and numbers."""
    if isinstance(value, Tensor):
        return Shape(value.shape)
    if type(value) in (tuple, list):
        return type(value)(_light(part) for part in value)
    if isinstance(value, tuple) and not plain(value):  # a named result, as of max
        return tuple(_light(part) for part in value)
    return value if plain(value) else None


def lookup(
    plans: list[Plan], module: nn.Module, args: Any, kwargs: Any
) -> tuple[Plan | None, list[Any]]:
    """The plan that holds for this call, or None; and the leaves of its arguments."""
    leaves: list[Any] = []
    structure = leaves_of((args, kwargs), leaves)
    for plan in plans:
        if plan.key == call_key(structure, leaves, plan.typed, plan.sized) and plan.holds(
            module, leaves
        ):
            return plan, leaves
    return None, leaves


def call_key(structure: Any, leaves: list[Any], typed: bool, sized: bool) -> tuple[Any, ...]:
    """Structure, constants, ranks and aliases (dtypes, devices and sizes where asked) of a call."""
    tokens: list[Any] = []
    tensors: list[Tensor] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            alias = next((i for i, t in enumerate(tensors) if t is leaf), -1)
            tensors.append(leaf)
            kind = (leaf.dtype, leaf.device.type) if typed else ()
            tokens.append((leaf.dim(), alias, *kind, *(leaf.shape if sized else ())))
        elif isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            tokens.append((type(leaf), leaf) if sized else type(leaf))
        else:
            tokens.append(leaf if isinstance(leaf, PLAIN) else type(leaf))
    if typed:
        devices = {t.device.type for t in tensors}
        tokens += [_autocast(device) for device in sorted(devices)]
    return (structure, *tokens)


def _autocast(device: str) -> Any:
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)


# -- attributes -----------------------------------------------------------------------------------

ABSENT = object()  # what an attribute is that is not there


@dataclass(frozen=True)
class _Object:
    """A settings object: its type and its plain attributes."""

    kind: type
    names: tuple[str, ...] = ()
    plain: tuple[Any, ...] = ()


def _attribute(owner: nn.Module, name: str) -> Any:
    if name == "_modules":
        return _shape_of(owner)
    found = owner.__dict__.get(name, ABSENT)
    return getattr(type(owner), name, ABSENT) if found is ABSENT else found


def _shape_of(owner: nn.Module) -> tuple[Any, ...]:
    """Names and classes of what a module holds."""
    kinds = [type(None) if m is None else class_of(m) for m in owner._modules.values()]
    held = [
        (name, value is None)
        for place in (owner._parameters, owner._buffers)
        for name, value in place.items()
    ]
    return (*owner._modules, *kinds, *held)


def _owners(level: Level) -> set[str]:
    """The modules along the paths that the graph names."""
    found = {""}
    for node in level.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            parts = str(node.target).split(".")[:-1]
            found |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    return found


def _outline(value: Any) -> tuple[Any, ...]:
    """The keys of a dict or the length of a list, and the plain values in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return tuple((key, part if plain(part) else None) for key, part in items)


def _snapshot(value: Any) -> Any:
    if type(value) is list and plain(tuple(value)):
        return list(value)
    if plain(value) or isinstance(value, (type, types.FunctionType)):
        return value
    if isinstance(value, (dict, list)):
        return _Object(
            type(value), plain=tuple(value) if isinstance(value, dict) else (len(value),)
        )
    held = getattr(value, "__dict__", None)
    if isinstance(value, (Tensor, nn.Module)) or type(held) is not dict:
        return _Object(type(value))
    names = tuple(name for name, v in held.items() if plain(v))
    return _Object(type(value), names, tuple(held[name] for name in names))


def _same(value: Any, expected: Any) -> bool:
    if isinstance(expected, _Object):
        if type(value) is not expected.kind:
            return False
        if isinstance(value, (dict, list)):
            return expected.plain == _outline(value)
        held = value.__dict__ if expected.names else {}
        return all(held.get(n) == v for n, v in zip(expected.names, expected.plain, strict=True))
    return value is expected or (type(value) is type(expected) and bool(value == expected))


# -- code -----------------------------------------------------------------------------------------


def _arithmetic(node: fx.Node) -> bool:
    """Sizes and arithmetic on them."""
    if node.op == "call_method":
        return node.target in _SHAPE
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] == "shape"
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and _arithmetic(node.args[0])
    home = getattr(node.target, "__module__", "")
    return home in ("_operator", "math", "builtins") and node.target is not operator.setitem


def _hoists(node: fx.Node) -> bool:
    """True where a node follows from the sizes of the inputs."""
    if node.op in ("placeholder", "get_attr"):
        return True
    return _arithmetic(node) and all(_hoists(n) for n in node.all_input_nodes)


def _checker(level: Level, pinned: list[fx.Node]) -> Callable[..., Any]:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    needed: set[fx.Node] = set()
    stack = list(pinned)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    for node in level.graph.nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output(tuple(copies[node] for node in pinned))
    return _compile(graph)


def _sweep(graph: fx.Graph) -> None:
    """Drop sizes that nobody uses; everything else stays, in its order."""
    for node in reversed(list(graph.nodes)):
        read = node.op == "call_function" and node.target is getattr
        if not node.users and (_arithmetic(node) or read or node.op == "get_attr"):
            graph.erase_node(node)


def _compile(graph: fx.Graph) -> Callable[..., Any]:
    """The generated `forward(self, leaf0, …)`.

    Raises:
        Output: an operation has no name that code can use.
    """
    try:
        graph.lint()
        code = graph.python_code("self")
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise Output(f"cannot be written as code: {error}") from None
    space = dict(code.globals)
    exec(compile(code.src, "<equiwrap plan>", "exec"), space)
    return space["forward"]
