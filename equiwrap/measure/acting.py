"""How elements act on the arguments of a model, and under which signature."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SignatureError
from ..groups import Elements, Group, parse_group
from ..signature import Signature, infer_outputs
from .partial import PartialSet

__all__ = ["act", "pick", "positional", "signature_for", "wide"]


def signature_for(
    model: Any,
    group: str | Group | PartialSet | None,
    signature: str | Signature | None,
    inputs: tuple[Any, ...],
) -> Signature:
    """The signature to measure under: the one given, a wrapped model's own, or that of images.

    Raises:
        SignatureError: none can be found, or there are no inputs.
    """
    if not inputs:
        raise SignatureError(
            "An error is measured on inputs, and none was given: they come in the order of the "
            "signature, without names, as in errors(x)."
        )
    if isinstance(signature, Signature):
        return signature
    group = group.group if isinstance(group, PartialSet) else group
    handle = getattr(model, "equiwrap", None)
    if signature is None and handle is not None:
        own: Signature = handle.signature
        if group is None or str(parse_group(group)) == str(own.group):
            return own
        signature = str(own)
    if group is None:
        raise SignatureError('The model is not wrapped, so the group must be named, as in "C4".')
    if signature is None:
        if not (isinstance(inputs[0], Tensor) and inputs[0].ndim == 4):
            raise SignatureError(
                "Only images [b, c, h, w] are measured without a signature: give one, as in "
                'signature="b n p -> b k".'
            )
        signature = "b c h w -> ..."
    found = Signature.parse(signature, group)
    if found.form != "infer":
        return found
    owner = model if isinstance(model, nn.Module) else nn.Module()
    return infer_outputs(found, owner, model, inputs)[0]


def pick(g: Elements, i: int) -> Elements:
    """`g[k, m, m] → [1, m, m]`: the i-th, of each factor."""
    return tuple(part[i : i + 1] for part in g) if isinstance(g, tuple) else g[i : i + 1]


def act(kind: Any, g: Elements, x: Tensor) -> Tensor:
    """ρ(g) x in pattern order: float64 inside, rounded to the dtype of x once."""
    kind.check(x, "the tensor")
    if kind.batch is None or not kind.moves:
        return x
    front = kind.to_front(x)
    exact = front if kind.permutes else front.to(wide(front))
    return kind.from_front(kind.act(g, exact, 1).to(x.dtype), kind.leading(x))


def wide(x: Tensor) -> torch.dtype:
    """float64, or complex128, wherever the device has it."""
    if x.device.type == "mps":
        return torch.promote_types(x.dtype, torch.float32)
    return torch.promote_types(x.dtype, torch.float64)


def positional(sig: Signature, model: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """The types of the inputs in call order, None for those that are not typed; they are checked.

    Raises:
        SignatureError: the signature has more inputs than were given, or they do not fit it.
    """
    found = _in_order(sig, model, inputs)
    for i, (kind, x) in enumerate(zip(found, inputs, strict=True)):
        if kind is not None and not kind.untouched:
            kind.check(x, f"The input {i + 1}")
    return found


def _in_order(sig: Signature, model: Any, inputs: tuple[Any, ...]) -> list[Any]:
    names = [name for name, _ in sig.inputs]
    if names[0] is None:
        types: list[Any] = [kind for _, kind in sig.inputs]
        if len(types) < len(inputs):
            types += [None] * (len(inputs) - len(types))
        if len(types) > len(inputs) and any(not t.untouched for t in types[len(inputs) :]):
            raise SignatureError(
                f"The signature {str(sig)!r} has {len(names)} inputs, and {len(inputs)} were given."
            )
        return types[: len(inputs)]
    target = model.forward if isinstance(model, nn.Module) else model
    order = list(inspect.signature(target).parameters)
    known = dict(sig.inputs)
    return [known.get(name) for name in order[: len(inputs)]]
