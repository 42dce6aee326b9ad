"""Ragged batches: graphs of different sizes in one row of rows, as PyTorch Geometric has them."""

from __future__ import annotations

import pytest
import torch
from clouds import CUBE, SQUARE
from reference import relative
from torch import nn

import equiwrap as ew
from equiwrap.testing import tolerance

SIGNATURE = "pos: (b n) {} | batch, edge_index: _ -> {{energy: b 1, forces: (b n) v}}"


class Messages(nn.Module):
    """A message-passing network on absolute coordinates, in plain torch."""

    def __init__(self, dtype):
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(6, 16, dtype=dtype), nn.Tanh())
        self.energy, self.force = nn.Linear(16, 1, dtype=dtype), nn.Linear(16, 3, dtype=dtype)
        self.calls = 0

    def forward(self, pos, batch, edge_index):
        self.calls += 1
        source, target = edge_index
        message = self.edge(torch.cat([pos[source], pos[target]], -1))
        h = torch.zeros(len(pos), 16, dtype=pos.dtype).index_add(0, target, message)
        count = int(batch.max()) + 1
        total = torch.zeros(count, 1, dtype=pos.dtype).index_add(0, batch, self.energy(h).tanh())
        return {"energy": total, "forces": self.force(h)}


def geometric(dtype):
    """The same task with layers of torch_geometric."""
    geometric = pytest.importorskip("torch_geometric.nn", reason="needs torch_geometric")

    class Geometric(nn.Module):
        def __init__(self):
            super().__init__()
            body = [nn.Linear(6, 16, dtype=dtype), nn.Tanh(), nn.Linear(16, 16, dtype=dtype)]
            self.conv = geometric.PointNetConv(nn.Sequential(*body))
            self.energy = nn.Linear(16, 1, dtype=dtype)
            self.force = nn.Linear(19, 3, dtype=dtype)

        def forward(self, pos, batch, edge_index):
            h = self.conv(pos, pos, edge_index)
            energy = geometric.global_add_pool(self.energy(h).tanh(), batch)
            return {"energy": energy, "forces": self.force(torch.cat([h, pos], -1))}

    return Geometric()


def graphs(dtype):
    """Six graphs of 1 to 8 points: a cube, a square off the origin, a line, generic ones."""
    line = torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, 0, 2]])
    parts = [CUBE, torch.randn(5, 3), torch.randn(1, 3), SQUARE + 3, line, torch.randn(6, 3)]
    pos = torch.cat([part.to(dtype) for part in parts])
    batch = torch.arange(6).repeat_interleave(torch.tensor([len(part) for part in parts]))
    linked = (batch[:, None] == batch).fill_diagonal_(False)
    return pos, batch, linked.nonzero().T.contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", ["O(3)", "SO(3)", "E(3)", "SE(3)"])
@pytest.mark.parametrize("make", [Messages, geometric])
def test_ragged_batches_are_exact(make, group, dtype):
    pos, batch, edges = graphs(dtype)
    signature = SIGNATURE.format("p" if "E" in group else "v")
    net = make(dtype)
    before = ew.measure.equivariance_error(net, group, pos, batch, edges, signature=signature)
    assert float(before) > 0.05
    model = ew.equivariantize(net, group, signature)
    assert model.equiwrap.errors(pos, batch, edges).worst <= tolerance(dtype)


def test_a_graph_gets_the_same_answer_alone_and_in_company():
    pos, batch, edges = graphs(torch.float64)
    model = ew.equivariantize(Messages(torch.float64), "E(3)", SIGNATURE.format("p"))
    both = model(pos, batch, edges)
    for i in range(6):
        mine = batch == i
        start = int(mine.nonzero()[0])
        own = edges[:, mine[edges[0]]] - start
        alone = model(pos[mine], batch[mine] * 0, own)
        assert relative(alone["forces"], both["forces"][mine]) < 1e-12
        assert relative(alone["energy"], both["energy"][i : i + 1]) < 1e-12


def test_ragged_rows_agree_with_padded_ones_and_with_rows_in_any_order():
    pos, batch, _ = graphs(torch.float64)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    class Rows(nn.Module):
        def forward(self, x, batch=None):
            return net(x)

    ragged = ew.equivariantize(Rows(), "SE(3)", "x: (b n) p | batch -> (b n) v")
    padded = ew.equivariantize(Rows(), "SE(3)", "x: b n p, batch: _ -> b n v", mask="batch")
    mask = torch.arange(8) < batch.bincount()[:, None]
    dense = torch.zeros(6, 8, 3, dtype=torch.float64)
    dense[mask] = pos
    assert relative(ragged(pos, batch), padded(dense, mask)[mask]) < 1e-12
    order = torch.randperm(len(pos))
    assert relative(ragged(pos[order], batch[order]), ragged(pos, batch)[order]) < 1e-12
    alone = ragged(pos[:8])  # no index: one graph
    assert relative(alone, ragged(pos, batch)[:8]) < 1e-12


def test_generic_graphs_cost_one_call_and_carry_gradients():
    pos, batch, edges = graphs(torch.float64)
    keep = (batch == 1) | (batch == 5)
    place = torch.cumsum(keep, 0) - 1
    pos, batch = pos[keep].requires_grad_(), (batch[keep] == 5).long()
    edges = place[edges[:, keep[edges[0]]]]
    net = Messages(torch.float64)
    model = ew.equivariantize(net, "E(3)", SIGNATURE.format("p"))
    energy = model(pos, batch, edges)["energy"].sum()
    assert net.calls == 1
    (force,) = torch.autograd.grad(energy, pos)
    assert force.isfinite().all()
    assert force.sum(0).abs().amax() < 1e-9 * force.abs().amax()  # translations change nothing


def test_ragged_mistakes_get_a_sentence():
    pos, batch, edges = graphs(torch.float32)
    net = Messages(torch.float32)
    with pytest.raises(ew.SignatureError, match="names graph as the graph"):
        ew.equivariantize(net, "E(3)", "pos: (b n) p | graph, edge_index: _, batch: _ -> b 1")
    with pytest.raises(ew.SignatureError, match="no padding to hide"):
        ew.equivariantize(net, "E(3)", SIGNATURE.format("p"), mask="batch")
    model = ew.equivariantize(net, "E(3)", SIGNATURE.format("p"))
    with pytest.raises(ew.SignatureError, match="one integer a row"):
        model(pos, batch.float(), edges)
    with pytest.raises(ew.SignatureError, match="names the graphs of 20"):
        model(pos, batch[:20], edges)
    wrong = SIGNATURE.format("p").replace("b 1", "(b n) 1")
    with pytest.raises(ew.SignatureError, match="b for one a graph"):
        ew.equivariantize(net, "E(3)", wrong)(pos, batch, edges)
