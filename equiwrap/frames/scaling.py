"""The frame of R+: everything that has a unit is divided by its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SignatureError
from ..groups import Group
from ..groups.base import working_dtype
from .base import Frame, GroupMeasure, TypedInput

__all__ = ["Size"]


class Size(Frame):
    """*s = √(Σ_i ‖x_i‖²), over all inputs that carry v; the canonical input has size one.*

    `x[b, …] → elements[b, 1, 1, 1]`. Invariant under permutations and orthogonal matrices.

    Degenerate: a sample of zeros has s = 0, which restores quantities with a unit to zero, the only
    value that every scale leaves alone. Its gradient is that of a constant. Error: rounding.
    """

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        found = []
        for kind, value in inputs:
            if not kind.moves:
                continue
            shown = value
            if mask is not None and value.shape[1 : mask.ndim] == mask.shape[1:]:
                hide = mask.bool().reshape(*mask.shape, *[1] * (value.ndim - mask.ndim))
                shown = torch.where(hide, value, value.new_zeros(()))
            found.append(shown)
        if not found:
            raise SignatureError(
                f"No input carries a quantity that {group} scales: type an axis with v."
            )
        return {"values": found}

    def forward(self, group: Group, values: Sequence[Tensor]) -> GroupMeasure:
        """`values[i][b, …] → elements[b, 1, 1, 1]`."""
        wide = torch.cat([x.flatten(1).to(working_dtype(x.device)) for x in values], 1)
        peak = wide.detach().abs().amax(1, keepdim=True)
        unit = torch.where(peak > 0, peak, 1.0)
        square = (wide / unit).square().sum(1, keepdim=True)
        size = torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0) * unit
        size = torch.where(wide.isnan().any(1, keepdim=True), torch.nan, size)
        return GroupMeasure(size[:, :, None, None], torch.ones_like(size))

    def describe(self, group: Group) -> str:
        return "size: 1 element a sample, exact"
