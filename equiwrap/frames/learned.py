"""Learned canonicalisation: a network scores the elements of a finite group, or gives the axes.

Scores are exact by construction for any network: it scores each g⁻¹x by itself, so that turning x
only permutes the scores. What training changes is *which* orientation wins: with the upright prior,
the one in which the images of the training set come, so that a frozen model is shown what it knows.
Axes are as exact as the network that gives them is equivariant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GroupError, SignatureError
from ..grids import act_on_grid
from ..groups import Euclidean, Group, Orthogonal
from .axes import Axes, cloud_arguments, place
from .base import Frame, GroupMeasure, TypedInput
from .keys import check_ties, choose
from .reading import image

__all__ = ["Learned"]


class Learned(Frame):
    """*μ_x uniform on {g : e(g⁻¹x) is largest}*, or *the axes of vectors v(x)*; e and v networks.

    Finite groups on images: `network` takes `x[b, c, h, w] → [b]`; `elements[b, 1, 2, 2]`, or
    `[b, |G|, 2, 2]` where a sample of the batch has ties. Costs |G| calls of the small network.
    With `straight_through` all elements are called in training, and the weights are
    onehot + softmax(e/T) − stop(softmax(e/T)): the forward is that of the best element, the
    gradient reaches the network as that of the softmax at `temperature` T.

    O, SO, E, SE on clouds: `network` takes `x[b, n, d]` (about the centroid under E and SE) to
    vectors `[b, m, d]`, and `Axes` of these vectors are the frame; the points themselves complete
    it where the vectors do not span. Gradients flow into the network. Exact as far as the network
    is equivariant: `consistency` measures it.

    `identity_rate` says how often the identity wins, `consistency` how often (images), or how
    exactly (clouds), the canonical input of g x is that of x.

    Degenerate: symmetric images tie and are averaged over, as in `Key`; symmetric clouds as in
    `Axes`.
    Error: 0 off ties for lattice groups; that of `Axes`, and of the network, for clouds, over the
    size of the vectors where they nearly cancel.
    Source: Kaba et al. 2023; Mondal et al. 2023 for the upright prior.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        ties: str = "average",
        straight_through: bool = False,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.network, self.ties = network, ties
        self.straight_through, self.temperature = straight_through, temperature

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        if isinstance(group, (Orthogonal, Euclidean)) and not any(k.grid for k, _ in inputs):
            given = cloud_arguments(group, inputs, mask)
            first = given["positions"] if given["positions"] is not None else given["vectors"][0]
            return {"x": first, "mask": given["mask"]}
        fields = [str(k) for k, _ in inputs if k.grid and any(map(k.axis_moves, k.inner))]
        if fields:
            raise SignatureError(
                f"A learned energy turns pixels, and the components of {fields[0]!r} turn with "
                'them: use frame="key" or frame="whole", which read fields.'
            )
        return {"x": image(inputs)[0]}

    def forward(self, group: Group, x: Tensor, mask: Tensor | None = None) -> GroupMeasure:
        """`x[b, c, h, w] → elements[b, 1 or |G|, 2, 2]`; `x[b, n, d] → elements[b, k, m, m]`.

        Raises:
            GroupError: the group is infinite, and the input no cloud of vectors.
        """
        if isinstance(group, (Orthogonal, Euclidean)) and x.ndim == 3:
            return self._axes(group, x, mask)
        if group.order is None:
            raise GroupError(
                f"A learned energy compares the elements of a finite group, and {group} is "
                'infinite: use a finite subgroup such as "C8".'
            )
        elements = group.elements(x.device)
        if self.straight_through and self.training:
            soft = (self.energies(group, x) / self.temperature).softmax(-1)
            best = torch.nn.functional.one_hot(soft.argmax(-1), group.order).to(soft.dtype)
            weights = (best + soft - soft.detach()).to(elements.dtype)
            return GroupMeasure(elements.unsqueeze(0), weights)
        with torch.no_grad():
            score = self.energies(group, x)
            scale = torch.finfo(score.dtype).eps ** 0.5 * score.abs().amax(-1)
        return choose(elements, score, scale, self.ties)

    def _axes(self, group: Orthogonal | Euclidean, x: Tensor, mask: Tensor | None) -> GroupMeasure:
        centre = x.new_zeros(len(x), x.shape[-1])
        if isinstance(group, Euclidean):
            shown = torch.ones_like(x[..., :1]) if mask is None else mask.unsqueeze(-1).to(x.dtype)
            centre = (x * shown).sum(1) / shown.sum(1).clamp(min=1)
            x = (x - centre.unsqueeze(1)) * shown
        turning = group.rotations if isinstance(group, Euclidean) else group
        vectors = self.network(x)
        # what cancels is rounding; the points stand behind the vectors, for what these leave open
        size, reach = (t.detach().abs().flatten(1).amax(1) for t in (vectors, x))
        loud = size > torch.finfo(x.dtype).eps ** 0.5 * reach
        vectors = torch.where(loud[:, None, None], vectors, 0.0)
        found = Axes(ties=self.ties)(turning, None, None, vectors=[vectors, x])
        return found._replace(elements=place(group, found.elements, centre.to(found.elements)))

    def energies(self, group: Group, images: Tensor) -> Tensor:
        """`images[b, c, h, w] → e(g⁻¹x)[b, |G|]`, differentiable in the network."""
        back = group.inverse(group.elements(images.device)).unsqueeze(0)
        dtype = next((p.dtype for p in self.network.parameters()), images.dtype)
        orbit = act_on_grid(group, back, images.to(dtype).unsqueeze(1))  # [b, |G|, c, h, w]
        return self.network(orbit.flatten(0, 1)).reshape(orbit.shape[:2])

    def identity_rate(self, group: Group, images: Tensor) -> float:
        """Share of the images that are left as they come."""
        with torch.no_grad():
            return float((self.energies(group, images).argmax(-1) == 0).double().mean())

    def consistency(self, group: Group, x: Tensor, samples: int = 8) -> float:
        """How well the canonical inputs of g x and of x agree.

        Images: the share of (image, element) pairs whose canonical images are the same to 1e-4.
        Clouds: one minus the relative error of the canonical clouds, over random elements.
        """
        with torch.no_grad():
            if x.ndim == 3:
                g = group.sample(samples, generator=torch.Generator().manual_seed(0))
                here = self._canonical(group, x)
                gaps = [
                    (self._canonical(group, _moved(group, one, x)) - here).norm() / here.norm()
                    for one in g
                ]
                return 1.0 - float(torch.stack(gaps).amax())
            elements = group.elements(x.device)
            here = self._canonical(group, x)
            scale = here.flatten(1).norm(dim=1).clamp(min=1e-30)
            agree = []
            for one in elements:
                moved = act_on_grid(group, one.expand(len(x), 1, 2, 2), x.unsqueeze(1)).squeeze(1)
                gap = (self._canonical(group, moved) - here).flatten(1).norm(dim=1)
                agree.append((gap <= 1e-4 * scale).double())
            return float(torch.stack(agree).mean())

    def _canonical(self, group: Group, x: Tensor) -> Tensor:
        g = group.inverse(self.forward(group, x).elements[:, :1])
        if x.ndim == 3:
            return _moved(group, g[:, 0], x)
        return act_on_grid(group, g, x.unsqueeze(1)).squeeze(1)

    def describe(self, group: Group) -> str:
        if group.order is None:
            return "learned: the axes of a network's vectors, exact as far as it is equivariant"
        return (
            f"learned: {group.order} calls of a small network, then 1 element a sample; exact "
            "(`identity_rate` and `consistency` measure it)"
        )


def _moved(group: Group, g: Tensor, x: Tensor) -> Tensor:
    """`g[b or 1, m, m], x[b, n, d] → g x`, translations included."""
    d = x.shape[-1]
    turned = x.to(g.dtype) @ group.linear(g).mT
    return (turned + g[..., None, :d, d] if group.affine else turned).to(x.dtype)
