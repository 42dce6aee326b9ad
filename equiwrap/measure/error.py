"""The model equivariance error: how far f(g x) is from ρ_out(g) f(x), with an interval and
floors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..groups import Group
from ..signature import Signature
from .acting import act, pick, positional, signature_for, wide
from .floors import dtype_floor, interpolation_floor
from .partial import PartialSet

__all__ = ["Defects", "ErrorEstimate", "defects", "equivariance_error", "pairs", "signature_for"]


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
    group: str | Group | PartialSet | None,
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
    return defects(
        model, group, *inputs, signature=signature, elements=elements, seed=seed, **kwargs
    ).estimate()


@dataclass(frozen=True)
class Defects:
    """*‖f(gx) − ρ_out(g) f(x)‖² and ‖f(gx)‖²* of each input, means over elements: `[b]` each.

    `worst[b]`: the largest defect under one element, over the size of its output. To be joined with
    those of other processes before they are read.
    """

    square: Tensor
    norm: Tensor
    worst: Tensor
    elements: int
    floor: float
    interpolation: float

    def estimate(self) -> ErrorEstimate:
        """The pooled relative error with its interval."""
        d, n, worst = self.square, self.norm, self.worst
        ratio = d.sum() / n.sum().clamp(min=torch.finfo(n.dtype).tiny)
        spread = (d - ratio * n).square().sum() / max(len(d) - 1, 1) * len(d)
        half = 1.96 * spread.sqrt() / n.sum().clamp(min=torch.finfo(n.dtype).tiny)
        root = ratio.sqrt()
        return ErrorEstimate(
            value=float(root),
            half_width=float(half / (2 * root)) if root > 0 else 0.0,
            worst=float(worst.amax().sqrt()) if worst.numel() else 0.0,
            worst_input=int(worst.argmax()) if worst.numel() else -1,
            samples=len(d),
            elements=self.elements,
            floor=self.floor,
            interpolation=self.interpolation,
        )


def defects(
    model: nn.Module | Any,
    group: str | Group | PartialSet | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    elements: int = 8,
    seed: int = 0,
    **kwargs: Any,
) -> Defects:
    """What `equivariance_error` pools, input by input.

    Raises:
        SignatureError: there is no signature to be had, or the inputs do not fit it.
    """
    law = group if isinstance(group, PartialSet) else None
    sig = signature_for(model, group, signature, inputs)
    square, norm, worst = torch.zeros(()), torch.zeros(()), torch.zeros(())
    count = 0
    handle = getattr(model, "equiwrap", None)
    positional(sig, model, inputs)
    with torch.no_grad():
        folds = any(
            kind.leading(x) is not None for (_, kind), x in zip(sig.inputs, inputs, strict=False)
        )
        plain = torch.zeros(())
        if handle is not None and handle.config.method != "penalize" and not folds:
            # the plain model need not take several batch axes
            plain = _size(sig, handle.forward(*inputs, **kwargs))
        for moved, expected in pairs(model, sig, inputs, elements, seed, kwargs, law):
            d, n = _per_sample(sig, moved, expected)
            n = torch.maximum(n, plain.to(n))
            square, norm, count = square.to(d) + d, norm.to(n) + n, count + 1
            scale = torch.maximum(n, n.mean()).clamp(min=torch.finfo(n.dtype).tiny)
            worst = torch.maximum(worst.to(d), d / scale)
    typed = zip(sig.inputs, inputs, strict=False)
    first, kind = next((x, t) for (_, t), x in typed if not t.untouched)
    floors = dtype_floor(first.dtype), interpolation_floor(sig.group, first, kind)
    return Defects(square / count, norm / count, worst, count, *floors)


def pairs(
    model: Any,
    sig: Signature,
    inputs: tuple[Any, ...],
    elements: int,
    seed: int,
    kwargs: dict[str, Any],
    law: PartialSet | None = None,
) -> Any:
    """Yield, element by element, (f(g x), ρ_out(g) f(x)) as lists of output leaves.

    Raises:
        SignatureError: the inputs do not fit the signature.
    """
    kinds = positional(sig, model, inputs)
    device = next(x.device for x in inputs if isinstance(x, Tensor))
    typed = [
        (k, x) for k, x in zip(kinds, inputs, strict=True) if k is not None and not k.untouched
    ]
    sizes: dict[str, int] = {}
    for kind, x in typed:
        sizes |= kind.sizes(kind.to_front(x))
    group = sig.group.at(sizes)
    if law is None and group.order is not None and 1 < group.order <= 64:
        g = group.elements(device)
        chosen = [pick(g, i) for i in range(1, group.order)]
    else:
        g = (law or group).sample(
            elements, generator=torch.Generator().manual_seed(seed), device=device
        )
        chosen = [pick(g, i) for i in range(elements)]
    out = sig.flatten(model(*inputs, **kwargs))
    for one in chosen:
        moved = [
            x if kind is None or kind.untouched else act(kind, one, x)
            for kind, x in zip(kinds, inputs, strict=True)
        ]
        there = sig.flatten(model(*moved, **kwargs))
        types = [kind for _, kind in sig.outputs]
        back = [y if t.untouched else act(t, one, y) for t, y in zip(types, out, strict=True)]
        yield there, back


def _size(sig: Signature, out: Any) -> Tensor:
    """Squared norm of each sample, summed over the typed outputs."""
    leaves = sig.flatten(out)
    return _per_sample(sig, leaves, leaves)[1]


def _per_sample(sig: Signature, moved: list[Any], expected: list[Any]) -> tuple[Tensor, Tensor]:
    """Squared defect and squared norm of each sample, summed over the typed outputs; float64."""
    d, n = [], []
    for (_, kind), a, b in zip(sig.outputs, moved, expected, strict=True):
        if not kind.untouched:
            a, b = (kind.to_front(t).to(wide(t)).unsqueeze(-1).flatten(1) for t in (a, b))
            d.append((a - b).abs().square().sum(-1))
            n.append(a.abs().square().sum(-1))
    if len({len(t) for t in d}) > 1:  # outputs a row beside outputs a graph
        d, n = [t.sum(0, keepdim=True) for t in d], [t.sum(0, keepdim=True) for t in n]
    return torch.stack(d).sum(0), torch.stack(n).sum(0)
