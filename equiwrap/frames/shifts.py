"""Translations of periodic images: the shift in which a fixed template fits best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Group, Shifts
from ..groups.base import working_dtype
from .base import Frame, GroupMeasure, TypedInput
from .keys import check_ties, template
from .orbits import Orbits
from .reading import image

__all__ = ["Shift"]


class Shift(Frame):
    """*t = argmax_t ⟨template, x(· + t)⟩, all t at once by one Fourier transform.*

    `x[b, c, h, w] → elements[b, 1, 2]` (whole pixels, going round the edges), any h and w. Tied
    shifts are all kept, `elements[b, k, 2]`; where the image repeats itself after p rows and q
    columns, outputs are averaged over these periods exactly, in the same call (`Orbits`).
    `ties="first"` takes the first of tied shifts and reads nothing from the device.

    Degenerate: constant and periodic images, as said. Error: 0 on the input, which is only
    reordered; the choice is that of a cross-correlation in float64.
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
        """`images[b, c, h, w]`, or several of them, moved together.

        Raises:
            GroupError: the group is not T(2).
        """
        if not isinstance(group, Shifts):
            raise GroupError(f'frame="shift" was asked for {group}; it is the frame of T(2).')
        given = [images] if isinstance(images, Tensor) else list(images)
        with torch.no_grad():
            score, scale = _scores(given)  # [b, h, w], [b]
            best = score.flatten(1).amax(1)
            tied = score >= (best - 0.1 * scale)[:, None, None]
            first = tied.flatten(1).to(torch.int8).argmax(1)
            width = score.shape[-1]
            one = torch.stack([first // width, first % width], -1).unsqueeze(1)
            single = GroupMeasure(one, score.new_ones(len(score), 1))
            several = tied.flatten(1).sum(1) > 1
            if self.ties == "first" or torch.compiler.is_compiling() or not bool(several.any()):
                return single
            return self._all(given, tied, one, several)

    @staticmethod
    def _all(given: list[Tensor], tied: Tensor, one: Tensor, several: Tensor) -> GroupMeasure:
        """Every tied shift within one period, and the orbits of the periods."""
        b, h, w = tied.shape
        rows, columns = _period(given, 2), _period(given, 3)  # [b]
        i, j = torch.arange(h, device=tied.device), torch.arange(w, device=tied.device)
        inside = (i < rows[:, None])[:, :, None] & (j < columns[:, None])[:, None, :]
        kept = (tied & inside).flatten(1) & several[:, None]
        place = one[..., 0] * w + one[..., 1]  # a sample without ties, or whose ties rounding hid
        kept = kept | (
            (torch.arange(h * w, device=tied.device) == place) & ~kept.any(1, keepdim=True)
        )
        most = int(kept.sum(1).amax())
        index = kept.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :most]
        weights = kept.gather(1, index).double() / kept.sum(1, keepdim=True)
        labels = (i % rows[:, None])[:, :, None] * w + (j % columns[:, None])[:, None, :]
        labels = labels.flatten(1).unsqueeze(1).expand(b, most, h * w)
        elements = torch.stack([index // w, index % w], -1)
        return GroupMeasure(elements, weights, ragged=True, orbits=Orbits(labels))

    def describe(self, group: Group) -> str:
        return "shift: 1 element a sample, periods averaged over in the same call, exact"


def _scores(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`→ s[b, h, w]` and the scale `[b]` of a tie: √ε · ‖template‖ · ‖x‖."""
    scores, sizes = [], []
    for seed, x in enumerate(images):
        wide = x.to(working_dtype(x.device))
        kernel = template(tuple(x.shape[1:]), seed, x.device, wide.dtype)
        found = wide
        if len(x):  # MKL refuses an empty batch (torch 2.9)
            product = torch.fft.rfft2(wide) * torch.fft.rfft2(kernel).conj()
            found = torch.fft.irfft2(product, s=x.shape[-2:])
        scores.append(found.sum(1))
        eps = torch.finfo(x.dtype).eps if x.is_floating_point() else torch.finfo(wide.dtype).eps
        sizes.append(wide.flatten(1).norm(dim=1) * kernel.norm() * eps**0.5)
    return torch.stack(scores).sum(0), torch.stack(sizes).sum(0)


def _period(images: Sequence[Tensor], axis: int) -> Tensor:
    """`[b]`: the smallest p that divides the side such that every image repeats after p pixels."""
    side = images[0].shape[axis]
    found = torch.full((images[0].shape[0],), side, device=images[0].device)
    for p in [q for q in range(side - 1, 0, -1) if side % q == 0]:
        same = [(x == x.roll(p, axis)).flatten(1).all(1) for x in images]
        found = torch.where(torch.stack(same).all(0), p, found)
    return found
