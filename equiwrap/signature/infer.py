"""Reading a signature off an image model: what comes in is known, what comes out is looked at."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SignatureError, article
from ..grids import on_grid
from ..groups import Group
from .hooks import drop_hooks
from .signature import Signature
from .types import TensorType

__all__ = ["image_channels", "infer_outputs", "looks_like_images", "trial_input"]

_SIDES = (224, 64, 32, 28, 16)


def image_channels(model: nn.Module) -> int | None:
    """Input channels, if the first layer with parameters is a Conv2d; None otherwise."""
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None and not list(module.children()):
            weight = getattr(module, "weight", None)
            if isinstance(module, nn.Conv2d) and isinstance(weight, Tensor):
                return module.in_channels
            return None
    return None


def looks_like_images(model: nn.Module) -> bool:
    """True for a model with timm's `default_cfg`, or whose first parametrised layer is a Conv2d."""
    return isinstance(_input_size(model), tuple) or image_channels(model) is not None


def _input_size(model: nn.Module) -> tuple[int, ...] | None:
    cfg = getattr(model, "default_cfg", None) or {}
    size = cfg.get("input_size") if isinstance(cfg, Mapping) else getattr(cfg, "input_size", None)
    return tuple(size) if size is not None and len(size) == 3 else None


def trial_input(model: nn.Module) -> list[tuple[int, ...]]:
    """Shapes `[2, c, s, s]` worth trying on an image model, the likeliest first."""
    size = _input_size(model)
    channels = image_channels(model) or (size[0] if size else 3)
    sides = ([size[1]] if size and size[1] == size[2] else []) + list(_SIDES)
    return [(2, channels, side, side) for side in dict.fromkeys(sides)]


def infer_outputs(
    signature: Signature, model: nn.Module, forward: Any, example: tuple[Any, ...] | None
) -> tuple[Signature, str]:
    """*Fill in the outputs `...`*: shapes seen on a dry run → a full signature, and how it was
    found.

    Without an example the run is that of a copy on fake tensors (nothing is computed, nothing of
    the model moves), with one it is the example itself, in eval mode.

    Raises:
        SignatureError: no run succeeded, or the outputs leave a choice that only the user can make.
    """
    kind = signature.inputs[0][1]
    if example is None and not (kind.grid and len(signature.inputs) == 1 and len(kind.axes) == 4):
        raise SignatureError(
            f"The outputs of {str(signature)!r} are to be read off a run, and there is no "
            "example: give example=x, or write them out."
        )
    out, shape, how = _dry_run(model, forward, example)
    form, pairs = _describe(signature, out, shape)
    return Signature(signature.group, signature.inputs, pairs, form), how


def _dry_run(
    model: nn.Module, forward: Any, example: tuple[Any, ...] | None
) -> tuple[Any, Any, str]:
    if example is not None:
        first = next((x for x in example if isinstance(x, Tensor)), None)
        if first is None:
            raise SignatureError(
                f"example= gives {article(example[0])}, and images are tensors [b, c, h, w]: wrap "
                "the part of the model that takes them, or type the inputs one by one."
            )
        modes = {m: m.training for m in model.modules()}
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                model.eval()
                out = forward(*example)
        finally:
            for m, mode in modes.items():
                m.training = mode
        return out, first.shape, "read off a run on the example"
    reasons = []
    for shape in trial_input(model):
        try:
            out = _fake_run(model, shape)
        except Exception as error:
            reasons.append(f"{list(shape)}: {type(error).__name__}")
        else:
            side = "×".join(map(str, shape[1:]))
            return out, torch.Size(shape), f"read off a dry run at {side}"
    raise SignatureError(
        f"The outputs could not be read off a dry run ({'; '.join(reasons)}): give example=x, or "
        'write them out, as in "b c h w -> b k".'
    )


def _fake_run(model: nn.Module, shape: tuple[int, ...]) -> Any:
    """The outputs of a copy made of fake tensors, without the user's hooks."""
    from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

    like = next(iter(model.parameters()), torch.empty(0))
    fake = FakeTensorMode()
    with FakeCopyMode(fake):
        twin = copy.deepcopy(model)
    drop_hooks(twin)
    # autocast off: its cache of cast weights would keep the fake ones
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True  # of a size that does not fit it prints a traceback
    try:
        with fake, torch.no_grad(), torch.autocast(like.device.type, enabled=False):
            return twin.forward(torch.empty(shape, dtype=like.dtype, device=like.device))
    finally:
        log.disabled = before


def _describe(signature: Signature, out: Any, shape: torch.Size) -> tuple[str, Any]:
    parts: list[tuple[str | None, Tensor]]
    if isinstance(out, Tensor):
        form, parts = "one", [(None, out)]
    elif isinstance(out, Mapping):
        form, parts = "dict", [(str(k), v) for k, v in out.items() if isinstance(v, Tensor)]
    elif isinstance(out, (tuple, list)) and all(isinstance(v, Tensor) for v in out):
        form, parts = "tuple", [(None, v) for v in out]
    else:
        raise SignatureError(
            f"The model returns {article(out)}, whose parts cannot be typed by their shapes: write "
            'the outputs out, as in "b c h w -> {logits: b k}", or wrap a part that gives tensors.'
        )
    found = [_leaf(signature.group, v, shape) for _, v in parts]
    if None in found:
        raise SignatureError(_unsaid(signature, form, parts, found))
    return form, tuple(zip([name for name, _ in parts], found, strict=True))


def _leaf(group: Group, y: Tensor, shape: torch.Size) -> TensorType | None:
    """What a shape says; None where it says nothing."""
    if y.ndim == 4 and on_grid(group) and y.shape[-1] == y.shape[-2] and y.shape[-1] > 1:
        return TensorType.parse("b c h w", group)
    if y.ndim == 2 and y.shape[0] == shape[0]:
        return TensorType.parse("b k", group)
    if y.ndim == 1 and y.shape[0] == shape[0]:
        return TensorType.parse("b", group)
    return None


def _unsaid(
    signature: Signature,
    form: str,
    parts: list[tuple[str | None, Tensor]],
    found: list[TensorType | None],
) -> str:
    """The sentence about the first output whose shape says nothing, with all of them written."""
    at = found.index(None)
    name, y = parts[at]
    what = {"one": "The output", "dict": f"The output {name!r}", "tuple": f"Output {at}"}[form]
    kinds = ["_" if kind is None else str(kind) for kind in found]
    if form == "dict":
        kinds = [f"{key}: {kind}" for (key, _), kind in zip(parts, kinds, strict=True)]
    written = {"one": "b t k", "dict": f"{{{', '.join(kinds)}}}", "tuple": ", ".join(kinds)}[form]
    through = "" if form == "one" else "_ passes it through, "
    grid = ', "b h w" a grid, "b (h w) c" a flat one' if on_grid(signature.group) else ""
    return (
        f"{what} has shape {list(y.shape)}, and shapes do not say how it moves: write the outputs "
        f'out, as in "{str(signature).split("->")[0].strip()} -> {written}": {through}"b t k" '
        f"is an invariant{grid}."
    )
