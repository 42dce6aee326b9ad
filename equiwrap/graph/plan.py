"""A plan: the recorded graph of one container, compiled, with the conditions under which it holds.

    forward(self, *args, **kwargs) ──▶ leaves ──▶ plan.run(self, *leaves) ──▶ outputs

A plan holds for calls of the same structure, the same constants (None, bool, str), ranks and
aliases, the same plain attributes read, and wherever its guards (facts about sizes that the code
branched on) are true. Guards that follow from the sizes of the inputs are checked before the call;
a plan with others is kept for the example's exact sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .known import arithmetic, hoists
from .level import Level, Output
from .nested import PLAIN, leaves_of, plain
from .reads import ABSENT, Facts, facts_of, held, hold, same

__all__ = ["Plan", "Shape", "lookup", "merged"]


@dataclass(eq=False)
class Plan:
    """`run(self, *leaves) → output leaves`; `graph` is what it was generated from."""

    path: str
    graph: fx.Graph
    key: tuple[Any, ...]
    reads: Facts
    guards: fx.Graph | None  # of facts about sizes that follow from those of the inputs
    expected: tuple[Any, ...]
    run: Callable[..., Any]
    spec: Any
    typed: bool  # the key holds dtypes, devices and the state of autocast
    sized: bool  # the key holds sizes
    uncertain: bool  # it may raise `Changed`
    grad: bool | None  # the only grad mode in which it holds, where that was asked
    examples: dict[fx.Node, Any]
    globals: tuple[tuple[dict[str, Any], str, Any], ...] = ()
    modes: frozenset[bool] = frozenset()  # in which it was recorded: eval, train

    def __post_init__(self) -> None:
        self.check = None if self.guards is None else _compile(self.guards)

    @property
    def conditions(self) -> tuple[Any, ...]:
        """Under which it holds, but for the modes."""
        return self.key, self.reads, self.grad, self.expected, str(self.guards)

    def holds(self, module: nn.Module, leaves: list[Any]) -> bool:
        """True where the attributes read and the facts about sizes are those of the recording."""
        if self.grad is not None and torch.is_grad_enabled() != self.grad:
            return False
        if module.training not in self.modes:
            return False
        if not hold(module, self.reads):
            return False
        if any(not same(space.get(name, ABSENT), v) for space, name, v in self.globals):
            return False
        if self.check is None:
            return True
        try:
            return tuple(self.check(module, module, *leaves)) == self.expected
        except ArithmeticError:  # sizes that the code divides by
            return False

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
        pinned = [(node, value) for node, value in level.guards if hoists(node)]
        sized = len(pinned) < len(level.guards) or level.sized
        reads = facts_of(level)
        guards = _guards(level, [node for node, _ in pinned]) if pinned else None
        _sweep(level.graph)
        leaves: list[Any] = []
        structure = leaves_of((args, kwargs), leaves)
        return cls(
            level.path,
            level.graph,
            call_key(structure, leaves, level.typed, sized),
            reads,
            guards,
            tuple(value for _, value in pinned),
            _compile(level.graph),
            spec,
            level.typed,
            sized,
            bool(level.expected),
            torch.is_grad_enabled() if level.moded else None,
            {node: _light(value) for node, value in level.examples.items()},
            tuple(
                (space, name, held(v))
                for space, name, v in level.globals
                if plain(v) or isinstance(v, (dict, list))
            ),
            frozenset([level.module.training]),
        )


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


def merged(known: list[Plan], plan: Plan) -> list[Plan]:
    """The plans and one more, unless one of them stands for it, in this mode or in both."""
    for other in known:
        if other.conditions != plan.conditions:
            continue
        if str(other.graph) == str(plan.graph):
            other.modes |= plan.modes
        if other.modes >= plan.modes:
            return known
    return [*known, plan]


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


# -- code -----------------------------------------------------------------------------------------


def _guards(level: Level, pinned: list[fx.Node]) -> fx.Graph:
    """The part of the graph that these nodes need, before anything runs."""
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
    return graph


def _sweep(graph: fx.Graph) -> None:
    """Drop sizes that nobody uses; everything else stays, in its order."""
    for node in reversed(list(graph.nodes)):
        read = node.op == "call_function" and node.target is getattr
        if not node.users and (arithmetic(node) or read or node.op == "get_attr"):
            graph.erase_node(node)


def _compile(graph: fx.Graph) -> Callable[..., Any]:
    """The generated `forward(self, leaf0, …)`.

    fx writes a graph as source text, and this runs the text to get the function, as
    `fx.GraphModule` does; the text holds names and plain constants only, no input of the user.

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
