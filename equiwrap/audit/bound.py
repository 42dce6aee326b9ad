"""A bound on the equivariance error, node by node: what each operation adds, carried to the end.

    e_l ≤ L_l e_{l−1} + ‖f_l(ρ h_{l−1}(x)) − ρ f_l(h_{l−1}(x))‖,      e_l = ‖h_l(gx) − ρ h_l(x)‖

The second term is measured on the inputs given, L_l are Lipschitz constants of the weights as they
are: the bound is sound on these inputs, and loose as products of norms are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.kinds import Kind
from ..graph.propagate import Typing, generators
from ..graph.snap import folded
from ..graph.twin import held_random
from ..graph.walk import Visit
from . import lipschitz_local  # noqa: F401  its rules enter the table
from .layers import added
from .lipschitz import Met, carried, tensors_in

__all__ = ["Bound", "bound"]

TRIVIAL = 2.0  # ‖f(gx) − ρ f(x)‖ ≤ ‖f(gx)‖ + ‖f(x)‖


@dataclass(frozen=True)
class Bound:
    """*rms over g of ‖f(gx) − ρ f(x)‖ / ‖f(gx)‖ is at most `value`* on the inputs given.

    `value` is None where no bound can be had, and `why` says why; `local` where a constant holds
    for the measured values only, so that the bound says nothing about other inputs even if the
    errors of the operations stay the same.
    """

    value: float | None
    why: str = ""
    local: bool = False

    @property
    def vacuous(self) -> bool:
        """True for a bound above the trivial one, 2."""
        return self.value is not None and not self.value < TRIVIAL

    def __str__(self) -> str:
        if self.value is None:
            return f"unavailable: {self.why}"
        if self.value == 0:
            return "0"
        power = "∞" if math.isinf(self.value) else f"10^{math.log10(self.value):.1f}"
        said = f"≤ {power}, sound on these inputs"
        said += " (with constants that hold for them only)" if self.local else ""
        return f"vacuous ({said}; 2 is trivial)" if self.vacuous else said


def bound(
    twin: nn.Module, typing: Typing, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Bound:
    """The bound for these inputs: a folded pass for each element (generators of permutations).

    `typing` was propagated on a folded example of this size; `twin` is in eval mode.
    """
    if typing.misaligned:
        return Bound(None, f"misaligned ({typing.misaligned[0].name})")
    squares, sizes, local = 0.0, 0.0, False
    group = typing.group
    elements = generators(group) if group.permutes else group.elements()[1:]
    for g in elements:
        found = _one(twin, typing, g, inputs, kwargs)
        if isinstance(found, str):
            return Bound(None, found)
        squares, sizes, local = squares + found[0] ** 2, sizes + found[1] ** 2, local or found[2]
    return Bound(math.sqrt(squares / sizes) if sizes else 0.0, "", local)


def _one(
    twin: nn.Module, typing: Typing, g: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[float, float, bool] | str:
    """(bound, size of f(gx), local?) for one element, or what is in the way."""
    errors: dict[int, tuple[Tensor, float]] = {}  # the tensor is held, so that its id stays its own
    state = {"why": "", "local": False}

    def error(x: Any) -> float:
        return errors[id(x)][1] if id(x) in errors else 0.0

    def visitor(visit: Visit, run: Callable[[], Any]) -> Any:
        module = visit.run if isinstance(visit.run, nn.Module) else None
        met_with = tensors_in((visit.args, visit.kwargs))
        before = {id(a): error(a) for a in met_with}  # what works in place overwrites them
        data = any(id(a) in errors for a in met_with)
        value, own = added(typing, g, visit, run)
        if visit.inner or state["why"] or not data:
            return value  # not data: what follows from parameters alone
        name = visit.at.name
        if own is None:
            state["why"] = f"{name} has no type"
            return value
        met = Met(
            visit.at.operation,
            module,
            visit.args,
            visit.kwargs,
            lambda x: before.get(id(x), 0.0),
            value if isinstance(value, Tensor) else None,
        )
        found = carried(met)
        if found is None:
            what = type(module).__name__ if module is not None else visit.at.operation
            state["why"] = f"no Lipschitz constant is known for {name} ({what})"
            return value
        state["local"] = state["local"] or found[1]
        for part in tensors_in(value):
            errors[id(part)] = part, found[0] + own
        return value

    pair = folded(typing, g, inputs, kwargs)
    for x in tensors_in(pair):
        errors[id(x)] = x, 0.0
    with torch.no_grad(), held_random(), typing.walk.visited(twin, visitor):
        out = twin(*pair[0], **pair[1])
    if state["why"]:
        return str(state["why"])
    leaves = typing.signature.flatten(out)
    kinds = typing.signature.flatten(typing.output)
    total = size = 0.0
    for leaf, kind in zip(leaves, kinds, strict=True):
        if isinstance(kind, Kind):
            total += error(leaf) ** 2
            size += float(kind.part(leaf, 1, 2).double().square().sum())
    return math.sqrt(total), math.sqrt(size), bool(state["local"])
