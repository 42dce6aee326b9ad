"""Regular channels: weights between copies of functions on the group, `channel = (l a j)`.

With a ∈ G in the middle of the axis every slice is contiguous, and no entry is read twice:

    ψ[c] = mean_a a⁻¹·W[a, ac]        (PW)[a, ac] = a·ψ[c]

where a· turns the kernel. Where one side rests there is no c (lifting and pooling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ..errors import GroupError
from ..grids import act_on_grid
from ..groups import Group
from ..representations import Regular
from .projector import Projector, wide
from .rows import row_means

__all__ = ["Fields", "Side", "images_of"]

Turn = tuple[Tensor, Tensor]
CACHE = 1 << 19  # entries at a time
FEW = 16  # pixels, up to which index_select is quicker than gather on a CPU
SMALL = 1 << 14  # entries of a weight, above which copies into one tensor cost more than calls
WIDE = 4  # entries of a row, below which slices are quicker than rows


@dataclass(frozen=True)
class Side:
    """An axis `(l a j)` of `before` · |G| · `after` channels; `before` alone where it rests."""

    before: int
    after: int = 1
    moved: bool = True

    def sizes(self, order: int) -> tuple[int, int, int]:
        """l, a, j: all channels are j where nothing moves."""
        if not self.moved:
            return (1, 1, self.before * self.after)
        return (self.before, order, self.after)


@lru_cache(maxsize=64)
def images_of(group: Group) -> tuple[tuple[int, ...], ...]:
    """`images[k][h]`: the number of g_k h, in the order of `group.elements()`."""
    matrices = Regular(group).matrix(group.elements())  # [k, h', h]
    return tuple(tuple(row) for row in matrices.argmax(-2).tolist())


@dataclass(frozen=True)
class Fields(Projector):
    """*P on `W[o, i, *sides]` between sides that are regular or rest*; for a bias, `i` is left out.

    P² = P = Pᵀ. O(|W|) time whatever |G| is, temporary memory of one block (of W where one side
    rests).

    Error: rounding of the dtype.
    Source: Berndt and Stühmer 2026, §3; the layout is ours.
    """

    group: Group
    out: Side
    into: Side
    kernel: tuple[int, ...] = ()
    images: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    turns: tuple[Turn | None, ...] = field(init=False, repr=False, compare=False)
    sizes: tuple[int, ...] = field(init=False, repr=False, compare=False)  # l a j l' a' j' pixels
    alone: int | None = field(init=False, repr=False, compare=False)  # the only axis that moves
    tables: Turn | None = field(init=False, repr=False, compare=False)  # its turns, `[a, pixels]`

    def __post_init__(self) -> None:
        """What compilers would otherwise trace."""
        both, order = self.out.moved and self.into.moved, len(images_of(self.group))
        sizes = (*self.out.sizes(order), *self.into.sizes(order), prod(self.kernel))
        object.__setattr__(self, "images", images_of(self.group))
        object.__setattr__(self, "turns", _turns(self.group, self.kernel))
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "alone", None if both else 1 if self.out.moved else 4)
        still = both or not any(self.turns)
        object.__setattr__(self, "tables", None if still else _tables(self.group, self.kernel))

    @property
    def rank(self) -> int:
        """Free orbits: |W| / |G|."""
        return prod(self.sizes) // len(self.images)

    def __call__(self, weight: Tensor) -> Tensor:
        view = wide(weight).reshape(self.sizes)
        if self.alone is not None:
            kept = self._shared(view).expand(view.shape).contiguous()
        else:
            parts = [self._spread(self._mean(p), p) for p in view.split(self._rows(view), 2)]
            kept = torch.cat(parts, 2)
        return kept.reshape(weight.shape).to(weight.dtype)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight = weight.detach()
        held = weight if weight.is_contiguous() else weight.contiguous()
        view = held.view(self.sizes)
        if self._tabular(view):
            for part, mean in row_means(view, self.images):
                part.lerp_(mean, t)
        else:
            for part in view.split(self._rows(view), 2):
                wider = wide(part)
                self._pull(wider, t)
                if wider is not part:
                    part.copy_(wider)
        if held is not weight:
            weight.copy_(held)

    def lerp_each_(self, weights: Sequence[Tensor], t: float) -> None:
        plain = self.alone is not None and self.tables is None
        if len(weights) == 1 or not plain or weights[0].numel() > SMALL:
            super().lerp_each_(weights, t)
            return
        parts = [weight.detach() for weight in weights]
        held = wide(torch.stack(parts))
        view = held.view(len(parts), *self.sizes)
        view.lerp_(view.mean((2, 5), keepdim=True), t)  # of a and a', one of which is 1
        torch._foreach_copy_(parts, held.unbind())

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

    def _rows(self, view: Tensor) -> int:
        """Rows j of the outputs whose whole orbit fits the cache; all where one side moves."""
        if self.alone is not None:
            return max(1, view.shape[2])
        return max(1, CACHE * view.shape[2] // max(1, view.numel()))

    def _tabular(self, view: Tensor) -> bool:
        """Whether W is a table in memory whose rows change places, and they are quicker added."""
        quick = view.is_cpu and view.dtype == torch.float32 and view.shape[5] >= WIDE
        if torch.compiler.is_compiling():  # slices are what compilers fuse
            return False
        return quick and self.alone is None and not any(self.turns) and view.is_contiguous()

    def _shared(self, view: Tensor) -> Tensor:
        """PW where one side moves: the mean of its copies, turned back, and forth again."""
        assert self.alone is not None
        if self.tables is None:
            return view.mean(self.alone, keepdim=True)
        there, back = (index.to(view.device) for index in self.tables)
        shape = [1] * 7
        shape[self.alone], shape[6] = there.shape
        mean = view.gather(-1, there.view(shape).expand(view.shape)).mean(self.alone, keepdim=True)
        return mean.expand(view.shape).gather(-1, back.view(shape).expand(view.shape))

    def _mean(self, view: Tensor) -> Tensor:
        """*ψ[c, l, j, l', j', x] = mean_a a⁻¹·W[a, ac]*: all of W[a] is read for each a."""
        sums: list[Tensor] = []
        for a, (row, turn) in enumerate(zip(self.images, self.turns, strict=True)):
            turned = _moved(view[:, a], turn, 0)
            blocks = [turned[:, :, :, at] for at in row]
            if not sums:
                sums = [block.clone() for block in blocks]
                continue
            for mean, block in zip(sums, blocks, strict=True):
                mean.add_(block)
        return torch.stack(sums) / len(self.turns)

    def _spread(self, psi: Tensor, like: Tensor) -> Tensor:
        """All a·ψ[c], at [a, ac]."""
        found = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        for a, (row, turn) in enumerate(zip(self.images, self.turns, strict=True)):
            moved = _moved(psi, turn, 1)
            for c, at in enumerate(row):
                found[:, a, :, :, at].copy_(moved[c])
        return found

    def _pull(self, part: Tensor, t: float) -> None:
        """*W ← W + t (PW − W)* on one block, in place; few calls, since each costs microseconds."""
        if self.alone is not None:
            part.lerp_(self._shared(part), t)
            return
        grid = [row.unbind(3) for row in part.unbind(1)]
        held = [[grid[a][at] for at in row] for a, row in enumerate(self.images)]
        sums: list[Tensor] = []
        for blocks, turn in zip(held, self.turns, strict=True):
            turned = [_moved(block, turn, 0) for block in blocks]
            if sums:
                torch._foreach_add_(sums, turned)
            else:
                sums = [block.clone() for block in turned]
        torch._foreach_mul_(sums, 1 / len(held))
        for blocks, turn in zip(held, self.turns, strict=True):
            torch._foreach_lerp_(blocks, [_moved(mean, turn, 1) for mean in sums], t)


def _moved(kernels: Tensor, turn: Turn | None, way: int) -> Tensor:
    """*a⁻¹·x* of rows of pixels x, *a·x* the other way; the rows themselves where nothing moves."""
    if turn is None:
        return kernels
    index = turn[way].to(kernels.device)
    if len(index) > FEW:
        return kernels.gather(-1, index.expand(kernels.shape))
    return kernels.index_select(-1, index)


@lru_cache(maxsize=64)
def _turns(group: Group, kernel: tuple[int, ...]) -> tuple[Turn | None, ...]:
    """For each a the places from which *a⁻¹·x* and *a·x* take their pixels; None: from their own.

    Raises:
        GroupError: the group does not act on the lattice of the kernel.
    """
    pixels = prod(kernel)
    if pixels == 1:
        return (None,) * len(images_of(group))
    if not group.lattice:
        raise GroupError(
            f"{group} does not map the pixels of a kernel to pixels: fields of kernels are "
            "projected under C2, C4, D2, D4 (O and O_h for voxels)."
        )
    with torch.inference_mode(False):  # what is kept may meet autograd later
        still = torch.arange(pixels)
        moved = [act_on_grid(group, g, still.view(kernel)) for g in group.elements("cpu")]
        ways = [(back.flatten().argsort(), back.flatten()) for back in moved]
        return tuple(None if torch.equal(back, still) else (there, back) for there, back in ways)


@lru_cache(maxsize=64)
def _tables(group: Group, kernel: tuple[int, ...]) -> Turn:
    """`_turns` as two tables `[a, pixels]`."""
    with torch.inference_mode(False):
        still = torch.arange(prod(kernel))
        ways = [(still, still) if turn is None else turn for turn in _turns(group, kernel)]
        there, back = (torch.stack(way) for way in zip(*ways, strict=True))
        return there, back
