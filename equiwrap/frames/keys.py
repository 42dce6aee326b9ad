"""Image keys: the orientation in which an image scores highest, with all tied orientations kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import GroupError
from ..grids import act_on_grid
from ..groups import Group
from .base import Frame, GroupMeasure, TypedInput
from .reading import image

__all__ = ["Key", "check_ties", "choose", "template"]

# torch.compile keeps lengths that depend on data since this version; before, it takes the first tie
SYMBOLIC = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)
_CELLS = 15  # the score reads a 15 × 15 summary (odd: no cell is cut by the centre line)


class Key(Frame):
    """*μ_x uniform on {g : s(g⁻¹x) = max_h s(h⁻¹x)}, s a fixed linear score of the pooled image.*

    `x[b, c, h, w] → elements[b, 1, 2, 2]`, or `[b, |G|, 2, 2]` with zero weights where a sample of
    the batch has ties. Needs no network: s is the inner product with a fixed template without
    symmetry, on a 15 × 15 mean-pooled copy. Finite groups on square grids of any size (C2 and D2 on
    any grid).

    `ties="average"` keeps every tied element and reads one flag from the device a forward;
    `ties="first"` takes the first, never syncs, and gives up exactness of image-valued outputs on
    symmetric images (invariant outputs stay exact there, all tied inputs being the same image).

    Components that turn with the pixels, as in `b v h w`, are read by their length.

    Degenerate: symmetric and constant images, whose frame is the stabiliser coset (all of G for a
    constant image); images that are symmetric at 15 × 15 only, whose frame is larger than it need
    be.
    Error: 0 (bit-exact input) for C1, C2, C4, D1, D2, D4 off ties; interpolation for other groups.
    Source: Kaba et al. 2023 (energy canonicalisation), with ties kept as in Puny et al. 2022.
    """

    def __init__(self, *, ties: str = "average", **options: Any) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.ties = ties

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return {"images": image(inputs)}

    def forward(self, group: Group, images: Tensor | Sequence[Tensor]) -> GroupMeasure:
        """`images[b, c, h, w]`, or several of them, scored together.

        Raises:
            GroupError: the group is infinite.
        """
        if group.order is None:
            raise GroupError(
                f'frame="key" compares the elements of a finite group, and {group} is infinite: '
                'use frame="haar", or a finite subgroup such as "C8".'
            )
        elements = group.elements(images[0].device)
        given = [images] if isinstance(images, Tensor) else list(images)
        with torch.no_grad():
            score, scale = self.score(group, elements, given)
        return choose(elements, score, scale, self.ties)

    @staticmethod
    def score(group: Group, elements: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """`→ s[b, |G|]` and its scale `[b]`: √ε · ‖t‖ · (‖x − mean‖ + ‖x‖/100)."""
        total = torch.zeros((), dtype=elements.dtype, device=elements.device)
        scale = torch.zeros_like(total)
        for seed, x in enumerate(images):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            small = _pooled(wide).to(elements.dtype)  # [b, c, *cells]
            centred = small - small.flatten(2).mean(-1).reshape(
                *small.shape[:2], *[1] * (x.ndim - 2)
            )
            templates = _templates(group, small, seed)  # [|G|, c·cells]
            total = total + centred.flatten(1) @ templates.mT
            size = centred.flatten(1).norm(dim=1) + 1e-2 * small.flatten(1).norm(dim=1)
            scale = scale + size * templates[0].norm() * torch.finfo(wide.dtype).eps ** 0.5
        return total, scale

    def describe(self, group: Group) -> str:
        how = "exact" if group.lattice else "up to interpolation"
        return f"key: 1 element a sample (at most {group.order} on ties), no network, {how}"


def _pooled(x: Tensor) -> Tensor:
    """`x[b, c, (d,) h, w]` on 15 cells a side at most."""
    cells = [min(_CELLS, side) for side in x.shape[2:]]
    if x.ndim == 5:
        return F.adaptive_avg_pool3d(x, cells)  # type: ignore[arg-type]
    return F.adaptive_avg_pool2d(x, cells)  # type: ignore[arg-type]


def check_ties(ties: str) -> None:
    """Nothing, or a sentence.

    Raises:
        ValueError: `ties` is neither "average" nor "first".
    """
    if ties not in ("average", "first"):
        raise ValueError(f'ties={ties!r} was given; it is "average" (exact) or "first" (no sync).')


def choose(elements: Tensor, score: Tensor, scale: Tensor, ties: str) -> GroupMeasure:
    """*Uniform on the elements whose score is within a tenth of `scale` of the best.*

    √ε lies halfway, in orders of magnitude, between rounding and real differences; `scale` carries
    it.

    `elements[|G|, m, m], score[b, |G|], scale[b] → elements[b, 1 or |G|, m, m]`. A sample whose
    scores are not finite takes the first element.
    """
    best = score.amax(-1, keepdim=True)
    tied = score >= best - 0.1 * scale.unsqueeze(-1)  # [b, |G|]
    first = tied.to(torch.int8).argmax(-1)
    # traced code cannot branch on data: it keeps the list, whose length is then symbolic
    compiling = torch.compiler.is_compiling()
    listed = SYMBOLIC or not torch.compiler.is_dynamo_compiling()
    several = listed if compiling else ties != "first" and bool((tied.sum(-1) > 1).any())
    if ties == "first" or not several:
        one = elements.index_select(0, first).unsqueeze(1)
        return GroupMeasure(one, one.new_ones(one.shape[:2]))
    kept = tied | (torch.arange(len(elements), device=tied.device) == first.unsqueeze(-1))
    weights = kept.to(elements.dtype) / kept.sum(-1, keepdim=True)
    every = elements.unsqueeze(0).expand(score.shape[0], *elements.shape)
    return GroupMeasure(every, weights, ragged=True)


def _templates(group: Group, like: Tensor, seed: int) -> Tensor:
    """`[|G|, pixels]`: the template turned by every element, since ⟨t, g⁻¹x⟩ = ⟨g t, x⟩.

    A constant of its arguments, remembered in eager mode only (tracers must see it made).
    """
    shape, device, dtype = tuple(like.shape[1:]), like.device, like.dtype
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return _turned.__wrapped__(group, shape, seed, device, dtype)
    with torch.inference_mode(False), torch.no_grad():
        return _turned(group, shape, seed, device, dtype)


@lru_cache(maxsize=32)
def _turned(
    group: Group, shape: tuple[int, ...], seed: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    elements = group.elements(device)
    fixed = template(shape, seed, device, dtype)
    return act_on_grid(group, elements, fixed.expand(len(elements), *shape)).flatten(1)


def template(shape: tuple[int, ...], seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """*A fixed picture `[c, h, w]` or `[c, d, h, w]`, smooth and without symmetry*: sines of
    incommensurate phase.
    """
    c, h, w = shape[0], shape[-2], shape[-1]
    i = torch.linspace(-1, 1, h, device=device, dtype=dtype).reshape(1, h, 1)
    j = torch.linspace(-1, 1, w, device=device, dtype=dtype).reshape(1, 1, w)
    tone = 1 + 0.37 * torch.arange(c, device=device, dtype=dtype).reshape(c, 1, 1) + seed
    if len(shape) == 4:
        depth = torch.linspace(-1, 1, shape[1], device=device, dtype=dtype).reshape(-1, 1, 1)
        i, j, tone = i.unsqueeze(1), j.unsqueeze(1), tone.unsqueeze(1)
        i, j = i + 0.61 * depth, j - 0.83 * depth * depth + 0.29 * depth
    low = 1.3 * i + 0.71 * j + 0.9 * i * j
    high = torch.sin(2.1 * i + 3.3 * j + tone) + torch.sin(5.7 * i * j - 1.9 * j + 2.3 * tone)
    return low + 0.5 * high
