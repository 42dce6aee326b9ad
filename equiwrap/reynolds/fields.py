"""Regular channels: weights between copies of functions on the group, `channel = (l a j)`.

With a ∈ G in the middle of the axis every slice is contiguous, and no entry is read twice:

    ψ[c] = mean_a a⁻¹·W[a, ac]        (PW)[a, ac] = a·ψ[c]

where a· turns the kernel. Where one side rests there is no c (lifting and pooling).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ..grids import act_on_grid
from ..groups import Group
from ..representations import Regular
from .projector import Projector, wide

__all__ = ["Fields", "Side", "images_of"]

Turns = tuple[Tensor | None, ...]
CACHE = 1 << 18  # entries at a time


@dataclass(frozen=True)
class Side:
    """An axis `(l a j)` of `before` · |G| · `after` channels; `before` alone where it rests."""

    before: int
    after: int = 1
    moved: bool = True

    def sizes(self, order: int) -> tuple[int, int, int]:
        """l, a, j."""
        return (self.before, order if self.moved else 1, self.after)


@lru_cache(maxsize=64)
def images_of(group: Group) -> tuple[tuple[int, ...], ...]:
    """`images[k][h]`: the number of g_k h, in the order of `group.elements()`."""
    matrices = Regular(group).matrix(group.elements())  # [k, h', h]
    return tuple(tuple(row) for row in matrices.argmax(-2).tolist())


@dataclass(frozen=True)
class Fields(Projector):
    """*P on `W[o, i, *sides]` between sides that are regular or rest*; for a bias, `i` is left out.

    P² = P = Pᵀ. O(|W|) time whatever |G| is, temporary memory of one block.

    Error: rounding of the dtype.
    Source: Berndt and Stühmer 2026, §3; the layout is ours.
    """

    group: Group
    out: Side
    into: Side
    kernel: tuple[int, ...] = ()
    images: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    turns: Turns = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """What compilers would otherwise trace."""
        object.__setattr__(self, "images", images_of(self.group))
        object.__setattr__(self, "turns", _turns(self.group, self.kernel))

    @property
    def rank(self) -> int:
        """Free orbits: |W| / |G|."""
        order = len(self.images)
        size = prod(self.out.sizes(order)) * prod(self.into.sizes(order)) * prod(self.kernel)
        return size // order

    def __call__(self, weight: Tensor) -> Tensor:
        view = self._view(wide(weight))
        with torch.autocast(weight.device.type, enabled=False):
            parts = [self._spread(self._mean(p), p) for p in view.split(self._rows(view), 2)]
        return torch.cat(parts, 2).reshape(weight.shape).to(weight.dtype)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight = weight.detach()
        held = weight if weight.is_contiguous() else weight.contiguous()
        view = self._view(held)
        with torch.autocast(weight.device.type, enabled=False):
            for part in view.split(self._rows(view), 2):
                wider = wide(part)
                self._pull(wider, t)
                if wider is not part:
                    part.copy_(wider)
        if held is not weight:
            weight.copy_(held)

    def cut(self, dim: int, sizes: Sequence[int]) -> Sequence[Projector] | None:
        """Channels that rest are alone; of `(l a j)` whole copies l are."""
        if dim > 1:
            return None
        side, name = ((self.out, "out"), (self.into, "into"))[dim]
        after = side.after if side.moved else 1
        unit = after * (len(self.images) if side.moved else 1)
        if any(size % unit for size in sizes):
            return None
        parts = [Side(size // unit, after, side.moved) for size in sizes]
        return [replace(self, **{name: part}) for part in parts]  # type: ignore[arg-type]

    def _view(self, weight: Tensor) -> Tensor:
        """`[l, a, j, l', a', j', pixels]`."""
        order = len(self.images)
        return weight.reshape(*self.out.sizes(order), *self.into.sizes(order), prod(self.kernel))

    def _rows(self, view: Tensor) -> int:
        """Rows j of the outputs whose whole orbit fits the cache."""
        return max(1, CACHE // max(1, view[:, :, :1].numel()))

    def _pairs(self) -> list[tuple[int, list[tuple[int, int]]]]:
        """For each a its place along the outputs, and (c, place of ac along the inputs)."""
        images = self.images
        if not self.into.moved:
            return [(a, [(0, 0)]) for a in range(len(images))]
        if not self.out.moved:
            return [(0, [(0, a)]) for a in range(len(images))]
        return [(a, list(enumerate(row))) for a, row in enumerate(images)]

    def _turned_by(self, like: Tensor) -> list[Tensor | None]:
        """The turns in the dtype and on the device of a weight."""
        return [None if turn is None else turn.to(like) for turn in self.turns]

    def _mean(self, view: Tensor) -> Tensor:
        """*ψ[c, l, j, l', j', x] = mean_a a⁻¹·W[a, ac]*."""
        turns = self._turned_by(view)
        sums: list[Tensor] = []
        for (a, pairs), turn in zip(self._pairs(), turns, strict=True):
            if len(pairs) > 1:  # all of W[a] is read
                row = view[:, a] if turn is None else view[:, a] @ turn
                blocks = [row[:, :, :, at] for _, at in pairs]
            else:
                block = view[:, a, :, :, pairs[0][1]]
                blocks = [block if turn is None else block @ turn]
            if not sums:
                sums = [block.clone() for block in blocks]
                continue
            for mean, block in zip(sums, blocks, strict=True):
                mean.add_(block)
        return torch.stack(sums) / len(turns)

    def _turned(self, psi: Tensor, view: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """All (block of W at [a, ac], a·ψ[c])."""
        turns = self._turned_by(view)
        for (a, pairs), turn in zip(self._pairs(), turns, strict=True):
            moved = psi if turn is None else psi @ turn.mT
            for c, at in pairs:
                yield view[:, a, :, :, at], moved[c]

    def _spread(self, psi: Tensor, like: Tensor) -> Tensor:
        found = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        for block, mean in self._turned(psi, found):
            block.copy_(mean)
        return found

    def _pull(self, part: Tensor, t: float) -> None:
        """*W ← W + t (PW − W)* on one block, in place; few calls, since each costs microseconds."""
        turns = self._turned_by(part)
        pairs = self._pairs()
        grid = [row.unbind(3) for row in part.unbind(1)]
        held = [[grid[a][at] for _, at in row] for a, row in pairs]
        sums: list[Tensor] = []
        for blocks, turn in zip(held, turns, strict=True):
            turned = blocks if turn is None else [block @ turn for block in blocks]
            if sums:
                torch._foreach_add_(sums, turned)
            else:
                sums = [block.clone() for block in turned]
        torch._foreach_mul_(sums, 1 / len(pairs))
        for blocks, turn in zip(held, turns, strict=True):
            means = sums if turn is None else [mean @ turn.mT for mean in sums]
            torch._foreach_lerp_(blocks, means, t)


@lru_cache(maxsize=64)
def _turns(group: Group, kernel: tuple[int, ...]) -> Turns:
    """For each a the matrix *x ↦ a⁻¹·x* on rows of pixels; None where nothing moves."""
    pixels = prod(kernel)
    if pixels == 1:
        return (None,) * len(images_of(group))
    with torch.inference_mode(False):  # what is kept may meet autograd later
        unit = torch.eye(pixels, dtype=torch.float64).reshape(pixels, *kernel)
        moved = [act_on_grid(group, g, unit).flatten(1) for g in group.elements("cpu")]
        still = unit.flatten(1)
        return tuple(None if torch.equal(m, still) else m.mT.contiguous() for m in moved)
