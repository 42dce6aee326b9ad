"""Who is to blame for the end-to-end defect: an exact, signed attribution to single nodes.

Values up to a node are replaced by ρ h(x), the rest of the network runs on them, and neighbouring
results are subtracted: the differences telescope to ρ f(x) − f(g x).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EquiwrapError
from ..graph.kinds import Kind, Untyped
from ..graph.propagate import Typing
from ..graph.snap import folded
from ..graph.twin import held_random
from ..graph.walk import Visit
from ..groups import Elements
from .layers import Key

__all__ = ["attribute_defect", "outputs_typed"]


def attribute_defect(
    twin: nn.Module,
    typing: Typing,
    g: Elements,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
    chosen: list[Key],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[Key, float], float, float]:
    """*ρ f(x) − f(gx) = Σ_l [F_{>l}(ρ h_l) − F_{>l}(f_l(ρ h_{l−1}))]*: shares that sum to 1.

    `chosen` are the nodes that get a share, in the order of execution: those with an error of their
    own. Returns the shares ⟨term, defect⟩/‖defect‖², the share of everything behind the last of
    them, and ‖defect‖/‖f(gx)‖. Costs one run for the stored values and a tail for each chosen node.

    Error: the shares sum to 1 to rounding, as the terms telescope.
    Source: exact telescoping; the finite form of the layerwise split of Gruver et al. 2023.
    """
    order = {key: i for i, key in enumerate(typing.sites)}
    stored = _stored(twin, typing, g, inputs, kwargs)
    pair = folded(typing, g, inputs, kwargs)

    def run(limit: int) -> Tensor:
        def visitor(visit: Visit, go: Callable[[], Any]) -> Any:
            key = visit.at.key
            if order.get(key, limit + 1) <= limit and key in stored:
                return stored[key].clone()
            return go()

        with torch.no_grad(), held_random(), typing.walk.visited(twin, visitor):
            return _flat(typing, twin(*pair[0], **pair[1]))

    with torch.no_grad(), held_random():
        goal = _aligned(typing, g, twin(*pair[0], **pair[1]))
    before = start = run(-1)
    defect = goal - start
    size = float(defect.square().sum())
    shares: dict[Key, float] = {}
    for i, key in enumerate(chosen):
        after = run(order[key])
        shares[key] = float(((after - before) * defect).sum()) / size if size > 0 else 0.0
        before = after
        if progress is not None:
            progress(i + 1, len(chosen))
    rest = float(((goal - before) * defect).sum()) / size if size > 0 else 0.0
    return shares, rest, (size / max(float(start.square().sum()), 1e-300)) ** 0.5


def _stored(
    twin: nn.Module, typing: Typing, g: Elements, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[Key, Tensor]:
    """[h, ρ h(x)] for every typed node: the second half is what replaces h(gx)."""
    stored: dict[Key, Tensor] = {}

    def visitor(visit: Visit, run: Callable[[], Any]) -> Any:
        value = run()
        site = typing.sites.get(visit.at.key)
        if site is not None and isinstance(site.kind, Kind) and isinstance(value, Tensor):
            with suppress(Untyped, StopIteration):
                stored[visit.at.key] = _replaced(typing, g, site.kind, value)
        return value

    pair = folded(typing, g, inputs, kwargs)
    with torch.no_grad(), held_random(), typing.walk.visited(twin, visitor):
        twin(*pair[0], **pair[1])
    return stored


def _replaced(typing: Typing, g: Elements, kind: Kind, value: Tensor) -> Tensor:
    here = kind.part(value, 0, 2)
    found = value.clone()
    kind.part(found, 1, 2)  # refuses what does not fold
    at, place, sizes = kind.folds(value)
    wide = found.unflatten(at, sizes)
    half = sizes[place] // 2
    moved = kind.act(typing.group, g, here).unflatten(
        at, [*sizes[:place], half, *sizes[place + 1 :]]
    )
    wide.narrow(at + place, half, half).copy_(moved)
    return found


def outputs_typed(typing: Typing) -> bool:
    """True where every output that the signature types has a type in the network."""
    try:
        return all(isinstance(kind, Kind) for kind in _kinds(typing))
    except (EquiwrapError, KeyError, TypeError, AttributeError):
        return False


def _kinds(typing: Typing) -> list[Any]:
    found = typing.signature.flatten(typing.output)
    pairs = zip(found, typing.signature.outputs, strict=True)
    return [found for found, (_, kind) in pairs if not kind.untouched]


def _outputs(typing: Typing, out: Any) -> list[Any]:
    pairs = zip(typing.signature.flatten(out), typing.signature.outputs, strict=True)
    return [y for y, (_, kind) in pairs if not kind.untouched]


def _aligned(typing: Typing, g: Elements, out: Any) -> Tensor:
    """ρ f(x), flattened."""
    pairs = zip(_kinds(typing), _outputs(typing, out), strict=True)
    parts = [kind.part(_replaced(typing, g, kind, y), 1, 2).flatten() for kind, y in pairs]
    return torch.cat(parts).double()


def _flat(typing: Typing, out: Any) -> Tensor:
    """f(g x), the second half of the outputs, flattened."""
    pairs = zip(_kinds(typing), _outputs(typing, out), strict=True)
    return torch.cat([kind.part(y, 1, 2).flatten() for kind, y in pairs]).double()
