"""The frame of axes, one cloud and one tied choice at a time: the slow road of `frames.Axes`, d =
2, 3.

It keeps every tie of the Gram–Schmidt steps and does not narrow them by moments: the same elements
on generic clouds, and on clouds whose symmetries carry every tied choice to every other.
"""

from __future__ import annotations

import torch

from equiwrap.groups import homogeneous

NEAR = 1e-6


def axes_loop(points, group):
    """`points[b, n, d] → b tensors of elements [k, m, m]`."""
    return [_one(x.double(), group) for x in points]


def _one(x, group):
    d = group.dim
    centre = x.mean(0) if group.affine else torch.zeros(d, dtype=x.dtype)
    u = x - centre
    u = u / max(p.norm() for p in u)
    bases = []
    for first in _farthest(u):
        e1 = u[first] / u[first].norm()
        if d == 2:
            bases += _sides(u, [e1], group)
            continue
        rest = torch.stack([p - (p @ e1) * e1 for p in u])
        seconds = _farthest(rest)
        inner = max(u[first] @ u[j] for j in seconds)
        for second in seconds:
            if u[first] @ u[second] >= inner - NEAR:
                bases += _sides(u, [e1, rest[second] / rest[second].norm()], group)
    found = []
    for basis in bases:
        if not any((basis - other).abs().max() < NEAR for other in found):
            found.append(basis)
    elements = torch.stack(found)
    return homogeneous(elements, centre.expand(len(found), d)) if group.affine else elements


def _farthest(points):
    sizes = [p.norm() for p in points]
    return [i for i, s in enumerate(sizes) if s >= max(sizes) - NEAR]


def _sides(u, axes, group):
    """The last axis by determinant, or towards the farther side where reflections are allowed."""
    if len(axes) == 1:
        last = torch.stack([-axes[0][1], axes[0][0]])
    else:
        last = torch.linalg.cross(axes[0], axes[1])
    if not group.reflections:
        return [torch.stack([*axes, last], 1)]
    above = max(p @ last for p in u)
    below = max(-(p @ last) for p in u)
    signs = [s for s, reach in ((1, above), (-1, below)) if reach >= max(above, below) - NEAR]
    return [torch.stack([*axes, s * last], 1) for s in signs]
