"""The audit: which operations break the symmetry, by how much, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ..groups import Group
    from ..signature import Signature
    from .layers import layerwise, lie_layerwise
    from .report import Curve, Finding, Layer, Remedy, Report
    from .shares import attribute_defect

__all__ = [
    "Curve",
    "Finding",
    "Layer",
    "Remedy",
    "Report",
    "attribute_defect",
    "audit",
    "layerwise",
    "lie_layerwise",
]


def audit(
    model: nn.Module,
    group: str | Group,
    example: Any,
    targets: Any = None,
    *,
    signature: str | Signature | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Report:
    """*Which layer breaks the symmetry, by how much, and what to do*: prints, saves, plots.

    Works on copies in eval mode; the model is not touched. Errors are relative; the layers are
    measured on 8 inputs, shares of the end-to-end defect on 2 in float64, the error on all.

    Args:
        model: any module.
        group: a name or a value; "auto" ranks candidates and audits the one that is broken least.
        example: a tensor, a tuple of inputs, or a loader of batches.
        targets: a tensor beside one batch, or True for a loader of (x, y): adds what the data say.
        signature: as for `equivariantize`; images "b c h w -> …" by default.
        progress: called with (done, total, what).
        seed: of sampled group elements.
        **kwargs: passed to the model untouched.

    Raises:
        SignatureError: no inputs, or no signature to be had for them.
        GroupError: the group is unknown.
        CaptureError: the model does not run on the example.
    """
    from .build import build

    return build(model, group, example, targets, signature, progress, seed, kwargs)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return found


_LATER = {"attribute_defect": "shares", "layerwise": "layers", "lie_layerwise": "layers"}
_LATER |= dict.fromkeys(("Curve", "Finding", "Layer", "Remedy", "Report"), "report")
