"""The size of the symmetry breaking of a model: MEE, its pairwise form, R², label consistency."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from ..errors import SignatureError
from ..signature import Signature
from .estimate import Estimate, from_error, of_mean, of_ratio
from .partial import PartialSet
from .trial import Law, Trial, subtract

__all__ = ["label_consistency", "model_error", "r2"]

_FORMS = {
    "projection": "output units, Var_g of the aligned output",
    "pairwise": "output units, rms of f(gx) − ρ f(x)",
    "relative": "relative to the rms output",
}


def model_error(
    model: Any,
    group: str | Law | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    samples: int = 2,
    seed: int = 0,
    form: str = "projection",
    **kwargs: Any,
) -> Estimate:
    """*MEE² = E_x Var_g[ρ_out(g)⁻¹ f(ρ_in(g) x)]*: the root of it, in output units.

    The variance is exact over a group of at most 64 elements; otherwise that of `samples`
    independent Haar draws for each input, over K − 1 (unbiased from K = 2 on; many inputs and few
    draws are the best use of a budget). On a law of inputs that the group keeps, MEE = ‖f − Qf‖
    with Q the group average. `form="pairwise"` is EE² = E‖f(gx) − ρ_out(g) f(x)‖², which is 2·MEE²
    on such a law with orthogonal outputs (g = 1 included); `form="relative"` divides MEE by the rms
    of f(gx). The interval is over inputs. Groups without Haar measure: the law of `group.sample`;
    a `PartialSet`: uniform on it, and no projection. Put the model in eval mode first.

    Error: of nominal 0.95, the interval covers 0.94 at 200 inputs, 0.92 at 50.
    Source: Elesedy & Zaidi 2021 (the split f = Qf + f_⊥); one-way analysis of variance.

    Raises:
        SignatureError: no signature is to be had, or the inputs do not fit it.
        ValueError: no such form, or a single sample.
    """
    if form not in _FORMS or samples < 2:
        raise ValueError(
            f"form={form!r}, samples={samples} was asked for: the forms are {', '.join(_FORMS)}, "
            "and a variance needs two samples at least."
        )
    trial = Trial.of(model, group, signature, inputs, kwargs)
    with torch.no_grad():
        if form == "pairwise":
            square, power, count = _pairwise(trial, samples, seed)
        else:
            within, mean, count = moments(trial, samples, seed)
            square = within / (count if trial.listed else count - 1)
            power = trial.dot(mean, mean) + within / count
    facts = _facts(trial, count, f"{_name(trial, form)} of {trial.law}, {form}: {_FORMS[form]}")
    if form == "relative":
        return of_ratio(square, power, root=True, **facts)
    facts["floor"] *= sqrt(float(power.mean()))
    return of_mean(square, root=True, **facts)


def moments(trial: Trial, samples: int, seed: int) -> tuple[Tensor, list[Tensor], int]:
    """*Σ_j ‖a_j − ā‖² [b], ā, K* of the aligned outputs; about the first, lest they cancel."""
    first: list[Tensor] = []
    square, total, count = torch.zeros(()), [torch.zeros(())], 0
    for g in trial.draws(samples, seed):
        a = trial.aligned(g)
        first = first or a
        gap = subtract(a, first)
        square = square.to(gap[0].device) + trial.dot(gap, gap)
        total = [t + d for t, d in zip(total, gap, strict=True)] if count else gap
        count += 1
    mean = [a + t / count for a, t in zip(first, total, strict=True)]
    return (square - trial.dot(total, total) / count).clamp(min=0), mean, count


def _pairwise(trial: Trial, samples: int, seed: int) -> tuple[Tensor, Tensor, int]:
    plain = trial.plain()
    each = [trial.defect(g, plain) for g in trial.draws(samples, seed)]
    gap, size = (torch.stack(parts).mean(0) for parts in zip(*each, strict=True))
    return gap, size, len(each)


def _name(trial: Trial, form: str) -> str:
    if isinstance(trial.law, PartialSet):
        return "spread (a set, not a group)"
    return "EE" if form == "pairwise" else "MEE"


def _facts(trial: Trial, count: int, what: str) -> dict[str, Any]:
    return {"what": what, "elements": count, **trial.floors}


def r2(
    model: Any,
    group: str | Law | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    samples: int = 2,
    seed: int = 0,
    **kwargs: Any,
) -> Estimate:
    """*R² = Var_x[Qf] / (Var_x[Qf] + MEE²)*: 1 is equivariant, 0 is all pose, nan is constant.

    Sampled groups: (MSB − MSW) / (MSB + (K − 1) MSW), unbiased mean squares between and within
    inputs, which may fall below 0. The interval is that of the jackknife over inputs.

    Source: the intraclass correlation of one-way analysis of variance (Shrout & Fleiss 1979,
    ICC(1,1)).

    Raises:
        SignatureError: no signature, ragged outputs, or inputs that do not fit it.
    """
    trial = Trial.of(model, group, signature, inputs, kwargs)
    if trial.index is not None:
        raise SignatureError(
            "R² compares the outputs of different inputs, and ragged ones differ in length: "
            'measure graphs of one size, as "b n p".'
        )
    with torch.no_grad():
        within, mean, k = moments(trial, samples, seed)
        n = len(within)
        centred = [a - a.mean(0, keepdim=True) for a in mean]
        between = trial.dot(centred, centred)
        power = float(trial.dot(mean, mean).mean())

    def value(ssb: Tensor, ssw: Tensor, n: int) -> Tensor:
        msb, msw = ssb / max(n - 1, 1), ssw / (n * (k if trial.listed else k - 1))
        if trial.listed:
            return msb / (msb + msw)
        return (k * msb - msw) / (k * msb + (k - 1) * msw)

    whole = float(value(between.sum(), within.sum(), n))
    facts = _facts(trial, k, f"equivariance R² under {trial.law}")
    if float(between.sum() + within.sum()) <= n * power * facts["floor"] ** 2:
        return from_error(float("nan"), float("nan"), n, **facts)
    left = value(between.sum() - between * n / max(n - 1, 1), within.sum() - within, max(n - 1, 1))
    spread = sqrt(float((left - left.mean()).square().sum()) * (n - 1) / n)
    return from_error(whole, spread if n > 2 else float("nan"), n, **facts)


def label_consistency(
    model: Any,
    group: str | Law | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    samples: int = 8,
    seed: int = 0,
    **kwargs: Any,
) -> Estimate:
    """*P[argmax f(gx) = argmax f(x)]*, g ≠ 1: of invariant `logits[b, k]`. Consistent ≠ correct.

    Raises:
        SignatureError: the model's one output is not `b k`, or the inputs do not fit.
    """
    trial = Trial.of(model, group, signature, inputs, kwargs)
    if len(trial.outputs) != 1 or trial.outputs[0].moves or len(trial.outputs[0].axes) != 2:
        raise SignatureError(
            f"Labels are the largest of invariant logits, and the outputs are typed "
            f"{str(trial.sig).split('->')[1].strip()!r}: measure a model with outputs b k."
        )
    with torch.no_grad():
        label = trial.run()[0].argmax(-1)
        moved = trial.draws(samples, seed)[1 if trial.listed else 0 :]
        hits = torch.stack([trial.run(g)[0].argmax(-1) == label for g in moved])
    return of_mean(
        hits.double().mean(0), what=f"label consistency under {trial.law}", elements=len(moved)
    )
