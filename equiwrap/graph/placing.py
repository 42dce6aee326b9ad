"""Placing probes: which nodes were chosen, where each can be carried, and why one cannot.

A pass: the model must run and its input types be followed (requires); sights are collected (the
rewriting itself is that of `probes`); every chosen node is in `placed` or in `missed` (ensures).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from ..errors import CaptureError, SignatureError
from ..grids import on_grid
from ..signature import Signature, TensorType
from .kinds import Kind, Untyped
from .level import Output, class_of
from .plan import Plan
from .probes import Parts, Probe, Probes, Sight, fold, glimpse, input_kinds, unlike
from .propagate import Site, Typing, generators, propagate
from .record import is_leaf
from .twin import held_random

__all__ = ["Where", "insert_probes"]

Where = bool | str | Iterable[str] | Callable[[nn.Module, str], bool]
_ADDS = ("add", "add_", "iadd", "__add__", "__iadd__", "__radd__")


def insert_probes(
    model: nn.Module,
    signature: Signature,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    where: Where = True,
) -> Probes:
    """Place probes at the chosen nodes, as they are found on this example.

    `where`: True (every layer and every residual add), names or regular expressions of whole names,
    or `filter_fn(module, fqn)`. `model` itself is not touched.

    Raises:
        SignatureError: nothing matches, or an input has no type that can be followed.
        CaptureError: the model does not run on the example, or none of the chosen can be probed.
    """
    elements = generators(signature.group)
    if not elements:
        raise SignatureError(f"{signature.group} has the identity alone: there is no error.")
    try:
        kinds = input_kinds(signature, inputs)
        moves = [None if k is None else k.mover(signature.group, elements[0]) for k in kinds]
        pair = fold(kinds, moves, inputs, kwargs or {})
    except Untyped as why:
        raise SignatureError(
            f"Probes follow the types of {str(signature)!r} through the model, and an input "
            f"{why.reason}: measure from outside, ew.measure.equivariance_error."
        ) from None
    typing = propagate(model, signature, *pair)
    draft = _Draft(model, typing, pair)
    chosen = draft.choose(where)
    probes = draft.probes(chosen, kinds)
    with held_random():
        quiet = probes.quiet(*pair)
    if quiet:  # a plan that holds for a copy only
        draft.unlike |= quiet
        probes = draft.probes(chosen, kinds)
    if not draft.rows:
        some = "; ".join(f"{name} {why}" for name, why in list(draft.missed.items())[:3])
        raise CaptureError(f"None of the {len(draft.missed)} chosen nodes can be probed: {some}.")
    return probes


@dataclass
class _Candidate:
    """What can be chosen: a node, in all its calls, or a layer that no graph shows."""

    name: str
    module: nn.Module | None
    sites: list[Site] = field(default_factory=list)

    @property
    def usual(self) -> bool:
        """True for what `probes=True` means: layers and residual adds."""
        if self.module is not None:
            inner = bool(self.sites) and self.sites[0].inner
            return not inner and class_of(self.module) is not nn.Identity
        terms = tree_leaves(self.sites[0].inputs, is_leaf=lambda x: isinstance(x, (Kind, Untyped)))
        return (
            self.sites[0].operation in _ADDS
            and sum(isinstance(t, (Kind, Untyped)) for t in terms) > 1
        )


class _Draft:
    """The pass: what is chosen, where it can be carried, what cannot and why."""

    def __init__(self, model: nn.Module, typing: Typing, pair: Any) -> None:
        self.model, self.typing, self.pair = model, typing, pair
        self.rows: dict[str, Probe] = {}
        self.missed: dict[str, str] = {}
        self.sights: list[Sight] = []
        self.plans: dict[str, list[Plan]] = {}
        self.unlike: set[str] = set()
        self.seen: dict[str, Any] = {}

    def choose(self, where: Where) -> list[_Candidate]:
        """The candidates that match, in the model's order.

        Raises:
            SignatureError: none does, or a name does not.
        """
        found: dict[Any, _Candidate] = {}
        for site in self.typing.sites.values():
            at, node = site.at, site.at.node
            if node is None:
                continue
            path = f"{at.container}.{node.target}" if at.container else str(node.target)
            module = self.model.get_submodule(path) if node.op == "call_module" else None
            key = at.container, node.name
            found.setdefault(key, _Candidate(at.name, module)).sites.append(site)
        shown = {c.name for c in found.values()}
        everything = [*found.values()]
        everything += [c for c in _hidden(self.model) if c.name not in shown]
        picked = _matching(everything, where)
        containers = {c.sites[0].at.container for c in picked if c.sites}
        self.plans = {path: _distinct(self.typing.walk.calls[path]) for path in containers}
        with held_random():
            self.unlike = unlike(self.model, self.pair, self.plans)
            hidden = [c.name for c in picked if not c.sites]
            self.seen = glimpse(self.model, self.pair, hidden) if hidden else {}
        if where is True:
            picked = [c for c in picked if c.sites or c.name in self.seen]
        return picked

    def probes(self, candidates: list[_Candidate], kinds: list[Kind | None]) -> Probes:
        """Every candidate placed, or missed."""
        self.rows, self.missed, self.sights = {}, {}, []
        for candidate in candidates:
            self.place(candidate)
        placed = tuple(self.rows.values())
        sig = self.typing.signature
        return Probes(self.model, sig, placed, self.missed, self.sights, self.plans, kinds)

    def place(self, candidate: _Candidate) -> None:
        """Carry a probe at every call of a node, or say why not."""
        try:
            for tier, parts, node in self._places(candidate):
                self._add(candidate, tier, parts, node)
        except Untyped as why:
            self.missed[candidate.name] = why.reason

    def _places(self, candidate: _Candidate) -> list[tuple[str, Parts, fx.Node | None]]:
        """(tier, types, node of a plan) for every plan that calls it, or the module itself.

        Raises:
            Untyped: it has no type, or several.
        """
        if not candidate.sites:
            return [("hook", self._guessed(candidate.name), None)]
        plans: dict[Plan, Parts] = {}
        for site in candidate.sites:
            if site.kind is None:
                raise site.why or Untyped("has no type")
            made = self.typing.walk.made(site.at.container, site.at.call)
            plan = next(p for p in self.plans[site.at.container] if _alike(p, made))
            parts = _parts(site.kind)
            if plans.setdefault(plan, parts) != parts:
                raise Untyped("is called with several types")
        path, _, name = candidate.sites[0].at.key
        if path not in self.unlike:
            nodes = [next(n for n in p.graph.nodes if n.name == name) for p in plans]
            return [("graph", t, n) for t, n in zip(plans.values(), nodes, strict=True)]
        if len(set(plans.values())) > 1:
            raise Untyped("is called with several types")
        return [("hook", next(iter(plans.values())), None)]

    def _add(self, candidate: _Candidate, tier: str, parts: Parts, node: fx.Node | None) -> None:
        """Enter one place.

        Raises:
            Untyped: its value cannot be halved or moved, or the layer cannot be watched.
        """
        for _, kind in parts:  # a type that cannot be halved or moved is found out here
            half = kind.part(torch.zeros(kind.shape), 0, 2)
            kind.act(self.typing.group, generators(self.typing.group)[0], half)
        path = candidate.sites[0].at.container if node is not None else ""
        module = candidate.module
        if node is None:
            if module is None or isinstance(module, torch.jit.ScriptModule):
                raise Untyped("lies in a container without a graph, and is no module to watch")
            path = next(p for p, m in self.model.named_modules() if m is module)
        operation = candidate.sites[0].operation if module is None else class_of(module).__name__
        shown = ", ".join(str(kind) for _, kind in parts)
        self.rows.setdefault(candidate.name, Probe(candidate.name, operation, shown, tier))
        self.sights.append(Sight([*self.rows].index(candidate.name), parts, path, node))

    def _guessed(self, path: str) -> Parts:
        """Inside an opaque container: images are told by their shape, nothing else is.

        Raises:
            Untyped: the layer gives something else, or is not called.
        """
        shape, group = self.seen.get(path), self.typing.group
        above = [path.rsplit(".", i)[0] for i in range(1, path.count(".") + 1)] + [""]
        calls = [made for p in above for made in self.typing.walk.calls.get(p, ())]
        if path not in self.seen:
            raise Untyped("is not called on the example")
        if shape is None or not any(isinstance(made, Output) for made in calls):
            raise Untyped("gives no single tensor, or one that depends on no typed input")
        if len(shape) == 4 and shape[2] == shape[3] > 1 and on_grid(group) and group.dim == 2:
            return ((None, Kind.of(TensorType.parse("b c h w", group), shape)),)
        raise Untyped(f"has no type: it lies in opaque code and gives {list(shape)}")


def _matching(candidates: list[_Candidate], where: Where) -> list[_Candidate]:
    if where is True:
        found = [c for c in candidates if c.usual]
    elif callable(where):
        found = [c for c in candidates if c.module is not None and where(c.module, c.name)]
    else:
        asked = [where] if isinstance(where, str) else list(where or ())  # type: ignore[arg-type]
        try:
            lost = [a for a in asked if not any(_named(c, a) for c in candidates)]
        except re.error as error:
            raise SignatureError(
                f"probes={asked!r} holds no regular expression: {error}."
            ) from None
        found = [c for c in candidates if any(_named(c, a) for a in asked)]
        if lost:
            near = difflib.get_close_matches(lost[0], [c.name for c in candidates], 3, 0.3)
            raise SignatureError(
                f"probes={lost[0]!r} matches no node of the model, as a name or as a regular "
                f"expression of the whole name; the nearest are {', '.join(near) or 'none'}."
            )
    if not found:
        instead = "it has no layers inside" if where is True else "True is every layer and add"
        raise SignatureError(
            f"probes={where!r} chooses none of the {len(candidates)} nodes: {instead}."
        )
    return found


def _named(candidate: _Candidate, text: str) -> bool:
    return candidate.name == text or re.fullmatch(text, candidate.name) is not None


def _hidden(model: nn.Module) -> list[_Candidate]:
    """All layers by path; those of containers without a graph show in no other way."""
    leaves = {p: m for p, m in model.named_modules() if p and is_leaf(m)}
    inner = [p for p in leaves if any(p.startswith(f"{q}.") for q in leaves)]
    return [_Candidate(p, m) for p, m in leaves.items() if p not in inner]


def _parts(kind: Any) -> Parts:
    """The typed tensors of a node's value.

    Raises:
        Untyped: there are none.
    """
    if isinstance(kind, Kind):
        return ((None, kind),)
    found = tuple((i, k) for i, k in enumerate(kind) if isinstance(k, Kind))
    if not found:
        raise Untyped("gives nothing that has a type")
    return found


def _distinct(calls: Iterable[Any]) -> list[Plan]:
    found: list[Plan] = []
    for made in calls:
        if isinstance(made, Plan) and not any(_alike(plan, made) for plan in found):
            found.append(replace(made, grad=None))
    return found


def _alike(plan: Plan, made: Any) -> bool:
    """True where `lookup` could not tell them apart."""
    return (plan.key, plan.reads, plan.expected) == (made.key, made.reads, made.expected)
