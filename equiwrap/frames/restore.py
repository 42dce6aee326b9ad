"""The second half of the equation: (y_k) ↦ Σ_k w_k ρ_out(g_k) y_k."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SignatureError
from ..groups import Group
from ..signature import Signature, TensorType
from .base import GroupMeasure
from .canonicalize import Canonical
from .orbits import Orbits, mean_over

__all__ = ["Restore", "check_mean"]


class Restore(nn.Module):
    """*(y_k) ↦ Σ_k w_k ρ_out(g_k) y_k*, output by output; the sum runs in float32 at least."""

    def __init__(self, group: Group, signature: Signature) -> None:
        super().__init__()
        self.group, self.signature = group, signature

    def forward(self, outputs: Any, canonical: Canonical) -> Any:
        """The model's folded outputs → the averaged ones, in the same container."""
        leaves = self.signature.flatten(outputs)
        types = [kind for _, kind in self.signature.outputs]
        restored = [
            self._restore(kind, leaf, canonical) for kind, leaf in zip(types, leaves, strict=True)
        ]
        return self.signature.unflatten(outputs, restored)

    def _restore(self, kind: TensorType, y: Any, canonical: Canonical) -> Any:
        single = canonical.rows is None and canonical.fold == 1
        if kind.untouched:
            return y
        front = kind.to_front(kind.check(y, "the output"))
        measure, rows = canonical.measure, canonical.rows
        orbits = measure.orbits if rows is None else rows.orbits
        if orbits is not None:
            front = self._over(orbits, kind, front)
        if single:
            moved = (
                kind.act(measure.elements, front.unsqueeze(1), 2).flatten(0, 1)
                if kind.moves
                else front
            )
            return kind.from_front(moved, canonical.leading)
        check_mean(kind, y)
        wide = torch.promote_types(y.dtype, torch.float32)
        if rows is not None:
            moved = kind.act(rows.element, front[rows.answer], 1).to(wide)
            weight = rows.weight.to(wide).reshape(-1, *[1] * (moved.ndim - 1))
            batch = measure.weights.shape[0]
            total = moved.new_zeros(batch, *moved.shape[1:])
            mean = total.index_add(0, rows.sample, moved * weight)
        else:
            moved = kind.act(measure.elements, front.unflatten(0, (-1, canonical.fold)), 2).to(wide)
            mean = torch.einsum(
                "...k,...k->...", moved.movedim(1, -1), self._weights(moved, measure)
            )
        return kind.from_front(mean.to(y.dtype), canonical.leading)

    @staticmethod
    def _over(orbits: Orbits, kind: TensorType, front: Tensor) -> Tensor:
        """The mean over the stabiliser: on rows of a set, or on the pixels of a periodic grid."""
        if not kind.grid:
            return mean_over(orbits, kind.rows, front)
        names = [axis.name for axis in kind.inner]
        if "h" not in names:
            return mean_over(
                orbits, [1 + kind.inner.index(a) for a in kind.inner if a.bracketed], front
            )
        at = names.index("h") + 1
        sides = front.shape[at : at + 2]
        return mean_over(orbits, [at], front.flatten(at, at + 1)).unflatten(at, sides)

    @staticmethod
    def _weights(moved: Tensor, measure: GroupMeasure) -> Tensor:
        w = measure.weights.to(moved.dtype)
        return w.reshape(w.shape[0], *[1] * (moved.ndim - 2), w.shape[1]).expand_as(
            moved.movedim(1, -1)
        )


def check_mean(kind: TensorType, y: Tensor) -> None:
    """Nothing, or a sentence.

    Raises:
        SignatureError: the output is of integers, which have no mean.
    """
    if not y.is_floating_point() and not y.is_complex():
        raise SignatureError(
            f"The output {str(kind)!r} is {str(y.dtype).removeprefix('torch.')}, which cannot "
            "be averaged: return the scores, and take the decision (argmax) after the average."
        )
