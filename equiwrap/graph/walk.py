"""Walking through a run: the recorded graphs of a model, interpreted node by node.

`Walk` knows the calls of one recorded run: for each container, in order, its plan or the reason why
there is none. `visited(twin, visitor)` lets every node of these graphs pass through a visitor,
which sees the value, may replace it, and may run the node again on other arguments.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import fx, nn
from torch.utils._pytree import tree_unflatten

from .expect import Changed
from .install import own_forward, restore, swap
from .level import Output, leaves_of
from .plan import Plan, Shape

__all__ = ["Node", "Visit", "Walk", "attribute", "describe", "read", "runner"]

Made = Plan | Output


@dataclass(frozen=True)
class Node:
    """One node of one call: `name` is stable, as in `layer1.0.conv1` or `layer1.0.add`."""

    container: str
    call: int
    node: fx.Node | None  # None for the output of the model
    name: str
    operation: str

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from all others."""
        return self.container, self.call, self.node.name if self.node else self.name


@dataclass
class Visit:
    """A node while it runs: `run(*args, **kwargs)` is the operation itself."""

    at: Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    run: Callable[..., Any]
    inner: bool  # a container with a graph of its own


Visitor = Callable[[Visit, Callable[[], Any]], Any]


@dataclass
class Walk:
    """`calls[path]`: what each call of a container left, in order."""

    calls: dict[str, list[Made]] = field(default_factory=dict)

    def made(self, path: str, call: int) -> Made:
        """The plan of a call, or the reason."""
        known = self.calls.get(path, [])
        return known[call] if call < len(known) else Output("was not called on the example")

    @contextmanager
    def visited(self, twin: nn.Module, visitor: Visitor) -> Iterator[nn.Module]:
        """While it lasts, calling `twin` interprets its graphs."""
        counts: Counter[str] = Counter()
        swapped = []
        for path in self.calls:
            module = twin.get_submodule(path)
            original = type(module)

            def forward(
                this: nn.Module, *args: Any, _path: str = path, _of: Any = original, **kwargs: Any
            ) -> Any:
                if not _path:
                    counts.clear()
                call = counts[_path]
                counts[_path] += 1
                made = self.made(_path, call)
                if isinstance(made, Output):
                    return own_forward(this, _of)(*args, **kwargs)
                leaves: list[Any] = []
                leaves_of((args, kwargs), leaves)
                try:
                    return interpret(self, made, this, leaves, call, visitor)
                except Changed:  # its recording does not hold for these data
                    return own_forward(this, _of)(*args, **kwargs)

            swap(module, {"forward": forward})
            swapped.append(module)
        try:
            yield twin
        finally:
            for module in swapped:
                restore(module)


def describe(plan: Plan, call: int, node: fx.Node) -> Node:
    """The name and the operation of a node."""
    prefix = f"{plan.path}." if plan.path else ""
    if node.op == "call_module":
        again = node.name.rsplit("_", 1)[-1]
        twice = "" if not again.isdigit() or _first(node) else f":{int(again) + 1}"
        name = f"{prefix}{node.target}{twice}"
        return Node(plan.path, call, node, name, "")
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    more = f":{call + 1}" if call else ""
    return Node(plan.path, call, node, f"{prefix}{node.name}{more}", target)


def _first(node: fx.Node) -> bool:
    same = [n for n in node.graph.nodes if n.op == "call_module" and n.target == node.target]
    return same[0] is node


def attribute(module: nn.Module, path: str) -> Any:
    """`module.a.b.c`."""
    return operator.attrgetter(path)(module)


def interpret(
    walk: Walk, plan: Plan, module: nn.Module, leaves: list[Any], call: int, visitor: Visitor
) -> Any:
    """Run a plan node by node, each through the visitor; values go after their last use.

    Raises:
        AssertionError: the graph has no output.
    """
    values: dict[fx.Node, Any] = {}
    given = iter([module, *leaves])
    last = _last_uses(plan.graph)

    for node in plan.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
            continue
        if node.op == "output":
            found = read(node.args[0], values)
            return found if plan.spec is None else tree_unflatten(list(found), plan.spec)
        if node.op == "get_attr":
            values[node] = attribute(module, str(node.target))
            continue
        args, kwargs = read(node.args, values), read(node.kwargs, values)
        run = runner(node, module)
        if not _worth(plan.examples.get(node)):
            values[node] = run(*args, **kwargs)
        else:
            path = f"{plan.path}.{node.target}" if plan.path else str(node.target)
            inner = node.op == "call_module" and path in walk.calls
            seen = Visit(describe(plan, call, node), args, kwargs, run, inner)
            values[node] = visitor(seen, partial(run, *args, **kwargs))
        for used in last.get(node, ()):
            values.pop(used, None)
    raise AssertionError("a graph ends in its output")


def read(argument: Any, values: dict[fx.Node, Any]) -> Any:
    """The arguments of a node with its values in place, in plain lists and dicts."""
    if isinstance(argument, fx.Node):
        return values[argument]
    if isinstance(argument, tuple):
        parts = [read(part, values) for part in argument]
        return type(argument)(*parts) if hasattr(argument, "_fields") else tuple(parts)
    if isinstance(argument, list):
        return [read(part, values) for part in argument]
    if isinstance(argument, dict):
        return {key: read(part, values) for key, part in argument.items()}
    if isinstance(argument, slice):
        return slice(*[read(v, values) for v in (argument.start, argument.stop, argument.step)])
    return argument


def runner(node: fx.Node, module: nn.Module) -> Callable[..., Any]:
    """What a node calls."""
    if node.op == "call_module":
        return module.get_submodule(str(node.target))
    if node.op == "call_method":
        return lambda this, *args, **kwargs: getattr(this, str(node.target))(*args, **kwargs)
    return node.target  # type: ignore[return-value]


def _worth(example: Any) -> bool:
    """True where the node gave a tensor, or several."""
    if isinstance(example, Shape):
        return True
    return isinstance(example, (tuple, list)) and any(_worth(part) for part in example)


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    seen: set[fx.Node] = set()
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(list(graph.nodes)):
        for used in node.all_input_nodes:
            if used not in seen:
                seen.add(used)
                found.setdefault(node, []).append(used)
    return found
