"""The one equation: ⟨f⟩(x) = Σ_k w_k(x) ρ_out(g_k) f(ρ_in(g_k)⁻¹ x).

`average` states it; `Canonicalize` and `Restore` are its two halves as modules. Frames are folded
into the batch axis: the model sees `[b·k, …]` once, or in chunks. Where samples have different
numbers of elements (`measure.ragged`), only the elements that count are folded, so a batch with one
symmetric sample costs that sample's orbit and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import SignatureError
from ..groups import Elements, Group
from ..signature import Signature, TensorType
from .base import GroupMeasure, TypedInput
from .orbits import Orbits, mean_over

__all__ = ["Canonical", "Canonicalize", "Restore", "average", "mask_among", "read_inputs"]


def average(
    frame: Callable[..., GroupMeasure],
    canonicalize: Callable[..., Any],
    model: Callable[..., Any],
    restore: Callable[..., Any],
    *inputs: Any,
) -> Any:
    """*⟨f⟩(x) = Σ_k w_k(x) ρ_out(g_k) f(ρ_in(g_k)⁻¹ x), μ_x = Σ_k w_k(x) δ_{g_k(x)}.*

    Equivariant for any f when μ_{hx} = h_* μ_x, and equal to f when f already is. Everything that
    equiwrap calls averaging, sampling or canonicalisation runs these four lines.
    """
    measure = frame(*inputs)
    canonical = canonicalize(measure, *inputs)
    outputs = model(canonical)
    return restore(outputs, canonical)


class _Rows(NamedTuple):
    """The calls of a ragged measure: which sample and element each folded row belongs to."""

    sample: Tensor  # [t] sample of each supported (b, k)
    element: Elements  # [t, m, m]
    weight: Tensor  # [t]
    called: Tensor  # [c] positions in t that are sent through the model
    answer: Tensor  # [t] the row of the model's output that serves each element
    orbits: Orbits | None  # of the rows that are called


def _rows(measure: GroupMeasure) -> _Rows:
    b, k = measure.weights.shape
    kept = (measure.weights.flatten() > 0).nonzero()[:, 0]  # [t], the one data-dependent size
    torch._check(kept.shape[0] >= b)  # every sample has an element: helps symbolic shapes
    element = tree_map(lambda g: g.flatten(0, 1)[kept], measure.elements)
    weight = measure.weights.flatten()[kept]
    if measure.calls is None:
        every = torch.arange(kept.shape[0], device=kept.device)
        orbits = None if measure.orbits is None else measure.orbits.of(kept)
        return _Rows(kept // k, element, weight, every, every, orbits)
    first = (
        measure.calls.flatten()[kept] + kept // k * k
    )  # flat index of the element that is called
    called = (first == kept).nonzero()[:, 0]
    place = torch.zeros(b * k, dtype=torch.long, device=kept.device)
    place = place.index_put((kept[called],), torch.arange(called.shape[0], device=kept.device))
    orbits = None if measure.orbits is None else measure.orbits.of(kept[called])
    return _Rows(kept // k, element, weight, called, place[first], orbits)


class Canonical(NamedTuple):
    """What `Canonicalize` hands on: folded inputs by name, and what `Restore` needs to unfold."""

    values: dict[str, Any]
    measure: GroupMeasure
    rows: _Rows | None
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
                n: tree_map(lambda leaf, n=n: _follow(n, leaf, batch, k, rows), v)
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
        rows: _Rows | None,
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


def _follow(name: str, leaf: Any, batch: int, k: int, rows: _Rows | None) -> Any:
    """An untyped argument beside a folded batch: per-sample tensors follow it, others are shared.

    Raises:
        SignatureError: in a batch of two, integers that could be rows or pairs.
    """
    if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != batch:
        return leaf
    if batch == 2 and leaf.ndim == 2 and not leaf.is_floating_point() and leaf.dtype != torch.bool:
        raise SignatureError(
            f"The argument {name} has shape {list(leaf.shape)} in a batch of 2: it could be one "
            f'row a sample or a list of pairs. Type it: "{name}: b n" for the first, "{name}: 2 '
            'e" for the second.'
        )
    return leaf.repeat_interleave(k, 0) if rows is None else leaf[rows.sample[rows.called]]


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
        if not y.is_floating_point() and not y.is_complex():
            raise SignatureError(
                f"The output {str(kind)!r} is {str(y.dtype).removeprefix('torch.')}, which cannot "
                "be averaged: return the scores, and take the decision (argmax) after the average."
            )
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


def mask_among(
    mask: str | None, names: Iterable[str], inputs: Sequence[Any], rest: Mapping[str, Any]
) -> Tensor | None:
    """The mask of one call, typed ("mask: b n") or passed through; None where there is none."""
    if mask is None:
        return None
    return rest[mask] if mask in rest else dict(zip(names, inputs, strict=True)).get(mask)


def read_inputs(types: Mapping[str, TensorType], inputs: Sequence[Any]) -> list[TypedInput]:
    """The typed inputs of one call, checked, with the batch in front.

    Raises:
        SignatureError: a tensor that does not fit its pattern, or batches that differ.
    """
    pairs = [(n, t, x) for (n, t), x in zip(types.items(), inputs, strict=True)]
    found = [TypedInput(t, t.to_front(t.check(x, f"The input {n}"))) for n, t, x in pairs]
    sizes = {
        n: x.value.shape[0]
        for (n, t, _), x in zip(pairs, found, strict=True)
        if t.batch is not None
    }
    if len(set(sizes.values())) > 1:
        raise SignatureError(f"The inputs disagree about the batch size: {sizes}.")
    return [x for x in found if x.type.batch is not None]
