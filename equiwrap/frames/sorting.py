"""S(n) on sets: rows sorted by a generic key, equal rows averaged over in one call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SignatureError
from ..groups import Group
from ..groups.base import working_dtype
from .base import Frame, GroupMeasure, TypedInput
from .keys import check_ties
from .orbits import Orbits

__all__ = ["Sorted", "rows_of", "sort_rows"]

KEYS = 8  # directions that are tried where rounding could exchange two rows


class Sorted(Frame):
    """*The rows in the order of ⟨a, x_i⟩, a a fixed generic direction.*

    `rows[b, n, c] → elements[b, 1, n]` (indices; all typed inputs with an axis n count, side by
    side). Equal rows are a stabiliser, the product of their symmetric groups: outputs are averaged
    over it exactly (`Orbits`: means over equal rows, and over pairs of them), in one call, however
    many there are. `ties="first"` leaves them as the sort finds them, which invariant outputs
    cannot tell.

    Degenerate: nothing is; -0 and 0 are equal. Not continuous: outputs jump where two keys cross
    (Dym et al. 2024); `Separated` is.
    Error: 0. Keys are summed feature by feature in float64, so that they do not depend on the place
    of the row; two different rows with two equal pairs of keys have not been seen.
    """

    def __init__(self, *, ties: str = "average", **options: Any) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.ties = ties

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return {"rows": rows_of(group, inputs)}

    def forward(self, group: Group, rows: Tensor) -> GroupMeasure:
        """`rows[b, n, c] → elements[b, 1, n]`."""
        order, labels = sort_rows(rows, 0.0)
        one = order.new_ones(len(order), 1, dtype=working_dtype(order.device))
        orbits = None if self.ties == "first" else Orbits(labels.unsqueeze(1))
        return GroupMeasure(order.argsort(-1).unsqueeze(1), one, orbits=orbits)

    def describe(self, group: Group) -> str:
        return "sorted: 1 element a sample, equal rows averaged over in the same call, exact"


def rows_of(group: Group, inputs: Sequence[TypedInput]) -> Tensor:
    """The typed inputs with one axis of rows, side by side: `[b, n, c]` in the working dtype.

    Raises:
        SignatureError: there is none, one has two such axes, or their lengths differ.
    """
    found = []
    for kind, value in inputs:
        axes = kind.rows
        if len(axes) > 1:
            raise SignatureError(
                f"The input {str(kind)!r} has {len(axes)} axes of rows: it is a graph, and sorting "
                'needs a set. Use frame="labelled".'
            )
        if axes:
            x = value.movedim(axes[0], 1).flatten(2) if value.ndim > 2 else value.unsqueeze(-1)
            wide = working_dtype(x.device)
            found += [x.real.to(wide), x.imag.to(wide)] if x.is_complex() else [x.to(wide)]
    if not found:
        raise SignatureError(
            f"No input has an axis n, so that there is nothing for {group} to sort: name one n."
        )
    lengths = sorted({x.shape[1] for x in found})
    if len(lengths) > 1:
        raise SignatureError(
            f"The axis n has lengths {lengths} in different inputs, and {group} permutes them "
            "together: give the other one a name of its own."
        )
    return torch.cat(found, -1)


def sort_rows(rows: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """`rows[b, n, c] → order[b, n], labels[b, n]`: the sorting order, and labels of equal rows.

    `labels` are those of the sorted rows. With a `tolerance` (relative to the largest entry) rows
    that differ by less are equal, and of `KEYS` directions the first is taken in which no two
    different rows come so close that rounding could exchange them.
    """
    with torch.no_grad():
        scale = rows.abs().amax((1, 2), keepdim=True) if rows.numel() else rows.new_ones(1, 1, 1)
        unit = rows / torch.where((scale > 0) & scale.isfinite(), scale, 1.0) if tolerance else rows
        order, labels, close = _by_key(unit, 0, tolerance)
        for i in range(1, KEYS if tolerance and not torch.compiler.is_compiling() else 1):
            if not bool(close.any()):
                break
            other, names, still = _by_key(unit, i, tolerance)
            take = close.unsqueeze(-1)
            order, labels = torch.where(take, other, order), torch.where(take, names, labels)
            close = close & still
    return order, labels


def _by_key(rows: Tensor, seed: int, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """`→ order[b, n], labels[b, n], close[b]` for one pair of directions."""
    first, second = (_project(rows, 2 * seed + i) for i in range(2))
    order = second.sort(dim=-1, stable=True).indices
    order = order.gather(-1, first.gather(-1, order).sort(dim=-1, stable=True).indices)
    gap1 = first.gather(-1, order).diff(dim=-1).abs()
    gap2 = second.gather(-1, order).diff(dim=-1).abs()
    near, same = gap1 <= tolerance, gap2 <= tolerance
    new = torch.nn.functional.pad(~(near & same), (1, 0), value=False)
    return order, new.long().cumsum(-1), (near & ~same).any(-1)


def _project(rows: Tensor, seed: int) -> Tensor:
    """`rows[b, n, c] → ⟨a, x_i⟩[b, n]`: feature by feature, alike at every place."""
    key = torch.zeros_like(rows[..., 0]) if rows.shape[-1] else rows.sum(-1)
    for j in range(rows.shape[-1]):
        key = key + rows[..., j] * weight(seed, j)
    return key


def weight(seed: int, feature: int) -> float:
    """The entry of a fixed direction: sines of incommensurate phases."""
    return math.sin(1.0 + (feature + 1) * (2.3 + seed) ** 0.5 + 1.7 * seed)
