"""A group of one's own: rotations about the z axis, the symmetry of a surface or of a field."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from equiwrap.frames import Axes, Frame
from equiwrap.groups import Group, Orthogonal


@dataclass(frozen=True)
class AboutZ(Group):
    """*The rotations of space that keep z*: a group is a name, generators and a sampler."""

    name = "SO(2)z"
    dim = 3
    reflections = False

    def generators(self, device=None):
        return self.identity(device)[None][:0]

    def algebra(self, device=None):
        return lift(Orthogonal(2, True).algebra(device), 0.0)

    def sample(self, count, *, generator=None, device=None):
        return lift(Orthogonal(2, True).sample(count, generator=generator, device=device))

    def distance(self, g):
        z = torch.eye(3, dtype=g.dtype, device=g.device)[2]
        return Orthogonal(2, True).distance(g[..., :2, :2]) + (g[..., 2, :] - z).norm(dim=-1)


class AxesAboutZ(Frame):
    """*The axes of the shadow on the plane.* As exact as `Axes` in two dimensions."""

    def read(self, group, inputs, mask):
        return {"points": [item.value for item in inputs]}

    def forward(self, group, points):
        shadow = Axes()(Orthogonal(2, True), vectors=[x[..., :2] for x in points])
        return shadow._replace(elements=lift(shadow.elements))


def lift(plane, last=1.0):
    """`g[..., 2, 2] → [..., 3, 3]`, with `last` for z."""
    g = pad(plane, (0, 1, 0, 1))
    corner = torch.zeros(3, 3, dtype=g.dtype, device=g.device)
    corner[2, 2] = last
    return g + corner
