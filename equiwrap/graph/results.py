"""What a recorded call returned: its tensors become known by identity, its numbers are traced."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten

from .known import known_sizes, parts_follow
from .nested import PLAIN, PLAIN_TORCH
from .traced import Sizes, traced

if TYPE_CHECKING:
    from .level import Level

__all__ = ["apart", "result", "structure"]


def apart(level: Level, value: Any) -> Any:
    """An argument that comes back as it was, under an identity of its own.

    On another call the two may be different tensors (`contiguous`, `to`, a child that pads).
    """
    if isinstance(value, Tensor) and id(value) in level.nodes:
        with torch._C.DisableTorchFunction():
            return torch.ops.aten.alias(value)
    if type(value) in (tuple, list):
        return type(value)(apart(level, part) for part in value)
    return value


def structure(level: Level, node: fx.Node, value: Any) -> None:
    """How many tensors, of which rank: where sizes decide it, it is a guard."""
    child = level.module.get_submodule(str(node.target)) if node.op == "call_module" else None
    sizes = known_sizes(node.op, node.target, node.args, value, level.known, child)
    if sizes is not None:
        level.known[node] = sizes
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if child is None and type(value) in (tuple, list):
        follows = parts_follow(node.target, node.args, node.kwargs, level.known)
        if follows is False:
            level.guard(level.graph.call_function(len, (node,)), len(value))
        elif isinstance(follows, fx.Node):
            level.guard(follows, len(value))
    if name.startswith("squeeze") and isinstance(value, Tensor):
        level.guard(level.graph.call_method("dim", (node,)), value.dim())


def result(level: Level, value: Any, node: fx.Node) -> Any:
    """Make the tensors of a result known, and trace its numbers."""
    if isinstance(value, (Tensor, torch.device)):
        level.know(value, lambda: node)
    elif isinstance(value, torch.Size):
        axes = level.known.get(node.args[0], ()) if isinstance(node.args[0], fx.Node) else ()
        known = [axis if isinstance(axis, fx.Node) else None for axis in axes] or [None] * len(
            value
        )
        nodes = [
            k or _get(level, node, i, v) for i, (k, v) in enumerate(zip(known, value, strict=True))
        ]
        return Sizes(traced(v, n, level) for n, v in zip(nodes, value, strict=True))
    elif type(value) in (int, float):
        return traced(value, node, level)
    elif type(value) in (tuple, list):
        return type(value)(_inner(level, v, node, i) for i, v in enumerate(value))
    elif isinstance(value, tuple):
        parts = [_inner(level, v, node, i) for i, v in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else value
    elif type(value) is dict:
        return {key: _inner(level, part, node, key) for key, part in value.items()}
    elif isinstance(value, dict):
        for key, part in value.items():
            _inner(level, part, node, key)
    elif value is not None and not isinstance(value, (*PLAIN, *PLAIN_TORCH)):
        _fields(level, value, node)
    return value


def _inner(level: Level, value: Any, node: fx.Node, key: Any) -> Any:
    leaves = tree_flatten(value)[0]
    holds = any(isinstance(v, (Tensor, int, float, torch.device)) for v in leaves)
    if not holds or isinstance(value, bool):
        return value
    if isinstance(value, Tensor):  # the node is made on first use
        level.know(value, _once(lambda: _get(level, node, key, value)))
        return value
    return result(level, value, _get(level, node, key, value))


def _get(level: Level, node: fx.Node, key: Any, value: Any) -> fx.Node:
    found = level.graph.call_function(operator.getitem, (node, key))
    level.examples[found] = value
    return found


def _fields(level: Level, value: Any, node: fx.Node) -> None:
    """Tensors in the attributes of a dataclass or another result object."""
    for name, part in getattr(value, "__dict__", {}).items():
        if isinstance(part, Tensor):

            def get(name: str = name, part: Any = part) -> fx.Node:
                found = level.graph.call_function(getattr, (node, name))
                level.examples[found] = part
                return found

            level.know(part, _once(get))
    level.know(value, lambda: node)


def _once(make: Callable[[], fx.Node]) -> Callable[[], fx.Node]:
    made: list[fx.Node] = []

    def get() -> fx.Node:
        if not made:
            made.append(make())
        return made[0]

    return get
