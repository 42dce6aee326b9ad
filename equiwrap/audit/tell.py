"""From measurements to the rows and sentences of the report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ..errors import SignatureError
from ..graph.kinds import Kind, Untyped
from ..graph.layout import signed
from ..graph.propagate import Site, Typing
from ..measure import DataError
from .layers import Row
from .report import Finding, Layer

__all__ = ["findings", "layer_of", "otherwise", "spoken"]

LEFT = 1e-9  # what may be left of an operation's own error after projection, in float64
ROUNDED = 20  # units of rounding that an operation's own error may have


def layer_of(
    site: Site, row: Row | None, share: float | None, after: Row | None, model: nn.Module
) -> Layer:
    """One line of the table."""
    real = (p.dtype for p in model.parameters() if p.is_floating_point())
    limit = max(LEFT, ROUNDED * torch.finfo(next(real, torch.float32)).eps)
    status = "exact"
    if site.why is not None:
        status = "untyped"
    elif site.broken:
        status = "misaligned"
    elif after is not None and after.own is not None and after.own > LEFT:
        status = "unsound"
    elif site.weights and not site.inner:
        status = "weights" if row is None or row.own is None or row.own > limit else "exact"
    why = site.why or (site.broken[0] if site.broken else None)
    dead = row is not None and row.dead
    return Layer(
        name=site.name,
        operation=site.operation,
        type=str(site.kind) if isinstance(site.kind, Kind) else "",
        status=status,
        error=None if row is None else row.error,
        own=None if row is None or site.inner else row.own,
        share=share,
        parameters=sum(_parameter(model, path) for path in dict.fromkeys(site.weights)),
        reason=why.reason if why is not None else "gives one value for all inputs" if dead else "",
        fix=why.fix if why is not None else "",
    )


def _parameter(model: nn.Module, path: str) -> int:
    owner, _, name = path.rpartition(".")
    found = getattr(model.get_submodule(owner) if owner else model, name, None)
    return found.numel() if found is not None else 0


def findings(fixed: Iterable[tuple[str, str, str, str]], layers: Iterable[Layer]) -> list[Finding]:
    """What breaks the symmetry whatever the weights are, then the weights that break it."""
    found = [Finding(*line) for line in fixed]
    for layer in layers:
        if layer.status in _LEFT_OVER:
            kind, reason, fix = _LEFT_OVER[layer.status]
            found.append(Finding(layer.name, kind, reason, fix))
    return found


_LEFT_OVER = {
    "weights": (
        "weights",
        "its weights are not symmetric",
        "average the model, or train with the symmetry",
    ),
    "unsound": (
        "other",
        "breaks the symmetry even with projected weights (zeros at the edge under shifts, say)",
        "average the model, or circular padding where the group shifts",
    ),
}


def otherwise(typing: Typing) -> list[Finding]:
    """Outputs that the operations move, but not as the signature says."""
    try:
        told = tree_leaves(signed(typing), is_leaf=lambda part: isinstance(part, (Kind, Untyped)))
    except SignatureError as error:
        return [Finding("output", "signature", str(error), "")]
    except Untyped:  # an action that is not computed
        return []
    before = tree_leaves(typing.output, is_leaf=lambda part: isinstance(part, (Kind, Untyped)))
    pairs = zip(before, told, strict=True)
    moved = [now for was, now in pairs if isinstance(was, Kind) and isinstance(now, Untyped)]
    return [Finding("output", "signature", why.reason, "") for why in moved]


def spoken(data: DataError | None) -> dict[str, Any] | None:
    """What the report keeps of the data: model error, data error, α*, the gain."""
    if data is None:
        return None
    dial = data.dial
    found: dict[str, Any] = {
        "model_error": (data.broken.value, data.broken.low, data.broken.high),
        "alpha": (dial.value, dial.low, dial.high),
        "gain from wrapping": (data.gain.value, data.gain.low, data.gain.high),
    }
    bracket = (data.lower.low, data.upper) if data.lower is not None else None
    found["data_error"] = (data.value, *bracket) if bracket else data.value
    return found
