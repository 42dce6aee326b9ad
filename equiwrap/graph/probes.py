"""Probes: the symmetry error of chosen nodes, summed up while a model runs on [x, g x].

    node ──▶ h = [h(x), h(g x)] ──▶ probe:  sums[row] += (‖h(gx) − ρ h(x)‖², ‖h(gx)‖²)

Between measurements the model is the user's own code, class by class: the plans that carry probes
are put in where `on` begins and taken out where it ends, a node being probed in one of two tiers.
`graph`: a node of a verified plan, in a copy of it. `hook`: a layer of a container without one, its
forward watched. A chosen node in neither is named with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..measure import Accumulator
from ..signature import Signature
from .install import install_plans, own_forward, restore, swap
from .kinds import Kind
from .plan import Plan, _compile
from .propagate import generators
from .twin import fresh, seed_all, twin_of
from .verify import _equal

__all__ = ["Parts", "Probe", "Probes", "Sight", "fold", "glimpse", "input_kinds", "unlike"]

Move = Callable[[Tensor], Tensor]
Parts = tuple[tuple[int | None, Kind], ...]  # the tensors of a node's value, with their types


@dataclass(frozen=True)
class Probe:
    """A probed node: its stable name, what it does, how it moves, and how it is reached."""

    name: str
    operation: str
    kind: str
    tier: str


@dataclass(frozen=True)
class Sight:
    """One place that a row is fed from: a node of a plan of the container `path`, or a layer."""

    row: int
    parts: Parts
    path: str
    node: fx.Node | None = None


def input_kinds(signature: Signature, inputs: tuple[Any, ...]) -> list[Kind | None]:
    """The types of the arguments, None for what is passed through.

    Raises:
        Untyped: an input cannot be followed through a network.
    """
    given = zip(inputs, signature.inputs, strict=False)
    found = [None if k.untouched else Kind.of(k, x.shape) for x, (_, k) in given]
    return [*found, *[None] * (len(inputs) - len(found))]


def fold(
    kinds: list[Kind | None], moves: list[Move | None], inputs: tuple[Any, ...], kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """[x, g x] along the batch of every typed input; others are doubled where they have a batch."""
    places = [kind.batch if kind is not None else None for kind in kinds]
    batch = next(x.shape[i] for x, i in zip(inputs, places, strict=True) if i is not None)

    def doubled(x: Any) -> Any:
        follows = isinstance(x, Tensor) and x.dim() and x.shape[0] == batch
        return torch.cat([x, x]) if follows else x

    given = zip(inputs, places, moves, strict=True)
    return tuple(
        tree_map(doubled, x) if move is None else torch.cat([x, move(x)], i or 0)
        for x, i, move in given
    ), tree_map(doubled, kwargs)


class Probes:
    """The probes of one model: `placed`, in its order, and `missed` with the reasons.

    `with probes.on(i): model(*folded)` adds; `read` waits for the device once. The sums are plain
    tensors, no buffers: nothing synchronises or saves them.
    """

    def __init__(
        self,
        model: nn.Module,
        signature: Signature,
        placed: tuple[Probe, ...],
        missed: dict[str, str],
        sights: list[Sight],
        plans: dict[str, list[Plan]],
        kinds: list[Kind | None],
    ) -> None:
        self.live = False
        self.heard: set[int] | None = None  # the sights that added, while `quiet` asks
        self.kinds, self.turns = kinds, list[Move | None]()
        self.model, self.signature, self.placed, self.missed = model, signature, placed, missed
        self.elements, self.sights = generators(signature.group), sights
        double = any(p.dtype == torch.float64 for p in model.parameters())
        self.sums = Accumulator(len(placed))
        self.sums.sums = self.sums.sums.to(torch.float64 if double else torch.float32)
        self.moves: list[list[tuple[int | None, Kind, Move]]] | None = None
        self._plans = self._rewritten(plans)
        self.sized = any(plan.sized for some in self._plans.values() for plan in some)
        self._watched = {s.path: i for i, s in enumerate(sights) if s.node is None}
        self._classes: dict[str, type[nn.Module]] = {}

    def _rewritten(self, plans: dict[str, list[Plan]]) -> dict[str, list[Plan]]:
        """Copies of the plans, a probe behind each node that has a sight."""
        carried = {s.node: i for i, s in enumerate(self.sights) if s.node is not None}
        done: dict[str, list[Plan]] = {}
        for path, some in plans.items():
            for plan in some:
                mine = {n: self._probe(carried[n]) for n in plan.graph.nodes if n in carried}
                if mine:
                    done.setdefault(path, []).append(_with_probes(plan, mine))
        return done

    def fold(self, inputs: tuple[Any, ...], kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """[x, g x], inside `on`."""
        return fold(self.kinds, self.turns, inputs, kwargs)

    def add(self, sight: int, value: Any) -> None:
        """What a probe does with the value of its node; nothing while the probes are off."""
        if self.moves is None or not self.live:
            return
        if self.heard is not None:
            self.heard.add(sight)
        for at, kind, move in self.moves[sight]:
            part = (value if at is None else value[at]).detach()
            here, there = kind.part(part, 0, 2), kind.part(part, 1, 2)
            gap = there - move(here)
            pair = torch.stack([_squares(gap), _squares(there)])
            self.sums.sums[self.sights[sight].row] += pair.to(self.sums.sums.dtype)

    @contextmanager
    def on(self, element: int = 0, *, live: bool = True) -> Iterator[nn.Module]:
        """While it lasts the model is in eval mode and adds on every call, given [x, g x].

        g is `self.elements[element]`: one of the elements that are compared with, the identity
        being none of them. Calls inside want `torch.no_grad`, under which the plans were compared;
        with `live=False` nothing is added before the caller sets `.live`.
        """
        g, group = self.elements[element], self.signature.group
        modes = {m: m.training for m in self.model.modules()}
        self._settle()
        self.turns = [None if k is None else k.mover(group, g) for k in self.kinds]
        self.moves = [[(at, k, k.mover(group, g)) for at, k in s.parts] for s in self.sights]
        swapped: list[nn.Module] = []
        self.live = live
        try:
            self.model.eval()
            for path in [*self._plans, *self._watched]:
                swapped.append(self._switch(path))
            yield self.model
        finally:
            self.moves, self.live = None, False
            for module in reversed(swapped):
                restore(module)
            for m, mode in modes.items():
                m.training = mode

    def _settle(self) -> None:
        like = next((t for t in (*self.model.parameters(), *self.model.buffers())), None)
        if like is not None and like.device != self.sums.sums.device:
            self.sums.sums = self.sums.sums.to(like.device)

    def _switch(self, path: str) -> nn.Module:
        """The classes are made once, so that a compiled model compiles once for on."""
        module = self.model.get_submodule(path)
        known = self._classes.get(path)
        if known is not None and vars(known)["_equiwrap_below"] is type(module):
            module.__class__ = known
        else:
            if path in self._plans:
                install_plans(module, self._plans[path])
            else:
                _watch(module, self._probe(self._watched[path]))
            self._classes[path] = type(module)
        return module

    def _probe(self, sight: int) -> Callable[[Any], None]:
        def probe(value: Any) -> None:
            self.add(sight, value)

        return probe

    def quiet(self, args: Any, kwargs: Any) -> set[str]:
        """The containers of which a probe stays silent on this folded input."""
        heard = self.heard = set[int]()
        with torch.no_grad(), self.on():
            self.model(*args, **kwargs)
        found = {s.path for i, s in enumerate(self.sights) if i not in heard}
        self.heard = None
        self.sums.reset()
        return found

    def read(self) -> list[float]:
        """*sqrt(Σ num / Σ den)* of each placed probe; nan where it did not run, or saw zeros."""
        pairs = self.sums.sums.tolist()
        return [(num / den) ** 0.5 if den > 0 else float("nan") for num, den in pairs]


def _squares(x: Tensor) -> Tensor:
    x = x.abs() if x.is_complex() else x.float() if x.dtype.itemsize < 4 else x
    return x.square().sum()


def _watch(module: nn.Module, probe: Callable[[Any], None]) -> None:
    """The hook tier: a hook put on after a compiled call would never fire, a class is looked at."""
    original = type(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        value = own_forward(self, original)(*args, **kwargs)
        probe(value)
        return value

    swap(module, {"forward": forward})


def _with_probes(plan: Plan, probes: dict[fx.Node, Callable[[Any], None]]) -> Plan:
    graph, copies = fx.Graph(), {}  # type: ignore[var-annotated]
    graph.output(graph.graph_copy(plan.graph, copies))
    for node, probe in probes.items():
        with graph.inserting_after(copies[node]):
            graph.call_function(probe, (copies[node],))
    return replace(plan, graph=graph, run=_compile(graph), examples={})


# -- runs on copies, which placing asks for --------------------------------------------------------


def glimpse(model: nn.Module, pair: Any, paths: list[str]) -> dict[str, Any]:
    """The shape of the tensor that each of these layers gives; None where there are several."""
    twin, seen = twin_of(model, False), dict[str, Any]()
    for path in paths:

        def note(_: Any, args: Any, out: Any, path: str = path) -> None:
            shape = tuple(out.shape) if isinstance(out, Tensor) else None
            seen[path] = shape if seen.get(path, shape) == shape else None

        twin.get_submodule(path).register_forward_hook(note)
    with torch.no_grad():
        twin(*pair[0], **pair[1])
    return seen


def unlike(model: nn.Module, pair: Any, plans: dict[str, list[Plan]]) -> set[str]:
    """The paths whose plans do not give what the forward gives, in eval and without gradients."""

    def outputs(some: dict[str, list[Plan]]) -> list[Any]:
        twin = twin_of(model, False)
        for path, chosen in some.items():
            install_plans(twin.get_submodule(path), chosen)
        args, kwargs = fresh(pair)
        seed_all(0)
        with torch.no_grad():
            return tree_leaves(twin(*args, **kwargs))

    wanted = outputs({})
    if _equal(outputs(plans), wanted) or not _equal(outputs({}), wanted):
        return set()
    return {path for path, some in plans.items() if not _equal(outputs({path: some}), wanted)}
