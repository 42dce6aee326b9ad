"""`timm.create_model("equi_<name>", group="C4", …)`: each model of timm's registry, equivariant."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any
from weakref import WeakKeyDictionary

import timm
import torch
from timm.models import (
    DefaultCfg,
    PretrainedCfg,
    get_arch_pretrained_cfgs,
    is_model,
    model_entrypoint,
    register_model,
)
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..errors import SignatureError
from ..penalty.decay import EquivarianceDecay
from ..wrap import equivariantize
from ..wrap.build import read_signature
from ..wrap.install import handle_of

__all__ = ["PREFIX", "nearest", "register", "release"]

PREFIX = "equi_"
# what is equivariantize's, the options of frames that can be written on a command line, and decay=
_NOT = ("model", "options")
OURS = (
    *(name for name in inspect.signature(equivariantize).parameters if name not in _NOT),
    *("chunk", "ties", "stochastic", "degrees", "samples", "decay"),
)

default_cfgs: dict[str, DefaultCfg] = {}  # where timm's `register_model` looks for them
_waiting: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
_hooks: list[Any] = []


def register(name: str) -> Callable[..., nn.Module]:
    """*name ↦ equi_name* in timm's registry, for a model that was registered after this import.

    Returns the entry point. Its keywords are `equivariantize`'s (group, signature, method, frame,
    penalty, softness, hidden, …; chunk, ties, stochastic, degrees, samples of the frames), all
    others the model's (visformer's own `group` is out of reach). Two more readings: `example=33` is
    a random image of that side, and `decay=False` (or a mapping of `EquivarianceDecay`'s options,
    as in `{"every": 10}`) is about the decay that follows the optimiser of a model of
    `method="penalize"`; see `equiwrap.integrations.timm`.

    Raises:
        SignatureError: timm has no model of this name.
    """
    if not is_model(name):
        raise SignatureError(nearest(name))
    if is_model(PREFIX + name):
        return model_entrypoint(PREFIX + name)
    _describe(name)
    entry = _entry(name)
    globals()[entry.__name__] = entry  # timm puts its name into __all__
    return register_model(entry)


def nearest(name: str) -> str:
    """The sentence about a name that timm does not have."""
    base = name.removeprefix(PREFIX).partition(".")[0]
    plain = [n for n in timm.list_models() if not n.startswith(PREFIX)]
    close = [PREFIX + n for n in get_close_matches(base, plain, 3, 0.5)]
    like = f"The nearest are {', '.join(close)}. " if close else ""
    return (
        f"timm has no model {base}, which {PREFIX}{base} would be made from. {like}"
        f'timm.list_models("{PREFIX}*") names them all; one registered later is made known by '
        f'equiwrap.integrations.timm.register("{base}").'
    )


def _describe(name: str) -> None:
    """The pretrained configurations, under the second name too; weights stay where they are."""
    found = {key.partition(".")[2]: cfg for key, cfg in get_arch_pretrained_cfgs(name).items()}
    if found:
        known = any(cfg.has_weights for cfg in found.values())
        default_cfgs[PREFIX + name] = DefaultCfg(deque(found), found, known)


def _entry(base: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(base, pretrained, kwargs)

    create.__name__ = create.__qualname__ = PREFIX + base
    create.__doc__ = f"`{base}`, equivariant: `equivariantize`'s keywords, and the model's own."
    return create


def _create(base: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    ours = {name: kwargs.pop(name) for name in OURS if name in kwargs}
    decay = ours.pop("decay", True)
    soft = ours.get("method", "average") != "average"
    cfg = _own_cfg(kwargs.pop("pretrained_cfg", None), base)
    model = model_entrypoint(base)(pretrained=pretrained, pretrained_cfg=cfg, **kwargs)
    size = ours.get("example", kwargs.get("img_size") if soft else None)
    if _sides(size):
        ours["example"] = _image(model, size)
    elif size is None and kwargs.get("img_size") and ours.get("signature") is None:
        seen = (_image(model, kwargs["img_size"]),)  # dry runs know the usual sizes only
        ours["signature"] = read_signature(model, ours.get("group"), None, model.forward, seen)[0]
    wrapped = equivariantize(model, **ours)
    type(wrapped)._model_args = _remembered(ours)  # type: ignore[attr-defined]
    if soft and hasattr(model, "reset_classifier"):
        type(wrapped).reset_classifier = _typed_anew(type(model), ours)  # type: ignore[attr-defined]
    if decay is not False and soft:
        _wait(wrapped, dict(decay) if isinstance(decay, Mapping) else {})
    return wrapped


def _own_cfg(cfg: Any, base: str) -> Any:
    """A configuration that was read off the second name, under the first."""
    if isinstance(cfg, Mapping) and str(cfg.get("architecture")).startswith(PREFIX):
        return {**cfg, "architecture": base}
    if isinstance(cfg, PretrainedCfg) and str(cfg.architecture).startswith(PREFIX):
        return replace(cfg, architecture=base)
    return cfg


def _sides(size: Any) -> bool:
    return isinstance(size, int) or (
        isinstance(size, (tuple, list)) and all(isinstance(side, int) for side in size)
    )


def _image(model: nn.Module, size: Any) -> Tensor:
    """Two random images of a side, or of a height and a width."""
    like = next(p for p in model.parameters() if p.is_floating_point())
    cfg = getattr(model, "pretrained_cfg", None) or {}
    channels = getattr(model, "in_chans", None) or cfg.get("input_size", (3,))[0]
    shape = (size, size) if isinstance(size, int) else tuple(size)
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, *shape, generator=draw).to(like)


def _remembered(ours: Mapping[str, Any]) -> property:
    """What timm records to rebuild the model elsewhere: as a plain one, which its keys fit."""

    def get(self: nn.Module) -> dict[str, Any]:
        if "_model_args" not in self.__dict__:
            raise AttributeError("_model_args")
        return self.__dict__["_model_args"]

    def put(self: nn.Module, given: dict[str, Any]) -> None:
        own = {*ours, "decay"}
        self.__dict__["_model_args"] = {k: v for k, v in given.items() if k not in own}

    return property(get, put)


def _typed_anew(plain: type[nn.Module], ours: Mapping[str, Any]) -> Callable[..., None]:
    """`reset_classifier`, after which the weights to pull are found again."""

    def reset_classifier(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        plain.reset_classifier(self, *args, **kwargs)  # type: ignore[operator, attr-defined]
        handle, given = handle_of(self), dict(ours)
        if isinstance(given.get("example"), Tensor):
            like = next(p for p in self.parameters() if p.is_floating_point())
            given["example"] = given["example"].to(like)
        fresh = handle_of(equivariantize(handle.view, **given))
        for name in ("signature", "targets", "label", "skipped", "hidden", "notes"):
            setattr(handle, name, getattr(fresh, name))

    return reset_classifier


# -- the decay that waits for its optimiser --------------------------------------------------------


def _wait(model: nn.Module, options: dict[str, Any]) -> None:
    """Follow the first optimiser that trains this model, from its first step on."""
    handle = handle_of(model)
    if handle.config.method != "penalize" or not (handle.targets and handle.config.penalty):
        return
    _waiting[model] = {"strength": handle.config.penalty, **options}
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_attach))


def release(model: nn.Module) -> bool:
    """No decay for this model: something else pulls it. True if it was waiting for one."""
    return _waiting.pop(unwrap_model(model), None) is not None


@torch.compiler.disable
def _attach(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Before a step of any optimiser: the decays of the waiting models that it trains."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for model, options in list(_waiting.items()):
        if any(id(p) in trained for p in model.parameters()):
            del _waiting[model]
            if not _followed(model, optimizer):
                decay = EquivarianceDecay(model, optimizer, **options)
                logging.getLogger(__name__).info(
                    "%s follows the steps of %s.", decay, type(optimizer).__name__
                )
    if not _waiting:
        # a dictionary of hooks cannot lose one while it is walked through; after the step it can
        optimizer.register_step_post_hook(_leave)


def _followed(model: nn.Module, optimizer: Optimizer) -> bool:
    """True where somebody has put a decay of this model onto the optimiser by hand."""
    mine = {id(p) for p in model.parameters()}
    held = [
        getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_post_hooks.values()
    ]
    decays = [decay for decay in held if isinstance(decay, EquivarianceDecay)]
    return any(id(p) in mine for decay in decays for p in decay.model.parameters())


def _leave(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if not _waiting and _hooks:
        _hooks.pop().remove()


for _name in timm.list_models():
    register(_name)
