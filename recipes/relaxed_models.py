"""A torch_geometric energy model that does not know E(3), and the laws that forces keep."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool
from torch_geometric.nn.models.schnet import CFConv, GaussianSmearing

import equiwrap as ew

__all__ = ["Potential", "laws", "predict"]

TOGETHER = 32  # graphs that are differentiated at once


class Potential(nn.Module):
    """*Σ_i u(h_i)*, h by continuous filters of |x_i − x_j| and of x_i and x_j as they are.

    `pos[N, 3], kind[N], edge_index[2, E], batch[N] → [graphs, 1]`
    """

    def __init__(self, width: int, rounds: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(2, width), nn.Linear(3, width)
        self.smear = GaussianSmearing(0.5, 5.0, 20)
        filters = (mlp(26, width, width) for _ in range(rounds))
        self.convs = nn.ModuleList(CFConv(width, width, width, f, 10.0) for f in filters)
        self.updates = nn.ModuleList(mlp(width, width, width) for _ in range(rounds))
        self.read = mlp(width, width, 1)

    def forward(self, pos: Tensor, kind: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        source, target = edge_index
        far = (pos[source] - pos[target]).norm(dim=-1)
        edges = torch.cat([self.smear(far), pos[source], pos[target]], -1)
        h = self.embed(kind) + self.place(pos)
        for conv, update in zip(self.convs, self.updates, strict=True):
            h = h + update(conv(h, edge_index, far, edges))
        return global_add_pool(self.read(h), batch)


def mlp(wide: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(wide, width), nn.SiLU(), nn.Linear(width, out))


def predict(model: nn.Module, batch: Any, pos: Tensor | None = None) -> Tensor:
    """`→ [graphs]`."""
    pos = batch.pos if pos is None else pos
    named = {"kind": batch.kind, "edge_index": batch.edge_index, "batch": batch.batch}
    return model(pos, **named)[:, 0]


def energy_and_forces(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """*E* and *−dE/dx* by differentiation of the wrapped energy: `[graphs], [N, 3]`."""
    pos = batch.pos.detach().requires_grad_()
    e = predict(model, batch, pos)
    (slope,) = torch.autograd.grad(e.sum(), pos)
    return e.detach(), -slope


def laws(model: nn.Module, graphs: list[Any], points: int) -> dict[str, Any]:
    """What forces must do, in float64: the largest departures over `graphs`.

    `turned`: *F(gx) − g F(x)*, by the largest force. `differences`: *F·u + dE/du*, and
    `circulation`: *v·dF/du − u·dF/dv*, by central differences, by the largest of each. `work`:
    *∫ F dx + E(1) − E(0)* along a segment (Simpson; `points` is odd), and `jump`: the largest part
    of a step of E that the forces at its two ends do not explain, by the span of E on all segments.
    """
    model, few = deepcopy(model).double(), Batch.from_data_list(graphs).clone()
    few.pos = few.pos.double()
    rng = torch.Generator().manual_seed(2)
    u, v = (torch.randn(few.pos.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    f = energy_and_forces(model, few)[1]
    g = ew.groups.parse_group("E(3)").sample(1, generator=rng)[0].double()
    other = few.clone()
    other.pos = few.pos @ g[:3, :3].T + g[:3, 3]
    turned = energy_and_forces(model, other)[1] - f @ g[:3, :3].T
    (e_u, f_u), (_, f_v) = (difference(model, few, way, 1e-5) for way in (u, v))
    along, one, two = (
        global_add_pool((a * b).sum(-1), few.batch) for a, b in ((f, u), (f_u, v), (f_v, u))
    )
    return {
        "turned": float(turned.abs().max() / f.abs().max()),
        "differences": float((e_u + along).abs().max() / along.abs().max()),
        "circulation": float((one - two).abs().max() / one.abs().max()),
        **walked(model, few, 0.3 * u, points),
    }


def difference(model: nn.Module, batch: Any, way: Tensor, h: float) -> list[Tensor]:
    """Central differences of energy and forces along `way[N, 3]`."""
    found = []
    for step in (h, -h):
        there = batch.clone()
        there.pos = batch.pos + step * way
        found.append(energy_and_forces(model, there))
    return [(a - b) / (2 * h) for a, b in zip(*found, strict=True)]


def walked(model: nn.Module, batch: Any, way: Tensor, points: int) -> dict[str, Any]:
    """Energies and work along segments, from *x* to *x + way*."""
    h, paths = 1 / (points - 1), batch.num_graphs
    e, power = (torch.cat(part) for part in zip(*_steps(model, batch, way, points), strict=True))
    simpson = torch.full_like(power, 2 * h / 3)  # [points, paths]
    simpson[1::2], simpson[0], simpson[-1] = 4 * h / 3, h / 3, h / 3
    span = float(e.max() - e.min())
    work = ((simpson * power).sum(0) + e[-1] - e[0]).abs() / span
    left = (e.diff(dim=0) + h * (power[1:] + power[:-1]) / 2).abs().amax(0) / span
    every = e[:: max(1, (points - 1) // 100)].T
    return {
        "work": float(work.max()),
        "jump": float(left.max()),
        "jumps": [float(f"{x:.2e}") for x in left],
        "paths": [[round(x, 4) for x in every[i].tolist()] for i in range(paths)],
    }


def _steps(
    model: nn.Module, batch: Any, way: Tensor, points: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some points at once: `e[points, paths]` and *F·way* of the same shape."""
    at = torch.linspace(0, 1, points, dtype=way.dtype)
    single = batch.to_data_list()
    for some in at.split(max(1, TOGETHER // batch.num_graphs)):
        many = Batch.from_data_list(single * len(some))
        moves = torch.cat([t * way for t in some])
        many.pos = many.pos + moves
        e, f = energy_and_forces(model, many)
        power = global_add_pool((f * way.repeat(len(some), 1)).sum(-1), many.batch)
        yield e.unflatten(0, (len(some), -1)), power.unflatten(0, (len(some), -1))
