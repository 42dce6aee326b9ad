"""Types of sets and of vectors, projected and probed."""

from __future__ import annotations

import torch
from reference_types import probed
from torch import nn

from equiwrap.graph.snap import project_weights


class DeepSets(nn.Module):
    def __init__(self, reduce):
        super().__init__()
        self.one, self.two, self.reduce = nn.Linear(3, 8), nn.Linear(8, 4), reduce

    def forward(self, x):
        return self.two(self.reduce(self.one(x).relu()))


def test_sets_are_typed_and_the_first_row_is_not_a_set():
    x = torch.randn(1, 5, 3)
    typing, found = probed(DeepSets(lambda t: t.mean(1)), x, "S(5)", "b n c -> b k")
    assert found.label == "EXACT"
    assert str(typing.output) == "b c"
    typing, found = probed(DeepSets(lambda t: t[:, 0]), x, "S(5)", "b n c -> b k")
    assert typing.untyped
    assert found.label != "EXACT"


def test_a_transformer_without_positions_is_a_function_of_sets():
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 6)

        def forward(self, x):
            q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            return x + self.out(mixed.transpose(1, 2).flatten(2))

    typing, found = probed(Attend(), torch.randn(1, 7, 6), "S(7)", "b n c -> b n c")
    assert not typing.untyped
    assert found.label == "EXACT"


def test_a_linear_layer_over_points_keeps_two_numbers():
    class Mix(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(5, 5)

        def forward(self, x):
            return self.mix(x.mT).mT

    net = Mix()
    typing, found = probed(net, torch.randn(1, 5, 3), "S(5)", "b n c -> b n c")
    assert found.label == "EXACT"
    project_weights(net, typing)
    assert len(net.mix.weight.unique()) == 2
    assert len(net.mix.bias.unique()) == 1


def test_layers_that_keep_vectors_are_typed():
    class Scale(nn.Module):
        def forward(self, x):
            weight = (x * x).sum(-1, keepdim=True).sigmoid()
            return x * weight - x.mean(1, keepdim=True)

    x, pattern = torch.randn(1, 6, 3), "b n v -> b n v"
    for group in ("O(3)", "SO(3)"):
        typing, found = probed(Scale(), x, group, pattern)
        assert not typing.untyped
        assert found.label == "EXACT", found.failing
        typing, found = probed(nn.Sequential(nn.SiLU(), nn.Flatten()), x, group, pattern)
        assert "components of vectors" in typing.untyped[0].why.reason
