"""Types through a network: from the signature's inputs along the recorded graphs, node by node.

    propagate(model, signature, inputs) → Typing

Every node gets a `Kind` or the reason why it has none; every operation that breaks the symmetry
whatever its weights are is named with its fix; every weight that can be projected is named with
how. The rules propose; `snap` decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_unflatten

from ..grids import swaps_axes
from ..groups import Elements, Group
from ..signature import Signature
from . import rules_shape, rules_space  # noqa: F401  they enter their rules
from .capture import record
from .constants import constant, run_constant
from .kinds import Kind, Untyped
from .level import Output, class_of, leaves_of
from .plan import Plan, Shape
from .rules import LAYERS, RULES, Call, Const
from .rules_maps import guess
from .walk import Node, Walk, attribute, describe, read, runner

__all__ = ["Site", "Typing", "propagate"]


@dataclass(frozen=True)
class Site:
    """A node with its type; `kind` is None where it has none, and `why` says why."""

    at: Node
    operation: str
    kind: Any
    why: Untyped | None
    broken: tuple[Untyped, ...] = ()
    weights: tuple[str, ...] = ()
    inner: bool = False
    inputs: tuple[Any, ...] = ()  # the types of the arguments, as they are nested
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stable name."""
        return self.at.name


@dataclass
class Typing:
    """What propagation found: sites in the order of execution, and what can be projected."""

    group: Group
    signature: Signature
    walk: Walk
    sites: dict[tuple[str, int, str], Site] = field(default_factory=dict)
    kernels: set[str] = field(default_factory=set)
    tables: list[tuple[str, Tensor, Kind]] = field(default_factory=list)
    output: Any = None

    @property
    def untyped(self) -> list[Site]:
        """The sites without a type."""
        return [site for site in self.sites.values() if site.why is not None]

    @property
    def misaligned(self) -> list[Site]:
        """The sites that break the symmetry whatever their weights are."""
        return [site for site in self.sites.values() if site.broken]


def propagate(
    model: nn.Module, signature: Signature, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Typing:
    """The type of every node of a model on this example.

    Raises:
        CaptureError: the model does not run on the example.
    """
    walk = record(model, inputs, kwargs)
    found = Typing(signature.group, signature, walk)
    values = [_input(kind, x) for (_, kind), x in zip(signature.inputs, inputs, strict=False)]
    values += [_unknown(x) for x in inputs[len(values) :]]
    named = {name: _unknown(x) for name, x in kwargs.items()}
    with torch.no_grad():
        found.output = _Walker(model, found).container("", tuple(values), named)
    return found


def _input(kind: Any, x: Any) -> Any:
    if not isinstance(x, Tensor) or kind.untouched:
        return _unknown(x)
    try:
        return Kind.of(kind, x.shape)
    except Untyped as why:
        return why


def _unknown(x: Any) -> Any:
    return Untyped("is an input without a type") if isinstance(x, Tensor) else x


class _Walker:
    """The recursion over containers."""

    def __init__(self, model: nn.Module, typing: Typing) -> None:
        self.model, self.typing, self.walk = model, typing, typing.walk
        self.counts: Counter[str] = Counter()
        group = typing.group
        self.swaps = group.lattice and group.dim == 2 and not group.permutes and swaps_axes(group)

    def container(self, path: str, args: Any, kwargs: Any) -> Any:
        """The types of the outputs of a container."""
        call = self.counts[path]
        self.counts[path] += 1
        made = self.walk.made(path, call)
        if isinstance(made, Output):
            return Untyped(f"is opaque: it {made}")
        module = self.model.get_submodule(path) if path else self.model
        leaves: list[Any] = []
        leaves_of((args, kwargs), leaves)
        return self.graph(made, module, leaves, call)

    def graph(self, plan: Plan, module: nn.Module, leaves: list[Any], call: int) -> Any:
        """Node by node."""
        values: dict[fx.Node, Any] = {}
        given = iter([module, *leaves])

        for node in plan.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given, None)
            elif node.op == "get_attr":
                value = attribute(module, str(node.target))
                full = f"{plan.path}.{node.target}" if plan.path else str(node.target)
                values[node] = constant(value, full) if isinstance(value, Tensor) else value
            elif node.op == "output":
                out = read(node.args[0], values)
                return out if plan.spec is None else tree_unflatten(list(out), plan.spec)
            else:
                args, kwargs = read(node.args, values), read(node.kwargs, values)
                values[node] = self.node(plan, module, node, args, kwargs, call)
        raise AssertionError("a graph ends in its output")

    def node(
        self, plan: Plan, module: nn.Module, node: fx.Node, args: Any, kwargs: Any, call: int
    ) -> Any:
        """The type of one node, entered as a site where it is a tensor's."""
        example = plan.examples.get(node)
        if not _tensors(example):
            return example
        at = describe(plan, call, node)
        child = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        path = f"{plan.path}.{node.target}" if plan.path else str(node.target)
        operation = type(child).__name__ if child is None else class_of(child).__name__
        operation = at.operation if child is None else operation
        leaves = _leaves((args, kwargs))
        typed = [leaf for leaf in leaves if isinstance(leaf, (Kind, Untyped))]
        if not typed and any(isinstance(leaf, Const) for leaf in leaves):
            return run_constant(operation, runner(node, module), args, kwargs)
        if not typed:
            return _as(example, Untyped("does not depend on a typed input"))
        asked = Call(operation, tuple(args), dict(kwargs), example, child, path, self.swaps)
        inner = child is not None and path in self.walk.calls
        found, why = self._apply(asked, inner, path, args, kwargs, example)
        self._enter(at, operation, found, why, asked, inner, args, kwargs)
        return found

    def _apply(
        self, asked: Call, inner: bool, path: str, args: Any, kwargs: Any, example: Any
    ) -> tuple[Any, Untyped | None]:
        try:
            if inner:
                found = self.container(path, args, kwargs)
            else:
                found = _rule(asked)(asked)
            for const, kind in asked.demands:
                self._demand(const, kind)
        except Untyped as why:
            return _as(example, why), why
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            why = Untyped(f"its rule for {asked.name} does not apply ({type(error).__name__})")
            return _as(example, why), why
        if isinstance(found, Kind) and isinstance(example, Shape) and found.shape != tuple(example):
            why = Untyped(f"its rule gives {found.shape} where the example has {tuple(example)}")
            return why, why
        if isinstance(found, Untyped):
            return _as(example, found), found
        return found, None

    def _demand(self, const: Const, kind: Kind) -> None:
        """Enter a table to be projected; a computed constant must be invariant as it is.

        Raises:
            Untyped: it is not.
        """
        if const.terms is not None:
            for labels, source in const.terms:
                self.typing.tables.append((source, labels, kind))
            return
        value = const.value.double() if const.value.is_floating_point() else const.value
        for g in generators(self.typing.group):
            if not torch.allclose(kind.act(self.typing.group, g, value).to(value), value):
                raise Untyped(
                    "uses a computed table that changes under the group (absolute positions)",
                    "use a learned or relative table, which can be projected",
                    "position table",
                )

    def _enter(
        self,
        at: Node,
        operation: str,
        found: Any,
        why: Untyped | None,
        asked: Call,
        inner: bool,
        args: Any,
        kwargs: Any,
    ) -> None:
        weights = [*asked.kernels]
        weights += [source for const, _ in asked.demands for _, source in const.terms or ()]
        if why is None:
            self.typing.kernels |= set(asked.kernels)
        self.typing.sites[at.key] = Site(
            at,
            operation,
            None if why is not None else found,
            why,
            tuple(asked.broken),
            tuple(weights),
            inner,
            tuple(args),
            dict(kwargs),
        )


def generators(group: Group) -> list[Elements]:
    """Elements that generate a finite group; eight samples of another."""
    if group.order is not None and group.order <= 64:
        g = group.elements()
        return [g[i : i + 1][0] if not isinstance(g, tuple) else g for i in range(1, group.order)]
    drawn = group.sample(8, generator=torch.Generator().manual_seed(0))
    return [tuple(p[i] for p in drawn) if isinstance(drawn, tuple) else drawn[i] for i in range(8)]


def _rule(asked: Call) -> Any:
    if asked.module is None:
        return RULES.get(asked.name, guess)
    for cls in class_of(asked.module).__mro__:
        if cls in LAYERS:
            return LAYERS[cls]
    return guess


def _tensors(example: Any) -> bool:
    if isinstance(example, Shape):
        return True
    return isinstance(example, (tuple, list)) and any(_tensors(part) for part in example)


def _as(example: Any, why: Untyped) -> Any:
    """The reason, in the structure of the result."""
    if isinstance(example, (tuple, list)) and not isinstance(example, Shape):
        return tuple(_as(part, why) if _tensors(part) else part for part in example)
    return why


def _leaves(value: Any) -> list[Any]:
    return tree_leaves(value, is_leaf=lambda leaf: isinstance(leaf, (Const, Kind, Untyped)))
