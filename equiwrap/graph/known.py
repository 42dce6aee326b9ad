"""Axis lengths that follow from the code: constants and numbers that a view or a layer was given.

`q, k, v = qkv(x).reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)` gives three tensors
whatever the input: axis 2 of the view is the constant 3. Without this, a result whose length is a
size would pin the recording to the example's sizes.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn

__all__ = ["arithmetic", "hoists", "known_sizes", "parts_follow"]

Known = tuple[Any, ...]  # an int, a node or None (not known) for each axis


def known_sizes(
    op: str, target: Any, args: Any, value: Any, known: dict[fx.Node, Known], module: Any
) -> Known | None:
    """What is known of the axes of a result."""
    if not isinstance(value, Tensor):
        return None
    if isinstance(module, nn.Linear):
        return (*[None] * (value.dim() - 1), module.out_features)
    if isinstance(module, nn.modules.conv._ConvNd):
        return (None, module.out_channels, *[None] * (value.dim() - 2))
    if op != "call_method" or not args:
        return None
    rest = args[1:]
    if target in ("view", "reshape"):
        given = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
        usable = all(isinstance(s, (int, fx.Node)) for s in given) and len(given) == value.dim()
        return tuple(None if s == -1 else s for s in given) if usable else None
    before = known.get(args[0])
    if before is None:
        return None
    if target == "permute":
        order = rest[0] if isinstance(rest[0], (tuple, list)) else rest
        return tuple(before[i] for i in order) if all(isinstance(i, int) for i in order) else None
    if target in ("transpose", "swapaxes") and all(isinstance(i, int) for i in rest):
        axes = list(before)
        i, j = rest
        axes[i], axes[j] = axes[j], axes[i]
        return tuple(axes)
    return before if target in ("contiguous", "clone", "float") else None


def parts_follow(
    target: Any, args: Any, kwargs: Any, known: dict[fx.Node, Known]
) -> fx.Node | bool:
    """True where a number of parts is a constant, the node that it equals, or False."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    names = {"unbind": 0, "chunk": 1, "split": 1, "tensor_split": 1}
    if name not in names or not args:
        return False
    if name in ("split", "tensor_split") and len(args) > 1 and isinstance(args[1], (tuple, list)):
        return True
    place = names[name] + 1
    axis = kwargs.get("dim", args[place] if len(args) > place else 0)
    before = known.get(args[0])
    if before is None or not isinstance(axis, int):
        return False
    found = before[axis]
    if isinstance(found, int):
        return all(not isinstance(a, fx.Node) for a in args[1:])
    return found if isinstance(found, fx.Node) and name == "unbind" else False


def arithmetic(node: fx.Node) -> bool:
    """Sizes and arithmetic on them."""
    if node.op == "call_method":
        return node.target in ("size", "numel", "nelement")
    if node.op != "call_function" or not callable(node.target):
        return False
    if node.target is getattr:
        return bool(node.args[1] == "shape")
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and arithmetic(node.args[0])
    home = getattr(node.target, "__module__", "")
    return home in ("_operator", "math", "builtins") and node.target != operator.setitem


def hoists(node: fx.Node) -> bool:
    """True where a node follows from the sizes of the inputs."""
    if node.op in ("placeholder", "get_attr"):
        return True
    return arithmetic(node) and all(hoists(n) for n in node.all_input_nodes)
