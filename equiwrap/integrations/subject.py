"""Which model a callback is about: inside of its wrappers, with weights that can be pulled."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import SignatureError
from ..penalty.shards import settle
from ..penalty.targets import inner as within
from ..wrap import equivariantize
from ..wrap.install import view_of
from .watch import Watch

__all__ = ["inner", "pulled", "trains"]


def inner(model: nn.Module) -> nn.Module:
    """The model inside of what torch puts around it, of timm's averages, and of autocast.

    By class: an attribute `module` of the user's own is the user's own.
    """
    held: nn.Module = within(model)
    names = [c.__name__ for c in type(held).__mro__ if c.__module__.startswith("timm.")]
    if any(name.startswith("ModelEma") for name in names):
        return inner(held.module)  # type: ignore[arg-type]
    return _bare(held)


def _bare(model: nn.Module) -> nn.Module:
    """A twin with the same state and its own forward: accelerate sets one with autocast inside.

    So weights are typed by the code that was written, and errors measured in full precision.
    """
    original = vars(model).get("_original_forward")
    if getattr(original, "__func__", None) is not type(model).forward:
        return model
    twin = view_of(model, type(model))
    left = ("forward", "_original_forward")
    own = {name: value for name, value in vars(model).items() if name not in left}
    object.__setattr__(twin, "__dict__", own)
    return twin


def trains(optimizer: Optimizer, model: nn.Module) -> bool:
    """True where the optimiser holds a parameter of the model (a shard, under FSDP2)."""
    settle(model)
    mine = {id(p) for p in model.parameters()}
    return any(id(p) in mine for group in optimizer.param_groups for p in group["params"])


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
