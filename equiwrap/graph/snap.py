"""Snap and probe: project a float64 copy of the model, then compare every typed node.

For generic inputs a network that is analytic piece by piece passes at a node only if the node is
equivariant almost everywhere: soundness comes from here, not from the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..groups import Elements
from .kinds import Kind, Untyped
from .projections import projectors
from .propagate import Site, Typing, generators
from .twin import held_random, twin_of, warmed
from .walk import Visit, attribute

__all__ = ["Probed", "folded", "moved_inputs", "project_weights", "snap_and_probe"]

EXACT, MISALIGNED, UNSOUND = "EXACT", "MISALIGNED", "UNSOUND"
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Probed:
    """`errors[key]` of every typed node after projection, relative, float64; and the class."""

    errors: dict[tuple[str, int, str], float]
    output: float
    failing: tuple[Site, ...]
    label: str

    def __str__(self) -> str:
        passed = sum(error <= TOLERANCE for error in self.errors.values())
        return (
            f"{self.label}: {passed} of {len(self.errors)} typed nodes pass {TOLERANCE:.0e} after "
            f"projection; output {self.output:.0e}"
        )


def project_weights(model: nn.Module, typing: Typing) -> list[str]:
    """Project, in place, every weight that propagation has typed; returns their paths."""
    found = projectors(model, typing)
    with torch.no_grad():
        for path, projector in found.items():
            projector.lerp_(attribute(model, path), 1.0)
    return list(found)


def folded(
    typing: Typing, g: Elements, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """[x, g x] along the batch of every typed input; other tensors are doubled.

    Raises:
        Untyped: an input cannot be moved.
    """
    kinds = [kind for _, kind in typing.signature.inputs]
    done = []
    for i, (x, there) in enumerate(zip(inputs, moved_inputs(typing, g, inputs), strict=True)):
        typed = i < len(kinds) and isinstance(x, Tensor) and not kinds[i].untouched
        done.append(torch.cat([x, there], kinds[i].batch or 0) if typed else _doubled(x))
    return tuple(done), tree_map(_doubled, kwargs)


def moved_inputs(typing: Typing, g: Elements, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """G x for every typed input, the others as they are.

    Raises:
        Untyped: an input cannot be moved.
    """
    kinds = [kind for _, kind in typing.signature.inputs]
    done = []
    for i, x in enumerate(inputs):
        typed = i < len(kinds) and isinstance(x, Tensor) and not kinds[i].untouched
        done.append(Kind.of(kinds[i], x.shape).act(typing.group, g, x) if typed else x)
    return tuple(done)


def _doubled(x: Any) -> Any:
    return torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x


def snap_and_probe(
    model: nn.Module,
    typing: Typing,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Probed:
    """Project a float64 twin and compare all typed nodes under the generators on fresh inputs.

    `typing` must have been propagated on a *folded* example (twice the batch), so that recorded
    sizes hold. EXACT: every typed node and the output pass 1e-9 and the output has a type.
    MISALIGNED: only nodes at or behind a misaligned sampling fail. UNSOUND: anything else.
    """
    twin = twin_of(model, False).double()
    project_weights(twin, typing)
    generic = tuple(_generic(x, i) for i, x in enumerate(inputs))
    kwargs = tree_map(_wide, kwargs)
    warmed(twin, generic, kwargs)
    errors: dict[tuple[str, int, str], float] = {}
    elements = generators(typing.group)
    for step, g in enumerate(elements):
        pair = folded(typing, g, generic, kwargs)
        with torch.no_grad(), held_random():
            _compare(twin, typing, g, pair, errors)
        if progress is not None:
            progress(step + 1, len(elements))
    sites = ((typing.sites[key], error) for key, error in errors.items())
    failing = tuple(site for site, e in sites if not (e <= TOLERANCE or site.loose))
    output = max((e for k, e in errors.items() if k == _last(typing)), default=float("nan"))
    return Probed(errors, output, failing, _label(typing, failing))


def _last(typing: Typing) -> Any:
    return ("", 0, "output")


def _label(typing: Typing, failing: tuple[Site, ...]) -> str:
    if not failing and _typed(typing.output):  # a network whose values rest hides what breaks
        return MISALIGNED if typing.misaligned else EXACT
    if not failing:
        return UNSOUND
    broken = {site.at.key for site in typing.misaligned}
    first = failing[0]
    while first.inner and len(failing) > 1:
        failing = failing[1:]
        first = failing[0]
    return MISALIGNED if broken and first.at.key in broken else UNSOUND


def _typed(value: Any) -> bool:
    if isinstance(value, (tuple, list, dict)):
        return all(map(_typed, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, Untyped)


def _generic(x: Any, i: int) -> Any:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
    return drawn.to(x.device)


def _wide(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _compare(
    twin: nn.Module,
    typing: Typing,
    g: Elements,
    pair: tuple[tuple[Any, ...], dict[str, Any]],
    errors: dict[tuple[str, int, str], float],
) -> None:
    def visitor(visit: Visit, run: Callable[[], Any]) -> Any:
        value = tree_map(_wide, run())  # code that asks for single precision gets double
        site = typing.sites.get(visit.at.key)
        if site is not None and site.kind is not None:
            found = defect(typing, g, site.kind, value)
            if found is not None:
                errors[visit.at.key] = max(errors.get(visit.at.key, 0.0), found)
        return value

    with typing.walk.visited(twin, visitor):
        out = twin(*pair[0], **pair[1])
    found = defect(typing, g, typing.output, out) if _typed(typing.output) else None
    found = float("nan") if found is None else found
    errors[_last(typing)] = max(found, errors.get(_last(typing), 0.0))  # NaN stays
    typing.sites.setdefault(_last(typing), _output_site(typing))


def _output_site(typing: Typing) -> Site:
    from .walk import Node

    kind = typing.output if _typed(typing.output) else None
    why = typing.output if isinstance(typing.output, Untyped) else None
    return Site(Node("", 0, None, "output", "output"), "output", kind, why)  # type: ignore[arg-type]


def defect(typing: Typing, g: Elements, kind: Any, value: Any) -> float | None:
    """*‖f(gx) − ρ f(x)‖ / ‖f(gx)‖* of a folded value; the worst of several.

    None where nothing can be compared: height without its width, a value without samples.
    """
    if isinstance(value, dict) and isinstance(kind, dict):
        value, kind = list(value.values()), [kind.get(name) for name in value]
    if isinstance(value, (tuple, list)):
        kinds = kind if isinstance(kind, (tuple, list)) else [kind] * len(value)
        parts = [defect(typing, g, k, v) for k, v in zip(kinds, value, strict=False)]
        return max((part for part in parts if part is not None), default=None)
    if not isinstance(value, Tensor) or not isinstance(kind, Kind):
        return None
    try:
        pair = (kind.part(value, i, 2) for i in (0, 1))
        here, there = (x if x.is_complex() else x.double() for x in pair)
        gap = there - kind.act(typing.group, g, here)
    except Untyped:
        return None
    size = there.norm()
    return float(gap.norm() / size) if size > 0 else float(gap.norm())
