"""Which model a callback is about: inside of its wrappers, with weights that can be pulled."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import SignatureError
from ..wrap import equivariantize
from .watch import Watch

__all__ = ["inner", "pulled"]


def inner(model: nn.Module) -> nn.Module:
    """The model inside of DDP, of `torch.compile` and of averages (`AveragedModel`, timm's EMA)."""
    while True:
        held = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(held, nn.Module):
            return model
        model = held


def pulled(model: nn.Module, group: Any, signature: Any, hidden: Any, holdout: Any) -> nn.Module:
    """The model itself where its weights can be pulled, else a penalised view of a plain one.

    Raises:
        SignatureError: it is averaged or projected, and its weights are to stay.
    """
    handle = getattr(model, "equiwrap", None)
    if handle is None:
        example = (
            Watch(model, group, signature, holdout).first()[0] if holdout is not None else None
        )
        return equivariantize(
            model, group, signature, method="penalize", hidden=hidden, example=example
        )
    if getattr(handle, "targets", None) is None or handle.config.method != "penalize":
        raise SignatureError(
            f'penalty= came beside a model of method="{handle.config.method}", whose symmetry '
            "does not come from training: leave penalty= out to measure it, or train the plain "
            'model, or one of method="penalize".'
        )
    return model
