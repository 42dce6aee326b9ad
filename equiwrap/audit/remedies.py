"""What can be done about a broken symmetry: the lines to type, their measured cost, a choice."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from ..errors import EquiwrapError
from ..frames import frame_for
from ..graph import averaged_graph
from ..graph.rewrite import Call
from ..measure import DataError
from ..signature import Signature
from .report import Remedy

__all__ = ["remedies"]

RUNS = 3
_WHY = {
    "key": "one element a sample, chosen from the image: one forward; a frozen model that knows "
    "upright images only wants calibrate=images beside it",
    "whole": "the mean over all elements in one folded batch: smooth, and |G| forwards",
    "auto": "one element or a few, read off the input",
}


def remedies(
    model: nn.Module,
    signature: Signature,
    inputs: tuple[Any, ...],
    exact: bool,
    data: DataError | None,
) -> tuple[Remedy, ...]:
    """The remedies that apply, the recommended one marked; none where nothing is broken."""
    if exact:
        return ()
    group = signature.group
    images = any(kind.grid for _, kind in signature.inputs)
    plain = images and str(signature).startswith("b c h w ->") and "h" not in str(signature)[10:]
    written = f'"{group}"' if plain else f'"{group}", "{signature}"'
    names = ["key", "whole"] if images and group.lattice else ["auto"]
    found = []
    for name in names:
        frame = "" if name in ("key", "auto") else f', frame="{name}"'
        cost = _cost(model, signature, inputs, "auto" if name == "key" else name)
        if cost is not None:
            call = f"ew.equivariantize(model, {written}{frame})"
            found.append(Remedy(_TITLE[name], call, cost, group.lattice or not images, _WHY[name]))
    if data is not None and 0 < data.softness < 1 and names[-1] == "whole":
        call = f'ew.equivariantize(model, {written}, frame="whole", softness={data.softness:.2f})'
        cost = (group.order or 1) + 1.0
        why = f"the best blend on these data: {data.advice}"
        found.append(Remedy("blend with the average", call, cost, False, why))
    return _choose(found, data)


_TITLE = {
    "key": "canonicalize by a key",
    "whole": "average over the group",
    "auto": "average over a frame",
}


def _choose(found: list[Remedy], data: DataError | None) -> tuple[Remedy, ...]:
    """The blend where the data ask for one; else the cheapest exact line."""
    if not found:
        return ()
    blend = [r for r in found if r.name.startswith("blend")]
    best = blend[0] if blend and data is not None and data.dial.low > 0 else None
    best = best or min(found, key=lambda r: (not r.exact, r.cost))
    return tuple(
        Remedy(r.name, r.call, r.cost, r.exact, r.why, recommended=r is best) for r in found
    )


def _cost(
    model: nn.Module, signature: Signature, inputs: tuple[Any, ...], frame: str
) -> float | None:
    """Time of the wrapped forward over that of the plain one, interleaved; None if it refuses."""
    try:
        call = Call(model.forward)
        graph = averaged_graph(
            model.forward, model, call, frame_for(frame, signature), signature,
            call.types(signature), mask=None, softness=None,
        )  # fmt: skip
        typed = [x for (_, k), x in zip(signature.inputs, inputs, strict=False) if not k.untouched]
        times: list[list[float]] = [[], []]
        with torch.no_grad():
            for _ in range(RUNS + 1):
                for i, run in enumerate((lambda: model(*inputs), lambda: graph(*typed, {}))):
                    start = time.perf_counter()
                    run()
                    times[i].append(time.perf_counter() - start)
    except (EquiwrapError, RuntimeError, TypeError, ValueError):
        return None
    plain, wrapped = (min(t[1:]) for t in times)
    return round(wrapped / max(plain, 1e-9), 2)
