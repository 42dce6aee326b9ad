"""Slow, obviously right twins of the weighted frames: one sample, one point, one pair at a time."""

from __future__ import annotations

import math
from itertools import pairwise

import torch

D = torch.float64


def weighted_loop(x, group):
    """`x[n, d]` of one sample → [(element, weight), …]: every point, or every ordered pair."""
    d, found = group.dim, []
    centre = x.mean(0) if group.affine else torch.zeros(d, dtype=D)
    u = x - centre
    total = sum(p.norm() for p in u)
    signs = (1.0, -1.0) if group.reflections else (1.0,)
    for i, p in enumerate(u):
        e1 = p / p.norm()
        others = [None] if d == 2 else [j for j in range(len(u)) if j != i]
        rest = {j: u[j] - e1 * (e1 @ u[j]) for j in others if j is not None}
        for j in others:
            weight = p.norm() / total
            if j is None:
                axes = [e1, torch.stack([-e1[1], e1[0]])]
            else:
                weight = weight * rest[j].norm() / sum(q.norm() for q in rest.values())
                e2 = rest[j] / rest[j].norm()
                axes = [e1, e2, torch.linalg.cross(e1, e2)]
            for sign in signs:
                g = torch.stack([*axes[:-1], sign * axes[-1]], 1)
                if group.affine:
                    g = torch.cat([g, centre[:, None]], 1)
                    last = torch.tensor([[0.0] * d + [1.0]], dtype=D)
                    g = torch.cat([g, last])
                found.append((g, float(weight) / len(signs)))
    return found


def about_the_line(f, x, rho_out, mirror, turns=48):
    """*∫ ρ(g) f(g⁻¹x) dg over both ways along a line and all turns about it*, by a fine sum.

    `x[n, 3]` on a line through the origin, `f` on a batch, `rho_out(g, y)`.
    """
    e = x[x.norm(dim=1).argmax()]
    e = e / e.norm()
    a = torch.linalg.cross(e, torch.randn(3, dtype=D))
    a = a / a.norm()
    total, size = 0, sum(float((p @ e).abs()) for p in x)
    for way in (1.0, -1.0):
        weight = sum(max(0.0, way * float(p @ e)) for p in x) / size
        for k in range(turns):
            angle = 2 * math.pi * k / turns
            b = math.cos(angle) * a + math.sin(angle) * torch.linalg.cross(e, a)
            c = torch.linalg.cross(way * e, b)
            for sign in (1.0, -1.0) if mirror else (1.0,):
                g = torch.stack([way * e, b, sign * c], 1)
                share = weight / turns / (2 if mirror else 1)
                total = total + share * rho_out(g, f((x @ g)[None])[0])
    return total


def separated_loop(x, a):
    """`x[n, c], a[k, c]` → [(order, weight), …] by Python's own sort; rows are lists of floats."""
    rows, found = x.double().tolist(), []
    for direction in a.double().tolist():
        keys = [sum(u * v for u, v in zip(row, direction, strict=True)) for row in rows]
        order = sorted(range(len(rows)), key=keys.__getitem__)
        pairs = [(i, j) for i, j in pairwise(order) if rows[i] != rows[j]]
        found.append((order, min((keys[j] - keys[i] for i, j in pairs), default=1.0)))
    total = sum(w for _, w in found)
    return [(order, w / total) for order, w in found]


def law_of_argsort(x, angles=20000):
    """`x[n, 2]` → {order: share of the circle}, by trying many angles."""
    theta = (torch.arange(angles, dtype=D) + 0.5) * (2 * math.pi / angles)
    key = x.double() @ torch.stack([theta.cos(), theta.sin()])  # [n, angles]
    orders, counts = key.argsort(0).mT.unique(dim=0, return_counts=True)
    return {tuple(o): c / angles for o, c in zip(orders.tolist(), counts.tolist(), strict=True)}
