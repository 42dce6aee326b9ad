"""How a strength goes with time, and how training ends: warm-up, ramps, the terminal snap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..reynolds import Projector
from .shards import Norm, act_, settle
from .targets import Target, inner, live, targets_of

__all__ = ["Given", "Schedule", "as_schedule", "recalibrate", "snap"]

Span = int | float  # steps, or a fraction of the total below or at 1.0
Given = float | str | tuple[str, Span] | Callable[[float], float] | None

_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "warmup": lambda u: u,
    "linear": lambda u: u,
    "quadratic": lambda u: u * u,
    "cosine": lambda u: (1 - cos(pi * u)) / 2,
}


@dataclass(frozen=True)
class Schedule:
    """*step ↦ multiplier*: `shape` from 0 to `high` between the steps `start` and `end`.

    Before `start` it is 0, from `end` on `high`. "warmup" and "linear" are one shape.
    """

    shape: str = "constant"
    start: int = 0
    end: int = 0
    high: float = 1.0

    def __call__(self, step: float) -> float:
        """The multiplier of the strength at this step, counted from 0."""
        if self.shape == "constant" or step >= self.end:
            return self.high
        return self.high * _SHAPES[self.shape](
            max(0.0, (step - self.start)) / (self.end - self.start)
        )


def as_schedule(given: Given, total: int | None = None) -> Callable[[float], float]:
    """*step ↦ multiplier* from what a user writes.

        a number            that number, always
        "linear", …         from 0 to 1 over the whole of `total`: linear, quadratic, cosine
        "warmup"            linear over the first tenth of `total`, then 1
        ("cosine", span)    over a span: int = steps, float up to 1.0 = fraction of `total`
        callable            called with the progress step/total in [0, 1]; without `total`, the step

    Raises:
        ValueError: an unknown name, a span that is not positive, or one that needs `total`.
    """
    if given is None:
        return Schedule()
    if callable(given):
        if total is None:
            return given
        return lambda step: given(min(1.0, step / total))
    if isinstance(given, (int, float)):
        return Schedule(high=float(given))
    name, span = (given, 0.1 if given == "warmup" else 1.0) if isinstance(given, str) else given
    if name not in _SHAPES:
        raise ValueError(
            f"schedule={given!r} was asked for: the shapes are {', '.join(_SHAPES)}, alone or with "
            'a span as in ("cosine", 0.5), or a callable.'
        )
    return Schedule(name, 0, _steps(span, total, given))


def _steps(span: Span, total: int | None, given: object) -> int:
    if isinstance(span, int):
        found = span
    elif total is None:
        raise ValueError(
            f"schedule={given!r} spans a fraction of the training, whose length is not known: pass "
            'total=, the number of steps, or a span in steps as in ("cosine", 1000).'
        )
    else:
        found = round(span * total) if 0 < span <= 1 else 0
    if found < 1:
        raise ValueError(
            f"schedule={given!r} spans {span!r}: an int counts steps, 1 at least; a float is a "
            "fraction of the training, above 0 and at most 1.0."
        )
    return found


def snap(
    model: nn.Module,
    targets: Sequence[Target] | None = None,
    loader: Iterable[Any] | None = None,
    device: torch.device | str | None = None,
) -> None:
    """*W ← PW* for every target, parameters and buffers: the end of training, in place.

    With a loader the statistics of batch normalisation are estimated anew for the weights as they
    are now, and projected once more: those of real data are equivariant in the mean only.
    """
    chosen = targets_of(model) if targets is None else targets
    _project(model, chosen)
    if loader is not None:
        recalibrate(model, loader, device)
        _project(model, chosen)


def _project(model: nn.Module, targets: Sequence[Target]) -> None:
    settle(inner(model))
    for target, tensor in live(model, targets):
        act_(target.projector, tensor, _snap)


def _snap(projector: Projector, weight: Tensor, norm: Norm) -> None:
    projector.lerp_(weight, 1.0)


def recalibrate(
    model: nn.Module, loader: Iterable[Any], device: torch.device | str | None = None
) -> None:
    """Running means and variances of batch normalisation anew, averaged over a loader.

    Batches are inputs, or tuples whose first entry is. The modes of the modules stay as they were.
    Source: `torch.optim.swa_utils.update_bn`, which this is.
    """
    modes = [(module, module.training) for module in model.modules()]
    update_bn(loader, model, device)  # type: ignore[arg-type]
    for module, mode in modes:
        module.training = mode
