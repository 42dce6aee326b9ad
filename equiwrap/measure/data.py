"""The data's own asymmetry, seen through a model: the dial α*, a bracket, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SignatureError, article
from ..signature import Signature
from .dial import logit_dial, squared_dial
from .estimate import Estimate, from_error, of_mean
from .partial import PartialSet
from .trial import Law, Trial, subtract

__all__ = ["DataError", "data_error"]


@dataclass(frozen=True)
class DataError:
    """What the data say about the part f_⊥ = f − Qf of a model that breaks the symmetry.

    `dial` is α*; `broken` = ‖f_⊥‖ (the model's MEE on a law that the group keeps); `risk` the loss
    of f; `gain` the loss that wrapping (Qf for f) saves, ‖f_⊥‖² − 2⟨f_⊥, y − Qf⟩ for squared
    errors, so ‖f_⊥‖² where the target is exactly equivariant. `lower`, `upper` bracket the data's
    error DEE = ‖f* − Qf*‖, f* = E[y|x]: |E⟨f_⊥, y⟩| / ‖f_⊥‖ ≤ DEE ≤ ‖f_⊥‖ + sqrt(risk); None for
    cross entropy and for sets that are no groups.
    """

    law: str
    loss: str
    dial: Estimate
    broken: Estimate
    risk: Estimate
    gain: Estimate
    lower: Estimate | None
    upper: float | None

    @property
    def softness(self) -> float:
        """α* within [0, 1]: what to give `equivariantize(..., softness=)`."""
        return 0.0 if isnan(self.dial.value) else min(max(self.dial.value, 0.0), 1.0)

    @property
    def value(self) -> float:
        """*DEE ≳ c·‖f_⊥‖*, c the dial within [0, 1]; in the unit of the outputs."""
        return self.softness * self.broken.value

    def __float__(self) -> float:
        return self.value

    @property
    def advice(self) -> str:
        """What follows for the model, from where the interval of α* lies."""
        d = self.dial
        if self.broken.exact or isnan(d.value):
            return f"The model keeps {self.law} to numerical precision: there is nothing to turn."
        if d.low <= 0 <= d.high:
            return (
                "What breaks the symmetry is noise here: wrap the model (frame averaging), or "
                "let the penalty grow to the end."
            )
        if d.high < 0:
            return "What breaks the symmetry is wrong on these data: wrap the model."
        if d.high < 1:
            return (
                f"The model breaks {self.law} more than the data support: softness="
                f"{self.softness:.2f} is the best blend, or raise the penalty."
            )
        if d.low > 1:
            return "The model is more symmetric than the data: lower the penalty."
        return f"The model breaks {self.law} as the data do: leave it as it is."

    def __str__(self) -> str:
        lines = [
            f"Data under {self.law}: α* {self.dial.interval} ({self.dial.samples} held-out inputs "
            f"× {self.dial.elements} elements, {self.loss})",
            f"  model breaks it by {self.broken.interval}; DEE ≳ {self.value:.3g}",
            f"  wrapping saves {self.gain.interval} of a loss of {self.risk.interval}",
        ]
        if self.lower is not None and self.upper is not None:
            lines[1] += f", between {max(self.lower.low, 0):.3g} and {self.upper:.3g}"
            lines[2] += f" ({self.broken.value**2:.3g} if the target is exactly equivariant)"
            lines.append(
                f"  α* holds for any inputs; the bracket where {self.law} keeps their distribution"
            )
        elif self.loss != "cross entropy":
            lines.append("  a set that is no group: no projection, so no bracket of DEE")
        return "\n".join([*lines, f"  {self.advice}"])


def data_error(
    model: Any,
    group: str | Law | None,
    data: Iterable[Any],
    *,
    signature: str | Signature | None = None,
    samples: int = 4,
    seed: int = 0,
    join: Callable[[Tensor], Tensor] | None = None,
    **kwargs: Any,
) -> DataError:
    """*α = argmin_α E loss(Qf + α f_⊥, y)* on held-out data, with its 95 % interval.

    `data` is a loader of batches `(x, …, y)` or one such tuple of tensors; y is typed like the
    outputs. Squared errors, unless y holds integer labels `[b]` of logits `b k`: cross entropy.
    Q sums over a group of at most 64 elements; otherwise two independent means of `samples` Haar
    draws an input stand for it, one in each factor, so that every mean is unbiased (the cross
    entropy's is not: O(1/samples)). α* needs no labels on moved inputs and holds for any law of the
    inputs. Q f + α* f_⊥ costs a forward for each element; `softness=` is that blend. Put the model
    in eval mode first. Cross entropy keeps the logits of all data. `join`: from the rows that this
    process measured to those of all processes.

    Error: of nominal 0.95, the interval covers 0.93 to 0.96 at 250 inputs.
    Source: the split of Elesedy & Zaidi 2021; the bracket is Cauchy–Schwarz and the triangle.

    Raises:
        SignatureError: no data, no signature, or data that do not fit it.
    """
    sums: list[dict[str, Tensor]] = []
    logits: list[tuple[Tensor, Tensor, Tensor]] = []
    trial = None
    for i, (inputs, y) in enumerate(_batches(data, model)):
        trial = Trial.of(model, group, signature, inputs, kwargs)
        signature = trial.sig
        with torch.no_grad():
            parts = _split(trial, samples, seed + i)
            if _labels(trial, y):
                logits.append((*_logits(parts), y))
                sums.append({"den": trial.dot(parts[1], parts[2])})
            else:
                sums.append(_squares(trial, parts, _target(trial, parts[0], y)))
    if trial is None:
        raise SignatureError("The data are empty: α* is found on one batch (x, y) at least.")
    whole = join or (lambda part: part)
    total = {name: whole(torch.cat([s[name] for s in sums])) for name in sums[0]}
    count = trial.group.order or 0 if trial.listed else 2 * samples
    facts = {"elements": count, **trial.floors}
    if logits:
        kept, broken, labels = (whole(torch.cat(part)) for part in zip(*logits, strict=True))
        return _entropy(trial, total["den"], kept, broken, labels, facts)
    return _squared(trial, total, facts)


def _split(trial: Trial, samples: int, seed: int) -> tuple[list[Tensor], ...]:
    """f, f − Q₁f, f − Q₂f: Q₁ and Q₂ the same exact mean, or two independent ones."""
    plain = trial.framed(trial.run())
    drawn = trial.draws(2 * samples, seed)
    halves = [drawn, drawn] if trial.listed else [drawn[:samples], drawn[samples:]]
    found = []
    for half in halves[: 1 if trial.listed else 2]:
        total = [torch.zeros_like(y) for y in plain]
        for g in half:  # f − Qf as a mean of small differences, so that it can be exactly zero
            total = [t + d for t, d in zip(total, subtract(plain, trial.aligned(g)), strict=True)]
        found.append([t / len(half) for t in total])
    return plain, found[0], found[-1]


def _squares(trial: Trial, parts: tuple[list[Tensor], ...], y: list[Tensor]) -> dict[str, Tensor]:
    plain, one, two = parts
    gap = subtract(y, plain)  # y − f, so that y − Qf = gap + f_⊥
    first = [g + d for g, d in zip(gap, one, strict=True)]
    second = [g + d for g, d in zip(gap, two, strict=True)]
    return {
        "den": trial.dot(one, two),
        "num": (trial.dot(one, second) + trial.dot(two, first)) / 2,
        "risk": trial.dot(gap, gap),
        "power": trial.dot(plain, plain),
    }


def _squared(trial: Trial, s: dict[str, Tensor], facts: dict[str, Any]) -> DataError:
    num, den = s["num"], s["den"]
    scale = sqrt(float(s["power"].mean()))
    size, mean = sqrt(max(float(den.mean()), 0.0)), float(num.mean())
    broken = of_mean(den, root=True, what="‖f_⊥‖", **{**facts, "floor": facts["floor"] * scale})
    risk = of_mean(s["risk"], what="mean squared error", **facts)
    gain = of_mean(den - 2 * num, what="gain of wrapping", **facts)
    dial = squared_dial(num, den, **facts) if not broken.exact else _none(len(num), facts)
    if isinstance(trial.law, PartialSet):
        return DataError(str(trial.law), "squared error", dial, broken, risk, gain, None, None)
    sign = 1.0 if mean >= 0 else -1.0
    influence = (
        sign * (num - mean) / size - abs(mean) / (2 * size**3) * (den - den.mean()) if size else num
    )
    spread = float(influence.std()) / sqrt(len(num)) if len(num) > 1 else nan
    lower = from_error(abs(mean) / size if size else 0.0, spread, len(num), what="DEE ≥", **facts)
    upper = size + sqrt(float(s["risk"].mean()))
    return DataError(str(trial.law), "squared error", dial, broken, risk, gain, lower, upper)


def _entropy(
    trial: Trial, den: Tensor, kept: Tensor, broken: Tensor, y: Tensor, facts: dict[str, Any]
) -> DataError:
    scale = sqrt(float((kept + broken).square().sum(-1).mean()))
    size = of_mean(
        den, root=True, what="‖f_⊥‖, logits", **{**facts, "floor": facts["floor"] * scale}
    )
    loss = nn.functional.cross_entropy(kept + broken, y, reduction="none")
    saved = loss - nn.functional.cross_entropy(kept, y, reduction="none")
    dial = _none(len(y), facts) if size.exact else logit_dial(kept, broken, y, **facts)
    risk = of_mean(loss, what="cross entropy", **facts)
    gain = of_mean(saved, what="gain of wrapping", **facts)
    return DataError(str(trial.law), "cross entropy", dial, size, risk, gain, None, None)


def _none(n: int, facts: dict[str, Any]) -> Estimate:
    return from_error(nan, nan, n, what="dial α*", **facts)


def _logits(parts: tuple[list[Tensor], ...]) -> tuple[Tensor, Tensor]:
    plain, one, two = (part[0] for part in parts)
    broken = (one + two) / 2
    return plain - broken, broken


# -- reading the data -----------------------------------------------------------------------------


def _batches(data: Iterable[Any], model: Any) -> Iterable[tuple[tuple[Any, ...], Any]]:
    """((inputs, …), target) of each batch, on the device of the model.

    Raises:
        SignatureError: a batch is no pair.
    """
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    one = isinstance(data, (tuple, list)) and any(isinstance(part, Tensor) for part in data)
    for batch in [data] if one else data:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise SignatureError(
                f"The data are batches (x, y), and {article(batch)} came: give a loader of "
                "tuples whose last entry is the target, or one such tuple of tensors."
            )
        *inputs, y = batch
        if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)):
            inputs = list(inputs[0])
        yield tuple(_to(x, first) for x in inputs), _to(y, first)


def _to(x: Any, like: Tensor | None) -> Any:
    if isinstance(x, (tuple, list)):
        return type(x)(_to(part, like) for part in x)
    return x.to(like.device) if isinstance(x, Tensor) and like is not None else x


def _labels(trial: Trial, y: Any) -> bool:
    kinds = trial.outputs
    whole = isinstance(y, Tensor) and not y.is_floating_point() and not y.is_complex()
    return whole and y.ndim == 1 and len(kinds) == 1 and len(kinds[0].axes) == 2


def _target(trial: Trial, plain: list[Tensor], y: Any) -> list[Tensor]:
    """The targets as leaves, typed like the outputs.

    Raises:
        SignatureError: another number of them, or another shape.
    """
    found = trial.framed(trial.leaves(y, "the target"))
    if [t.shape for t in found] != [t.shape for t in plain]:
        raise SignatureError(
            f"The targets have shapes {[list(t.shape) for t in found]} and the outputs "
            f"{[list(t.shape) for t in plain]}: give targets of the outputs' shapes, or integer "
            "labels [b] for logits b k."
        )
    return found
