"""Frames of direct products, made of the factors' frames; permutations come last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Elements, Group, Permutations, Product
from ..signature import TensorType
from .base import Frame, GroupMeasure, TypedInput
from .orbits import Orbits
from .sorting import rows_of, sort_rows

__all__ = ["Joint"]

CLOSE = 0.03  # rows are equal within 0.03 √ε of the largest entry: 1e-5 in float32
SAME = 0.1  # canonical inputs are one call within a tenth of that


class Joint(Frame):
    """*μ_x = μ¹_x ⊗ μ²_x ⊗ …, and for S(n) the sorted order of each canonical cloud g_k⁻¹x.*

    `Joint(Axes(), …)`: a frame for each factor but S(n), in the order of the factors. Each of them
    must not feel the other factors, as `Axes`, `Lorentz`, `Unitary` and `Whitened` do not feel the
    order of the points, nor `Axes` their scale. Elements are tuples, one entry a factor.

    Degenerate: symmetric clouds keep their stabiliser's elements, and where sorting makes their
    canonical inputs equal they share one call. Equal rows are averaged over as in `Sorted`.
    Error: that of the parts. Rows of a canonical cloud are known up to rounding: two that differ by
    less than 0.03 √ε of the largest entry count as equal, and of eight directions the first is
    taken in which no others come so close. That a key gap equals this bound within rounding, so
    that x and gx are sorted along different directions, has a probability of about n²ε a cloud.
    """

    def __init__(self, *parts: Frame, **options: Any) -> None:
        super().__init__(**options)
        self.parts = torch.nn.ModuleList(parts)

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        arguments = [
            part.read(factor, _under(factor, inputs), mask)  # type: ignore[operator]
            for factor, part in zip(self._factors(group), self.parts, strict=True)
        ]
        return {"arguments": arguments, "inputs": inputs, "mask": mask}

    def _factors(self, group: Group) -> list[Group]:
        """The factors that have a part.

        Raises:
            GroupError: the group is no product, or parts and factors do not match.
        """
        if not isinstance(group, Product):
            raise GroupError(f"A joint frame is one of a product such as S(n) x O(3), not {group}.")
        moving = [f for f in group.factors if not isinstance(f, Permutations)]
        if len(moving) != len(self.parts) or len(group.factors) - len(moving) > 1:
            raise GroupError(
                f"{group} has {len(moving)} factors beside at most one S(n), and the joint frame "
                f"{len(self.parts)} parts: give one for each, in their order."
            )
        return moving

    def forward(
        self,
        group: Group,
        arguments: Sequence[Mapping[str, Any]],
        inputs: Sequence[TypedInput],
        mask: Tensor | None = None,
    ) -> GroupMeasure:
        """The parts' arguments and the typed inputs → the product measure.

        Raises:
            GroupError: parts and factors do not match.
        """
        factors = self._factors(group)
        measures = [
            part(factor, **given)
            for factor, part, given in zip(factors, self.parts, arguments, strict=True)
        ]
        elements, weights, ragged, calls = _outer(measures)
        assert isinstance(group, Product)
        permuting = [i for i, f in enumerate(group.factors) if isinstance(f, Permutations)]
        if not permuting:
            return GroupMeasure(tuple(elements), weights, ragged, calls)
        moved = _canonical(factors, elements, inputs, mask)
        rows = rows_of(group.factors[permuting[0]], _under(group.factors[permuting[0]], moved))
        dtypes = [x.value.dtype for x in inputs]
        eps = max(torch.finfo(t).eps for t in dtypes if t.is_floating_point or t.is_complex)
        order, labels = sort_rows(rows, CLOSE * eps**0.5)
        b = inputs[0].value.shape[0]
        shape = (b, weights.shape[1], order.shape[-1])
        if ragged:
            ordered = rows.gather(1, order.unsqueeze(-1).expand_as(rows)).unflatten(0, shape[:2])
            calls = _merged(ordered.detach(), weights, calls, CLOSE * SAME * eps**0.5)
        elements.insert(permuting[0], order.argsort(-1).reshape(shape))
        return GroupMeasure(tuple(elements), weights, ragged, calls, Orbits(labels.reshape(shape)))

    def describe(self, group: Group) -> str:
        said = [part.describe(f) for f, part in zip(self._factors(group), self.parts, strict=True)]  # type: ignore[operator]
        return "; ".join([*said, "rows sorted, equal ones averaged over in the same call"])


def _under(factor: Group, inputs: Sequence[TypedInput]) -> list[TypedInput]:
    """The inputs as one factor sees them: letters of the others are plain names."""
    return [TypedInput(TensorType(kind.pattern, factor), value) for kind, value in inputs]


def _outer(
    measures: Sequence[GroupMeasure],
) -> tuple[list[Elements], Tensor, bool, Tensor | None]:
    """Elements of each factor `[b, K, …]`, weights `[b, K]`, ragged, calls `[b, K]`.

    Raises:
        GroupError: there is no part.
    """
    elements: list[Elements] = []
    weights = calls = None
    ragged = any(m.ragged for m in measures)
    batch = next((m.weights.shape[0] for m in measures if m.weights.shape[0] != 1), 1)
    for m in measures:
        w = m.weights.expand(batch, -1)
        k = w.shape[1]
        own = torch.arange(k, device=w.device).expand(batch, k) if m.calls is None else m.calls
        g = m.elements.expand(batch, k, *m.elements.shape[2:])
        if weights is None or calls is None:
            elements, weights, calls = [g], w, own
            continue
        before = weights.shape[1]
        elements = [e.repeat_interleave(k, 1) for e in elements] + [
            g.repeat(1, before, *[1] * (g.ndim - 2))
        ]
        weights = (weights.unsqueeze(-1) * w.unsqueeze(1)).flatten(1)
        calls = (calls.unsqueeze(-1) * k + own.unsqueeze(1)).flatten(1)
    if weights is None:
        raise GroupError("A joint frame needs a part beside S(n).")
    return elements, weights, ragged, calls if ragged else None


def _canonical(
    factors: Sequence[Group],
    elements: Sequence[Elements],
    inputs: Sequence[TypedInput],
    mask: Tensor | None,
) -> list[TypedInput]:
    """The inputs moved by the factors' inverses, `[b·K, …]`, hidden rows zero."""
    found = []
    for kind, value in inputs:
        x = value.to(torch.promote_types(value.dtype, elements[0].dtype)).unsqueeze(1)
        for factor, g in zip(factors, elements, strict=True):
            part = TensorType(kind.pattern, factor)
            if part.moves:
                x = part.act(factor.inverse(g), x, 2)
        x = x.expand(-1, elements[0].shape[1], *x.shape[2:])
        if mask is not None and value.shape[1 : mask.ndim] == mask.shape[1:]:
            hide = mask.bool().reshape(
                len(mask), 1, *mask.shape[1:], *[1] * (value.ndim - mask.ndim)
            )
            x = torch.where(hide, x, x.new_zeros(()))
        found.append(TypedInput(kind, x.flatten(0, 1)))
    return found


def _merged(ordered: Tensor, weights: Tensor, calls: Tensor | None, tolerance: float) -> Tensor:
    """`ordered[b, K, n, c] → calls[b, K]`: a cloud equal to the first one shares its call."""
    b, k = weights.shape
    first = (weights > 0).to(torch.int8).argmax(1)
    row = torch.arange(b, device=first.device)
    size = ordered.abs().flatten(2).amax(2)  # [b, K]
    gap = (ordered - ordered[row, first].unsqueeze(1)).abs().flatten(2).amax(2)
    same = gap <= tolerance * size[row, first].unsqueeze(1)
    own = torch.arange(k, device=first.device).expand(b, k) if calls is None else calls
    return torch.where(same.gather(1, own), first.unsqueeze(1), own)
