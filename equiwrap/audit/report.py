"""What an audit found, as plain data that prints, saves, plots, and is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

__all__ = ["STATUS", "Curve", "Finding", "Layer", "Remedy", "Report", "check_suffix"]

# what each status says of an operation
STATUS = {
    "exact": "keeps the symmetry, by its rule or with the weights it has",
    "weights": "could keep it; its weights do not",
    "misaligned": "its sampling grid breaks it, whatever its weights",
    "unsound": "should keep it, and the measurement says that it does not",
    "untyped": "not understood, so only measured",
}


@dataclass(frozen=True)
class Layer:
    """One operation of the model under its stable path, as "layer1.0.conv1" or "layer1.0.add".

    `type` is how its output transforms, as "b c h w" ("" if unknown); `status` a key of `STATUS`.
    `error` is the relative error that has accumulated there, `own` the part that the operation
    adds to it; `share` is its signed share of the end-to-end defect, and shares sum to 1. All three
    are None where they were not measured. `parameters` counts its weights.
    """

    name: str
    operation: str
    type: str = ""
    status: str = "untyped"
    error: float | None = None
    own: float | None = None
    share: float | None = None
    parameters: int = 0
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Finding:
    """What breaks the symmetry at `name`, and the usual fix.

    `kind`: "stride", "padding", "position table", "odd window", "flatten", "weights" or "other".
    """

    name: str
    kind: str
    reason: str
    fix: str


@dataclass(frozen=True)
class Remedy:
    """What to do: the line to type (`call`), its cost in forward passes, whether it is exact."""

    name: str
    call: str
    cost: float
    exact: bool
    why: str
    recommended: bool = False


@dataclass(frozen=True)
class Curve:
    """Error `y` against `x`, an angle (unit "degrees") or the place of an element in the group's
    list (unit "element"), with 95 % bounds where there are any.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    unit: str = "degrees"


@dataclass(frozen=True)
class Report:
    """An audit: `error ± half_width` is relative with a 95 % interval, `floor` that of rounding.

    `class_` is the `STATUS` of the model as a whole, "signature" where its output moves otherwise
    than was said, or "dead" if it gives one value for all inputs; `layers` are in the order in
    which they run. `data` maps what was learned from targets ("model_error", "data_error",
    "alpha") to a number or to (value, low, high). `ranking` holds (group, error, half width) where
    the group was "auto". Errors that are not finite are None once they are written.
    """

    model: str
    group: str
    signature: str
    inputs: str
    error: float | None
    half_width: float | None
    floor: float
    class_: str = "untyped"
    layers: tuple[Layer, ...] = ()
    findings: tuple[Finding, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    curve: Curve | None = None
    data: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    ranking: tuple[tuple[str, float | None, float | None], ...] = ()

    def __str__(self) -> str:
        from .text import render

        return render(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from .html import fragment

        return fragment(self)

    def to_dict(self) -> dict[str, Any]:
        """Lists, dicts, strings and finite numbers: what strict JSON holds."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> Report:
        """The inverse of `to_dict`, also after JSON.

        Raises:
            ValueError: `read` is something else than what `to_dict` writes.
        """
        parts = {"layers": Layer, "findings": Finding, "remedies": Remedy}
        try:
            fields = {k: _frozen(v) for k, v in read.items()}
            fields |= {k: tuple(part(**_frozen(v)) for v in read[k]) for k, part in parts.items()}
            fields["curve"] = Curve(**fields["curve"]) if fields["curve"] else None
            return cls(**fields)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"This is not an audit report as to_dict() writes it: {error}."
            ) from None

    def plot(self, path: str | Path | None = None) -> Any:
        """The contributions as bars and the error against the angle; a matplotlib figure.

        Written to `path` if one is given.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from .plots import draw

        return draw(self, path)

    def save(self, path: str | Path) -> None:
        """Write a page that needs nothing else (.html), or the numbers (.json).

        Raises:
            ValueError: another suffix.
        """
        out = check_suffix(path)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix.lower() == ".json":
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        else:
            from .html import page

            text = page(self)
        out.write_text(text, encoding="utf-8")


def check_suffix(path: str | Path) -> Path:
    """The path, if a report can be written there.

    Raises:
        ValueError: the suffix is neither .html nor .json.
    """
    out = Path(path)
    if out.suffix.lower() not in (".html", ".json"):
        raise ValueError(
            f"{str(path)!r} was given, and a report is saved as a page or as numbers: let the name "
            "end in .html or .json. Figures are written by report.plot(path)."
        )
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _frozen(v) for k, v in value.items()}
    return tuple(_frozen(v) for v in value) if isinstance(value, (tuple, list)) else value
