"""The recursion of types over containers: node by node through the rules."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from ..grids import swaps_axes
from . import rules_contract, rules_parts, rules_resize, rules_window  # noqa: F401  they enter rules
from .constants import cached, constant, invariant, run_constant, settled
from .hidden import channels_of, rested
from .kinds import Kind, Untyped
from .level import Output, class_of, leaves_of
from .plan import Plan, Shape
from .rules import LAYERS, RULES, Call, Const, paired
from .rules_maps import guess
from .sites import Site, Typing, generators
from .walk import Node, attribute, describe, read, runner

__all__ = ["Walker"]

LIKE = ("to", "type_as", "expand_as", "view_as", "reshape_as")  # a tensor shows what is wanted


class Walker:
    """The recursion over containers."""

    def __init__(self, model: nn.Module, typing: Typing, warm: nn.Module) -> None:
        self.model, self.typing, self.walk, self.warm = model, typing, typing.walk, warm
        self.counts: Counter[str] = Counter()
        held = [*model.named_modules(), *model.named_parameters(), *model.named_buffers()]
        self.names = {id(part): name for name, part in held}  # one name where a part is shared
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
        """Node by node.

        Raises:
            AssertionError: the graph has no output.
        """
        values: dict[fx.Node, Any] = {}
        given = iter([module, *leaves])

        for node in plan.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given, None)
            elif node.op == "get_attr":
                value = attribute(module, str(node.target))
                full = self.names.get(id(value), str(node.target))
                values[node] = constant(value, full) if isinstance(value, Tensor) else value
                if isinstance(value, dict):
                    kept = attribute(self.warm.get_submodule(plan.path), str(node.target))
                    values[node] = {k: cached(v, module, plan.path) for k, v in kept.items()}
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
        child = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        path = self.names.get(id(child), "")
        inner = child is not None and path in self.walk.calls
        if not inner and not _tensors(example):
            return _plain(runner(node, module), args, kwargs) if example is None else example
        at = describe(plan, call, node)
        operation = at.operation if child is None else class_of(child).__name__
        leaves = _leaves((args, kwargs))
        if operation == "getitem" and isinstance(args[0], dict):
            return args[0][args[1]]
        typed = [leaf for leaf in leaves if isinstance(leaf, (Kind, Untyped))]
        likened = operation in LIKE and args and isinstance(args[0], Const)
        if not inner and (likened or not typed):
            args = tree_map(_example, args, is_leaf=lambda leaf: isinstance(leaf, (Const, Kind)))
            if (table := self._looked_up(child)) is not None:
                return _computed("getitem", operator.getitem, (table, *args), kwargs, example)
            return _computed(operation, runner(node, module), args, kwargs, example)
        found, why, asked = self._apply(operation, child, inner, path, args, kwargs, example)
        if _tensors(example) and not isinstance(found, Const):
            self._enter(at, operation, found, why, asked, inner, args, kwargs)
        return found

    def _apply(
        self,
        name: str,
        child: Any,
        inner: bool,
        path: str,
        args: Any,
        kwargs: Any,
        example: Any,
    ) -> tuple[Any, Untyped | None, Call]:
        """The rule's answer; where channels are in its way, once more with these cut or at rest."""
        hidden, still = self.typing.hidden, None
        for attempt in range(3):
            asked = Call(name, tuple(args), dict(kwargs), example, child, path, self.swaps)
            asked.hidden, asked.still = hidden, still
            found, why = self._asked(asked, inner, args, kwargs, example)
            if why is None or inner:
                break
            if attempt == 0 and hidden.conflict((args, kwargs), why):
                args, kwargs = rested((args, kwargs), why, hidden.images)
                continue
            made = [axis for axis in asked.made if channels_of(axis)]
            if still or not made:
                break
            for axis in made:
                hidden.clash(axis, why)
            still = why
        return found, why, asked

    def _asked(
        self, asked: Call, inner: bool, args: Any, kwargs: Any, example: Any
    ) -> tuple[Any, Untyped | None]:
        try:
            found = self.container(asked.path, args, kwargs) if inner else _rule(asked)(asked)
            for const, kind in asked.demands:
                self._demand(const, kind)
        except Untyped as why:
            return _as(example, why), why
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            none = Untyped(f"its rule for {asked.name} does not apply ({type(error).__name__})")
            return _as(example, none), none
        if isinstance(found, Kind) and isinstance(example, Shape) and found.shape != tuple(example):
            none = Untyped(f"its rule gives {found.shape} where the example has {tuple(example)}")
            return none, none
        if isinstance(found, Untyped):
            return _as(example, found), found
        return found, None

    def _demand(self, const: Const, kind: Kind) -> None:
        """Enter a table to be projected; a computed constant must be invariant as it is.

        Raises:
            Untyped: it is not.
        """
        if self.swaps and not paired(kind):
            raise Untyped(
                "uses a table along one of height and width, which the group exchanges",
                "use a table of the whole grid, or C2 or D2",
                "position table",
            )
        if const.terms is not None:
            for labels, source in const.terms:
                self.typing.tables.append((source, labels, kind))
            return
        group, elements = self.typing.group, generators(self.typing.group)
        if const.remake and any(map(channels_of, kind.axes)):
            raise Untyped("computes a weight between channels that the group moves")
        if not invariant(group, elements, const.value, kind):
            tables = settled(group, elements, const, kind) if const.remake else None
            made = const.whole and const.whole not in dict(self.model.named_buffers())
            if tables is None and made and not const.remake:
                raise Untyped(
                    "computes its weight from other parameters, which are not followed",
                    "remove the parametrization (torch.nn.utils.parametrize), wrap, put it back",
                    "computed weight",
                )
            if tables is None:
                raise Untyped(
                    "uses a computed table of positions that changes under the group",
                    "use a learned or relative table, which can be projected",
                    "position table",
                )
            self.typing.tables += tables

    def _looked_up(self, child: Any) -> Const | None:
        """The parameter of an embedding that returns its rows as they stand."""
        plain = isinstance(child, nn.Embedding) and class_of(child).forward is nn.Embedding.forward
        if not plain or child.max_norm is not None or not isinstance(child.weight, nn.Parameter):
            return None
        return constant(child.weight, self.names[id(child.weight)])

    def _first(self, path: str) -> str:
        """The first path of a tensor that several layers share: they ask for one projection."""
        return self.names.get(id(attribute(self.model, path)), path)

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
        kernels = [self._first(path) for path in asked.kernels]
        whole = [(self._first(path), kind) for path, kind in asked.whole]
        weights = [*kernels, *(path for path, _ in whole)]
        weights += [source for const, _ in asked.demands for _, source in const.terms or ()]
        if why is None:
            self.typing.kernels |= set(kernels)
            for path, kind in whole:
                kinds = self.typing.whole.setdefault(path, [])
                kinds += [kind] if kind not in kinds else []
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
            asked.loose,
        )


def _plain(run: Any, args: Any, kwargs: Any) -> Any:
    """A value that the recording did not keep, as a `torch.Size` made of numbers."""
    if any(isinstance(leaf, (Kind, Untyped, Const, nn.Module)) for leaf in _leaves((args, kwargs))):
        return None
    try:
        return run(*args, **kwargs)
    except Exception:
        return None


def _example(leaf: Any) -> Any:
    return torch.zeros(leaf.shape) if isinstance(leaf, Kind) else leaf


def _computed(name: str, run: Any, args: Any, kwargs: Any, example: Any) -> Any:
    """What follows from parameters and numbers alone."""
    try:
        return run_constant(name, run, args, kwargs)
    except Exception as error:
        return _as(example, Untyped(f"cannot be computed by itself ({type(error).__name__})"))


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
