"""The sample-based regulariser, as the baseline that it is: one element drawn for each input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..measure.acting import act
from ..measure.trial import Law, Trial
from ..reynolds.projector import wide
from ..signature import Signature, TensorType

__all__ = ["sampled_penalty"]


def sampled_penalty(
    model: Any,
    group: str | Law | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    output: Any = None,
    shared: bool = False,
    detach: bool = False,
    generator: torch.Generator | None = None,
    **kwargs: Any,
) -> Tensor:
    """*E_x ‖ρ_out(g) f(x) − f(ρ_in(g) x)‖²*, g drawn from Haar for each input, or one for all.

    A scalar in float32 at least, mean over the batch, sum over entries and outputs. Both branches
    are differentiated; `detach` holds ρ_out(g) f(x) fixed. With `output=f(x)`, which the training
    has anyway, it costs one more forward and backward pass, about a whole step: the price of a
    penalty that sees the function and not the weights. Its expectation is twice MEE² on a law of
    inputs that the group keeps; its variance falls with the batch. In training mode both branches
    meet batch statistics and dropout of their own, which count as asymmetry.

    Source: Elhag et al. 2024 (one element a sample, squared norm).

    Raises:
        SignatureError: no signature is to be had, or the inputs do not fit it.
    """
    trial = Trial.of(model, group, signature, inputs, kwargs)
    loose = trial.index is None and any(kind.ragged for kind, _ in trial.typed)
    each = 1 if shared or loose else trial.batch
    g = trial.law.sample(each, generator=generator, device=trial.device)
    moved = [
        x if k is None or k.untouched else act(k, trial.rows(k, g), x)
        for k, x in zip(trial.kinds, trial.inputs, strict=True)
    ]
    here = _leaves(trial, model(*inputs, **kwargs) if output is None else output)
    there = _leaves(trial, model(*moved, **kwargs))
    gaps = []
    for (kind, y), (_, z) in zip(here, there, strict=True):
        y = wide(y.detach() if detach else y)
        gaps.append(kind.to_front(act(kind, trial.rows(kind, g), y) - wide(z)))
    return trial.dot(gaps, gaps).mean()


def _leaves(trial: Trial, out: Any) -> list[tuple[TensorType, Tensor]]:
    pairs = zip([kind for _, kind in trial.sig.outputs], trial.sig.flatten(out), strict=True)
    return [(k, k.check(y, "the output")) for k, y in pairs if not k.untouched]
