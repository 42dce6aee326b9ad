"""The size to use, and the sentence for each broken node."""

from __future__ import annotations

import pytest
import torch
from reference_types import randomised, typed
from torch import nn

from equiwrap.graph import advice
from equiwrap.graph.advice import fixes, size_to_use

timm = pytest.importorskip("timm")


def found(net, size, group="C4"):
    x = torch.randn(1, 3, size, size)
    typing = typed(net, x, group)
    return typing, size_to_use(net, typing, (x,), {})


@pytest.mark.parametrize(
    ("name", "size", "best"),
    [
        ("resnet18", 224, 225),
        ("resnet18", 225, 225),
        ("resnet18", 64, 65),
        ("mobilenetv3_small_100", 112, 97),
        ("convnext_atto", 230, 224),
        ("densenet121", 224, 221),
    ],
)
def test_the_nearest_aligned_size_is_found(name, size, best):
    net = timm.create_model(name, num_classes=3).eval()
    typing, chosen = found(net, size)
    assert chosen == best
    again, _ = found(net, chosen)
    assert not again.misaligned
    assert bool(typing.misaligned) == (size != best)


def test_a_model_of_one_size_gets_no_advice_that_it_refuses():
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=3).eval()
    assert found(net, 64)[1] == 64

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)
            self.head = nn.Linear(4 * 16 * 16, 3)

        def forward(self, x):
            assert x.shape[-1] == 32
            return self.head(self.conv(x).flatten(1))

    typing, chosen = found(Fixed(), 32)
    assert chosen is None
    assert fixes(typing, chosen)[0][3] == "blur-pool"


def test_conflicting_layers_have_no_size():
    net = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Identity(), nn.ReLU())

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.even, self.odd = net, nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, x):
            return self.even(x).mean((2, 3)) + self.odd(x).mean((2, 3))

    assert found(Both(), 20)[1] is None


def test_at_most_six_sizes_are_tried(monkeypatch):
    tried = []

    def counted(model, signature, inputs, kwargs):
        tried.append(inputs[0].shape)
        raise RuntimeError

    net = timm.create_model("resnet18", num_classes=3).eval()
    x = torch.randn(4, 3, 224, 224)
    typing = typed(net, x[:1], "C4")
    monkeypatch.setattr(advice, "propagate", counted)
    assert size_to_use(net, typing, (x,), {}) is None
    assert 0 < len(tried) <= 6
    assert all(shape[0] == 1 for shape in tried)


def test_every_cause_is_named_once_with_the_size():
    net = randomised(timm.create_model("resnet18", num_classes=3))
    typing, size = found(net, 224)
    lines = fixes(typing, size)
    assert lines[0] == (
        "conv1",
        "stride",
        "stride 2 on an even grid (224): the sampling lattice is not centred",
        "use 225, or blur-pool",
    )
    assert len({line[0] for line in lines}) == len(lines) == len(typing.misaligned)


def test_what_follows_an_untyped_node_is_not_blamed_for_it():
    class Behind(nn.Module):
        def forward(self, x):
            return torch.relu(x.cumsum(2)).mean((2, 3)) * 2

    typing, _ = found(Behind(), 8)
    assert len(typing.untyped) > 2
    assert [line[0] for line in fixes(typing, None)] == ["cumsum"]
