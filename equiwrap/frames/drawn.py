"""Frames that are drawn: from an equivariant distribution, or from a set that is no group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GroupError
from ..groups import Euclidean, Group, Orthogonal, Permutations
from ..groups.base import working_dtype
from ..groups.planar import rotations
from .axes import Axes, cloud_arguments, place
from .base import Frame, GroupMeasure, TypedInput
from .reading import batch_of
from .sorting import rows_of

__all__ = ["Drawn", "Partial"]


class Drawn(Frame):
    """*g_j ~ p(g|x), p equivariant: a network of the noisy input gives scores or vectors.*

    S(n): `network` takes `x[b·k, n, c] → scores[b·k, n]`, and the rows are sorted by them. O, SO,
    E, SE: it takes `x[b·k, n, d]` about the centroid to vectors `[b·k, m, d]`, whose `Axes` are the
    element. `noise` times a standard normal is added to x first. The network must be equivariant.

    Claims no exactness for one call: equivariant in distribution only, the error falls like 1/√k.
    In eval the noise comes from `seed`, so that outputs repeat; in training from `generator`.
    Source: Kim et al. 2023 (probabilistic symmetrisation).
    """

    def __init__(
        self,
        network: nn.Module,
        samples: int = 8,
        *,
        noise: float = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if samples < 1:
            raise ValueError(f"Drawn(samples={samples}) was asked for; it needs at least one.")
        self.network, self.samples, self.noise, self.seed = network, samples, noise, seed

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        if isinstance(group, Permutations):
            return {"x": rows_of(group, inputs)}
        given = cloud_arguments(group, inputs, mask)
        first = given["positions"] if given["positions"] is not None else given["vectors"][0]
        return {"x": first}

    def forward(self, group: Group, x: Tensor) -> GroupMeasure:
        """`x[b, n, c] → elements[b, k, …]`, weights 1/k.

        Raises:
            GroupError: the group is none of S(n), O, SO, E, SE.
        """
        b, k = len(x), self.samples
        generator = self.generator
        if not self.training:
            generator = torch.Generator().manual_seed(self.seed)
        centre = x.mean(1) if isinstance(group, Euclidean) else torch.zeros_like(x[:, 0])
        u = (x - centre.unsqueeze(1)).unsqueeze(1).expand(b, k, *x.shape[1:])
        at = generator.device if generator is not None else x.device
        noise = torch.randn(u.shape, generator=generator, dtype=x.dtype, device=at).to(x.device)
        given = self.network((u + self.noise * noise).flatten(0, 1))
        weights = torch.full((b, k), 1 / k, dtype=working_dtype(x.device), device=x.device)
        if isinstance(group, Permutations):
            order = given.unflatten(0, (b, k)).flatten(2).argsort(-1)
            return GroupMeasure(order.argsort(-1), weights)
        if not isinstance(group, (Orthogonal, Euclidean)):
            raise GroupError(f"Drawn frames are for S(n), O, SO, E and SE, not for {group}.")
        turning = group.rotations if isinstance(group, Euclidean) else group
        one = Axes(ties="first")(turning, None, None, vectors=[given]).elements
        elements = one.reshape(b, k, *one.shape[2:])
        return GroupMeasure(place(group, elements, centre.to(elements)), weights)

    def calls(self, group: Group) -> int:
        return self.samples

    def describe(self, group: Group) -> str:
        return f"drawn: {self.samples} samples, equivariant in distribution only, error about 1/√k"


class Partial(Frame):
    """*μ uniform on rotations by angles in [−a, a]: a set, not a group.* `elements[1, k, 2, 2]`.

    `Partial(45, samples=5)`, by name `"partial"`, averages a model over turns of at most 45
    degrees: equally spaced in eval, both ends included; drawn uniformly in training. There is no
    projector, outputs are not invariant, and nothing is claimed: averaging twice is not averaging
    once.
    """

    def __init__(self, degrees: float = 45, samples: int = 5, **options: Any) -> None:
        super().__init__(**options)
        fits = isinstance(degrees, (int, float)) and 0 < degrees <= 180
        if not fits or type(samples) is not int or samples < 1:
            raise ValueError(
                f"Partial({degrees!r}, samples={samples!r}) was asked for; it takes an angle up to "
                "180 degrees and a whole number of samples."
            )
        self.degrees, self.samples = float(degrees), samples

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return {"device": batch_of(inputs)[1]}

    def forward(self, group: Group, device: torch.device | None = None) -> GroupMeasure:
        """`→ elements[1, k, 2, 2]`.

        Raises:
            GroupError: the group does not rotate the plane.
        """
        if not isinstance(group, Orthogonal) or group.d != 2:
            raise GroupError(f"Partial sets are turns of the plane: name SO(2), not {group}.")
        reach, dtype = math.radians(self.degrees), working_dtype(device)
        if self.training:
            unit = torch.rand(self.samples, generator=self.generator, dtype=dtype)
            angle = reach * (2 * unit.to(device) - 1)
        elif self.samples == 1:
            angle = torch.zeros(1, dtype=dtype, device=device)
        else:
            angle = torch.linspace(-reach, reach, self.samples, dtype=dtype, device=device)
        weights = torch.full((1, self.samples), 1 / self.samples, dtype=dtype, device=device)
        return GroupMeasure(rotations(angle).unsqueeze(0), weights)

    def calls(self, group: Group) -> int:
        return self.samples

    def describe(self, group: Group) -> str:
        return (
            f"partial: {self.samples} turns within ±{self.degrees:g}°, not a group: no projector, "
            "no exactness"
        )
