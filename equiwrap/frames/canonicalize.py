"""The first half of the equation: x ↦ (ρ_in(g_k)⁻¹ x)_k, folded into the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import SignatureError
from ..groups import Elements, Group
from ..signature import TensorType
from .average import mask_among
from .base import GroupMeasure
from .orbits import Orbits

__all__ = ["Canonical", "Canonicalize", "Rows"]


class Rows(NamedTuple):
    """The calls of a ragged measure: which sample and element each folded row belongs to."""

    sample: Tensor  # [t] sample of each supported (b, k)
    element: Elements  # [t, m, m]
    weight: Tensor  # [t]
    called: Tensor  # [c] positions in t that are sent through the model
    answer: Tensor  # [t] the row of the model's output that serves each element
    orbits: Orbits | None  # of the rows that are called


def _rows(measure: GroupMeasure) -> Rows:
    b, k = measure.weights.shape
    kept = (measure.weights.flatten() > 0).nonzero()[:, 0]  # [t], the one data-dependent size
    torch._check(kept.shape[0] >= b)  # every sample has an element: helps symbolic shapes
    element = tree_map(lambda g: g.flatten(0, 1)[kept], measure.elements)
    weight = measure.weights.flatten()[kept]
    if measure.calls is None:
        every = torch.arange(kept.shape[0], device=kept.device)
        orbits = None if measure.orbits is None else measure.orbits.of(kept)
        return Rows(kept // k, element, weight, every, every, orbits)
    first = (
        measure.calls.flatten()[kept] + kept // k * k
    )  # flat index of the element that is called
    called = (first == kept).nonzero()[:, 0]
    place = torch.zeros(b * k, dtype=torch.long, device=kept.device)
    place = place.index_put((kept[called],), torch.arange(called.shape[0], device=kept.device))
    orbits = None if measure.orbits is None else measure.orbits.of(kept[called])
    return Rows(kept // k, element, weight, called, place[first], orbits)


class Canonical(NamedTuple):
    """What `Canonicalize` hands on: folded inputs by name, and what `Restore` needs to unfold."""

    values: dict[str, Any]
    measure: GroupMeasure
    rows: Rows | None
    leading: tuple[int, ...] | None
    batch: int
    fold: int


class Canonicalize(nn.Module):
    """*x ↦ (ρ_in(g_k)⁻¹ x)_k, folded into the batch.* `mask` names the argument that marks real
    rows.
    """

    def __init__(self, group: Group, types: Mapping[str, TensorType], mask: str | None) -> None:
        super().__init__()
        self.group, self.types, self.mask = group, dict(types), mask

    def forward(
        self, measure: GroupMeasure, inputs: tuple[Any, ...], rest: dict[str, Any]
    ) -> Canonical:
        """Typed `inputs` in declared order and the `rest` of the call → `Canonical`."""
        named = dict(
            zip((n for n, t in self.types.items() if not t.untouched), inputs, strict=True)
        )
        rows = _rows(measure) if measure.ragged else None
        first = next(iter(named))
        front = self.types[first].to_front(named[first])
        batch, leading = front.shape[0], self.types[first].leading(named[first])
        k = 1 if rows is not None else measure.weights.shape[1]
        hidden = mask_among(self.mask, named, inputs, rest)
        values = {n: self._move(self.types[n], x, measure, rows, hidden) for n, x in named.items()}
        if rows is not None or k > 1:
            values |= {
                n: tree_map(lambda leaf, n=n: _follow(n, leaf, batch, k, rows, n == self.mask), v)
                for n, v in rest.items()
            }
        else:
            values |= rest
        return Canonical(values, measure, rows, leading, batch, k)

    def _shown(
        self, kind: TensorType, front: Tensor, mask: Tensor | None
    ) -> Callable[..., Tensor] | None:
        """Which rows of a moving input the mask shows, before and after an element has acted.

        Raises:
            SignatureError: the group permutes rows, and the mask is not typed: it would stay.
        """
        if mask is None or not kind.moves or front.shape[1 : mask.ndim] != mask.shape[1:]:
            return None
        own = self.types.get(self.mask or "")
        if kind.rows and (own is None or own.untouched):
            raise SignatureError(
                f"{self.group} permutes the rows of {str(kind)!r}, and the mask {self.mask} is "
                f'passed through untouched: type it, "{self.mask}: b n".'
            )
        tail = [1] * (front.ndim - mask.ndim)

        def shown(back: Elements | None, at: Tensor | None = None) -> Tensor:
            seen = mask.bool()
            if back is None:
                return seen.reshape(*seen.shape, *tail)
            seen = seen.unsqueeze(1) if at is None else seen[at]
            if own is not None and own.moves:
                seen = own.act(back, seen, 2 if at is None else 1)
            return seen.reshape(*seen.shape, *tail)

        return shown

    def _move(
        self,
        kind: TensorType,
        x: Tensor,
        measure: GroupMeasure,
        rows: Rows | None,
        mask: Tensor | None,
    ) -> Tensor:
        if kind.batch is None:  # shared by all samples, and invariant
            return x
        front = kind.to_front(x)
        shown = self._shown(kind, front, mask)
        front = front if shown is None else torch.where(shown(None), front, front.new_zeros(()))
        if rows is not None:
            at = rows.sample[rows.called]
            back = self.group.inverse(tree_map(lambda g: g[rows.called], rows.element))
            moved = kind.act(back, front[at], 1)
            if shown is not None:  # translations move hidden rows off zero
                moved = torch.where(shown(back, at), moved, moved.new_zeros(()))
            return kind.from_front(moved)
        k = measure.weights.shape[1]
        if kind.moves:
            back = self.group.inverse(measure.elements)
            moved = kind.act(back, front.unsqueeze(1), 2)
            if shown is not None:
                moved = torch.where(shown(back), moved, moved.new_zeros(()))
            return kind.from_front(moved.flatten(0, 1))
        return kind.from_front(front.repeat_interleave(k, 0) if k > 1 else front)


def _follow(name: str, leaf: Any, batch: int, k: int, rows: Rows | None, mask: bool = False) -> Any:
    """An untyped argument beside a folded batch: per-sample tensors follow it, others are shared.

    Raises:
        SignatureError: in a batch of two, integers that could be rows or pairs.
    """
    if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != batch:
        return leaf
    whole = not leaf.is_floating_point() and leaf.dtype != torch.bool and not mask
    if batch == 2 and leaf.ndim == 2 and whole:
        raise SignatureError(
            f"The argument {name} has shape {list(leaf.shape)} in a batch of 2: it could be one "
            f'row a sample or a list of pairs. Type it: "{name}: b n" for the first, "{name}: 2 '
            'e" for the second.'
        )
    return leaf.repeat_interleave(k, 0) if rows is None else leaf[rows.sample[rows.called]]
