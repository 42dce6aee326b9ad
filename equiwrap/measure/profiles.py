"""The error element by element, and against the angle of a rotation or the rapidity of a boost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, degrees
from typing import Any

import torch
from torch import Tensor

from ..groups import Elements, Group, Lorentz, working_dtype
from ..signature import Signature
from .estimate import Estimate, of_ratio
from .partial import one_parameter, unit_of
from .trial import Law, Trial

__all__ = ["Profile", "error_against_angle", "profile"]


@dataclass(frozen=True)
class Profile:
    """Relative errors, one an element, in the order in which they were tried; prints as a table."""

    law: str
    labels: tuple[str, ...]
    errors: tuple[Estimate, ...]

    def share(self, eps: float) -> float:
        """*|Stab_ε|*: the share of the elements whose interval lies below ε.

        Source: Petrache & Trivedi 2023, the set of partial symmetries; it need not be a group.
        """
        return sum(e.high <= eps for e in self.errors) / max(len(self.errors), 1)

    @property
    def worst(self) -> int:
        """Index of the largest error."""
        return max(range(len(self.errors)), key=lambda i: self.errors[i].value)

    def __str__(self) -> str:
        wide = max(map(len, self.labels), default=0)
        first = f"Relative error under {self.law}, {self.errors[0].samples} inputs"
        rows = zip(self.labels, self.errors, strict=True)
        return "\n".join([first, *(f"  {label:>{wide}}  {e.interval}" for label, e in rows)])


def profile(
    model: Any,
    group: str | Law | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    samples: int = 32,
    seed: int = 0,
    **kwargs: Any,
) -> Profile:
    """*e(g) = sqrt( E_x‖f(gx) − ρ_out(g) f(x)‖² / E_x‖f(gx)‖² )* for each g; interval over inputs.

    Every element of a group of at most 64, the identity first; else `samples` draws, each for all
    inputs. Planar elements are labelled by their angle, and ⌽ after a reflection.

    Raises:
        SignatureError: no signature is to be had, or the inputs do not fit it.
    """
    trial = Trial.of(model, group, signature, inputs, kwargs)
    drawn = trial.draws(samples, seed, shared=True)
    labels = [_label(trial.group, g, i) for i, g in enumerate(drawn)]
    return _profile(trial, drawn, labels)


def error_against_angle(
    model: Any,
    group: str | Group,
    *inputs: Any,
    angles: Sequence[float] | None = None,
    signature: str | Signature | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Profile:
    """*e(t)*, as in `profile`, over g = exp(tX) with an axis X drawn for each input.

    `angles` in degrees for groups that rotate (default 0, 15, … 180), rapidities for Lorentz groups
    (default 0, 0.25, … 3), the parameter of a unit vector of the algebra elsewhere (0, 0.1, … 1).

    Raises:
        GroupError: the group has no one-parameter subgroups.
        SignatureError: no signature is to be had, or the inputs do not fit it.
    """
    trial = Trial.of(model, group, signature, inputs, kwargs)
    own, unit = trial.group, unit_of(trial.group)
    if angles is None:
        step = 15.0 if unit else 0.25 if isinstance(own, Lorentz) else 0.1
        angles = [step * i for i in range(11 if step == 0.1 else 13)]
    rng = torch.Generator().manual_seed(seed)
    drawn = [
        one_parameter(
            own,
            torch.full((trial.batch,), float(t), dtype=working_dtype(at)),
            generator=rng,
            device=at,
        )
        for at in [trial.device]
        for t in angles
    ]
    return _profile(trial, drawn, [f"{t:g}{unit}" for t in angles])


def _profile(trial: Trial, drawn: list[Elements], labels: list[str]) -> Profile:
    floors, errors = trial.floors, []
    with torch.no_grad():
        plain = trial.plain()
        for g in drawn:
            num, den = trial.defect(g, plain)
            errors.append(of_ratio(num, den, root=True, what="relative", elements=1, **floors))
    return Profile(str(trial.law), tuple(labels), tuple(errors))


def _label(group: Group, g: Elements, i: int) -> str:
    if not isinstance(g, Tensor) or g.shape[-2:] != (2, 2) or not group.orthogonal:
        return f"g{i}"
    (a, b), (c, d) = g[0].tolist()
    turn = degrees(atan2(b, d)) if a * d - b * c < 0 else degrees(atan2(b, a))
    return f"{turn % 360:.0f}°{'⌽' if a * d - b * c < 0 else ''}"
