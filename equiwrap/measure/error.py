"""The model equivariance error: how far f(g x) is from ρ_out(g) f(x), with an interval and
floors.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SignatureError
from ..groups import Elements, Group, parse_group
from ..signature import Signature, infer_outputs
from .floors import dtype_floor, interpolation_floor

__all__ = ["ErrorEstimate", "equivariance_error", "pairs", "signature_for"]


@dataclass(frozen=True)
class ErrorEstimate:
    """A relative error with its 95 % interval; prints as `0.613 ± 0.021 (relative, pooled, …)`."""

    value: float
    half_width: float
    worst: float
    worst_input: int
    samples: int
    elements: int
    floor: float
    interpolation: float

    def __str__(self) -> str:
        floor = f"floor {self.floor:.0e}"
        if self.interpolation:
            floor += f", interpolation {self.interpolation:.1e}"
        digits = ".3f" if self.value >= 0.01 else ".1e"
        return (
            f"{self.value:{digits}} ± {self.half_width:{digits}} (relative, pooled, "
            f"{self.samples} inputs × {self.elements} elements; {floor})"
        )

    def __float__(self) -> float:
        return self.value


def equivariance_error(
    model: nn.Module | Any,
    group: str | Group | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    elements: int = 8,
    seed: int = 0,
    **kwargs: Any,
) -> ErrorEstimate:
    """*sqrt( E‖f(gx) − ρ_out(g) f(x)‖² / E‖f(gx)‖² )*, pooled over inputs, elements and outputs.

    Every element but the identity for a group of at most 64, `elements` independent samples a call
    otherwise. Inputs are transformed in float64 and rounded to their dtype once. The model runs as
    it is: put it in eval mode first. The interval is that of a ratio estimator over inputs (delta
    method, 1.96 standard errors); `worst` is the largest error of one input under one element,
    relative to its output or to the batch's mean square, whichever is larger. For a wrapped model
    the size compared with is that of the plain model's output where the average is smaller: an
    average that must vanish is zero up to the rounding of what cancels. `kwargs` are passed to the
    model untouched. `signature` defaults to that of a wrapped model, then to images.

    Raises:
        SignatureError: there is no signature to be had, or the inputs do not fit it.
    """
    if not inputs:
        raise SignatureError(
            "An error is measured on inputs, and none was given: name them after the group."
        )
    sig = signature_for(model, group, signature, inputs)
    square, norm, worst = torch.zeros(()), torch.zeros(()), torch.zeros(())
    count = 0
    handle = getattr(model, "equiwrap", None)
    with torch.no_grad():
        folds = any(
            kind.leading(x) is not None for (_, kind), x in zip(sig.inputs, inputs, strict=False)
        )
        plain = torch.zeros(())
        if handle is not None and not folds:  # the plain model need not take several batch axes
            plain = _size(sig, handle.forward(*inputs, **kwargs))
        for moved, expected in pairs(model, sig, inputs, elements, seed, kwargs):
            d, n = _per_sample(sig, moved, expected)
            n = torch.maximum(n, plain.to(n))
            square, norm, count = square.to(d) + d, norm.to(n) + n, count + 1
            scale = torch.maximum(n, n.mean()).clamp(min=torch.finfo(n.dtype).tiny)
            worst = torch.maximum(worst.to(d), d / scale)
    d, n = square / count, norm / count
    ratio = d.sum() / n.sum().clamp(min=torch.finfo(n.dtype).tiny)
    spread = (d - ratio * n).square().sum() / max(len(d) - 1, 1) * len(d)
    half = 1.96 * spread.sqrt() / n.sum().clamp(min=torch.finfo(n.dtype).tiny)
    root = ratio.sqrt()
    first, kind = next(
        (x, t) for (_, t), x in zip(sig.inputs, inputs, strict=False) if not t.untouched
    )
    return ErrorEstimate(
        value=float(root),
        half_width=float(half / (2 * root)) if root > 0 else 0.0,
        worst=float(worst.amax().sqrt()) if worst.numel() else 0.0,
        worst_input=int(worst.argmax()) if worst.numel() else -1,
        samples=len(d),
        elements=count,
        floor=dtype_floor(first.dtype),
        interpolation=interpolation_floor(sig.group, first, kind),
    )


def signature_for(
    model: Any,
    group: str | Group | None,
    signature: str | Signature | None,
    inputs: tuple[Any, ...],
) -> Signature:
    """The signature to measure under: the one given, a wrapped model's own, or that of images.

    Raises:
        SignatureError: none can be found.
    """
    if isinstance(signature, Signature):
        return signature
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


def pairs(
    model: Any,
    sig: Signature,
    inputs: tuple[Any, ...],
    elements: int,
    seed: int,
    kwargs: dict[str, Any],
) -> Any:
    """Yield, element by element, (f(g x), ρ_out(g) f(x)) as lists of output leaves.

    Raises:
        SignatureError: the inputs do not fit the signature.
    """
    kinds = _positional(sig, model, inputs)
    device = next(x.device for x in inputs if isinstance(x, Tensor))
    typed = [
        (k, x) for k, x in zip(kinds, inputs, strict=True) if k is not None and not k.untouched
    ]
    sizes: dict[str, int] = {}
    for kind, x in typed:
        sizes |= kind.sizes(kind.to_front(x))
    group = sig.group.at(sizes)
    if group.order is not None and 1 < group.order <= 64:
        g = group.elements(device)
        chosen = [_pick(g, i) for i in range(1, group.order)]
    else:
        g = group.sample(elements, generator=torch.Generator().manual_seed(seed), device=device)
        chosen = [_pick(g, i) for i in range(elements)]
    out = sig.flatten(model(*inputs, **kwargs))
    for one in chosen:
        moved = [
            x if kind is None or kind.untouched else _act(kind, one, x)
            for kind, x in zip(kinds, inputs, strict=True)
        ]
        there = sig.flatten(model(*moved, **kwargs))
        types = [kind for _, kind in sig.outputs]
        back = [y if t.untouched else _act(t, one, y) for t, y in zip(types, out, strict=True)]
        yield there, back


def _pick(g: Elements, i: int) -> Elements:
    return tuple(part[i : i + 1] for part in g) if isinstance(g, tuple) else g[i : i + 1]


def _act(kind: Any, g: Elements, x: Tensor) -> Tensor:
    """ρ(g) x in pattern order: float64 inside, rounded to the dtype of x once."""
    kind.check(x, "the tensor")
    if kind.batch is None or not kind.moves:
        return x
    front = kind.to_front(x)
    exact = front if kind.permutes else front.to(_wide(front))
    return kind.from_front(kind.act(g, exact, 1).to(x.dtype), kind.leading(x))


def _wide(x: Tensor) -> torch.dtype:
    """float64, or complex128, wherever the device has it."""
    if x.device.type == "mps":
        return torch.promote_types(x.dtype, torch.float32)
    return torch.promote_types(x.dtype, torch.float64)


def _positional(sig: Signature, model: Any, inputs: tuple[Any, ...]) -> list[Any]:
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


def _size(sig: Signature, out: Any) -> Tensor:
    """Squared norm of each sample, summed over the typed outputs."""
    leaves = sig.flatten(out)
    return _per_sample(sig, leaves, leaves)[1]


def _per_sample(sig: Signature, moved: list[Any], expected: list[Any]) -> tuple[Tensor, Tensor]:
    """Squared defect and squared norm of each sample, summed over the typed outputs; float64."""
    d, n = [], []
    for (_, kind), a, b in zip(sig.outputs, moved, expected, strict=True):
        if not kind.untouched:
            a, b = (
                kind.to_front(t).to(_wide(t)).reshape(kind.to_front(t).shape[0], -1) for t in (a, b)
            )
            d.append((a - b).abs().square().sum(-1))
            n.append(a.abs().square().sum(-1))
    if len({len(t) for t in d}) > 1:  # outputs a row beside outputs a graph
        d, n = [t.sum(0, keepdim=True) for t in d], [t.sum(0, keepdim=True) for t in n]
    return torch.stack(d).sum(0), torch.stack(n).sum(0)
