"""Snap and probe on whole models: exact where it says so, and what is broken is named."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from reference_types import probed, randomised, typed
from torch import nn

from equiwrap.graph import rules, snap
from equiwrap.graph.advice import fixes, size_to_use
from equiwrap.graph.kinds import Kind
from equiwrap.graph.snap import snap_and_probe

timm = pytest.importorskip("timm")

SLOW = pytest.mark.slow
ALIGNED = [
    ("resnet18", 65, {}),
    ("mobilenetv3_small_100", 65, {}),
    ("convnext_atto", 64, {}),
    ("test_vit", 64, {"img_size": 64}),
    ("test_efficientnet", 65, {}),
    ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 8}),
    ("mixer_s32_224", 64, {"img_size": 64}),
    pytest.param("resnet50", 65, {}, marks=SLOW),
    pytest.param("efficientnet_b0", 65, {}, marks=SLOW),
    pytest.param("vit_small_patch16_224", 64, {"img_size": 64}, marks=SLOW),
    pytest.param("coat_tiny", 64, {"img_size": 64}, marks=SLOW),
    pytest.param("densenet121", 61, {}, marks=SLOW),
    pytest.param("resnet50", 225, {}, marks=SLOW),
    pytest.param("cait_xxs24_224", 64, {"img_size": 64}, marks=SLOW),
]


def model(name, **kwargs):
    return randomised(timm.create_model(name, num_classes=7, **kwargs))


def noise(size):
    return torch.randn(1, 3, size, size)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize(("name", "size", "kwargs"), ALIGNED)
def test_aligned_models_are_exact_after_projection_and_not_before(
    name, size, kwargs, group, monkeypatch
):
    net, x = model(name, **kwargs), noise(size)
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    typing, found = probed(net, x, group)
    assert not typing.untyped
    assert not typing.misaligned
    assert found.label == "EXACT"
    assert max(e for k, e in found.errors.items() if not typing.sites[k].loose) < 1e-9
    assert found.output < 1e-12
    assert str(typing.output) == "b c"
    assert all(torch.equal(kept[key], value) for key, value in net.state_dict().items())
    monkeypatch.setattr(snap, "project_weights", lambda *_: [])
    before = snap_and_probe(net, typing, (x,), {})
    assert before.output > 1e-4
    assert before.label == "UNSOUND"
    first = before.failing[0]
    assert set(first.weights) & {*typing.kernels, *(path for path, _, _ in typing.tables)}


@pytest.mark.parametrize(("name", "group"), [("resnet18", "C2"), ("test_vit", "D2")])
def test_half_turns_and_flips_too(name, group):
    kwargs = {"img_size": 64} if "vit" in name else {}
    _, found = probed(model(name, **kwargs), noise(64 if kwargs else 65), group)
    assert found.label == "EXACT"


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["conv1", "maxpool", "layer2.0.conv1", "layer2.0.downsample.0"]),
        ("mobilenetv3_small_100", ["conv_stem", "blocks.0.0.conv_dw", "blocks.1.0.conv_dw"]),
    ],
)
def test_at_an_even_size_exactly_the_strided_layers_are_named(name, layers):
    net = model(name)
    typing, found = probed(net, noise(64), "C4")
    assert [site.name for site in typing.misaligned][: len(layers)] == layers
    strided = {
        key
        for key, m in net.named_modules()
        if isinstance(m, (nn.Conv2d, nn.MaxPool2d)) and m.stride not in (1, (1, 1))
    }
    assert {site.name for site in typing.misaligned} == strided
    assert found.label == "MISALIGNED"
    assert found.failing[0].name == layers[0]
    assert "stride 2 on an even grid (64)" in typing.misaligned[0].broken[0].reason


def test_one_sided_padding_is_named_and_an_odd_size_needs_none():
    net = model("tf_efficientnet_b0")
    typing, found = probed(net, noise(64), "C4")
    name, kind, reason, fix = fixes(typing, size_to_use(net, typing, (noise(64),), {}))[0]
    assert (name, kind) == ("conv_stem.pad", "padding")
    assert "0 pixels on one side and 1" in reason
    assert "65" in fix
    assert found.label == "MISALIGNED"


def test_odd_windows_are_named():
    net = model("swin_tiny_patch4_window7_224", img_size=56)
    typing, found = probed(net, noise(56), "C4")
    assert typing.untyped[0].why.kind == "odd window"
    assert "layers.0.blocks.1" in typing.untyped[0].name
    assert "even window" in fixes(typing, None)[0][3]
    assert found.label == "UNSOUND"


class Sinusoids(nn.Module):
    """A transformer's table, computed in the forward pass."""

    def __init__(self, where="forward"):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        angles = torch.outer(torch.arange(16.0), 0.3 ** torch.arange(4.0))
        table = torch.cat([angles.sin(), angles.cos()], 1)[None]
        if where == "buffer":
            self.register_buffer("table", table)
        elif where == "parameter":
            self.table = nn.Parameter(table)
        self.where = where
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).mT
        if self.where == "forward":
            angles = torch.outer(torch.arange(16.0), 0.3 ** torch.arange(4.0)).to(x)
            table = torch.cat([angles.sin(), angles.cos()], 1)[None]
        else:
            table = self.table
        return self.head(torch.relu(tokens + table).mean(1))


@pytest.mark.parametrize("where", ["forward", "buffer"])
def test_computed_position_tables_are_named(where):
    typing, found = probed(Sinusoids(where).eval(), noise(16), "C4")
    assert typing.untyped[0].why.kind == "position table"
    assert typing.untyped[0].name == "add"
    assert found.label != "EXACT"


def test_learned_position_tables_are_projected():
    typing, found = probed(Sinusoids("parameter").eval(), noise(16), "D4")
    assert [path for path, _, _ in typing.tables] == ["table"]
    assert found.label == "EXACT"


def test_a_learned_table_that_is_resized_is_projected_where_it_lies():
    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 3, 5, 5))

        def forward(self, x):
            grown = nn.functional.interpolate(self.table, x.shape[-2:], mode="bicubic")
            return torch.relu(x + grown).mean((2, 3))

    typing, found = probed(Resized(), noise(9), "D4")
    assert typing.tables[0][0] == "table"
    assert found.label == "EXACT"


# -- teeth -----------------------------------------------------------------------------------------


def test_a_rule_that_lies_is_caught_with_the_node_named(monkeypatch):
    class Lower(nn.Module):
        def forward(self, x):
            return torch.relu(torch.tril(x) + x).mean((2, 3))

    typing, found = probed(Lower(), noise(8), "C4")
    assert "tril" in typing.untyped[0].why.reason
    monkeypatch.setitem(rules.RULES, "tril", lambda call: call.kind())
    typing, found = probed(Lower(), noise(8), "C4")
    assert found.label == "UNSOUND"
    assert found.failing[0].name == "tril"


def test_a_rule_that_gives_the_wrong_type_is_caught(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1), nn.Flatten(2), nn.ReLU())

    def lie(call):
        b, c, h, w = call.kind().axes
        return Kind((b, c, ((*w[0], *h[0]),)))

    assert probed(net, noise(6), "C2")[1].label == "EXACT"
    monkeypatch.setitem(rules.RULES, "flatten", lie)
    monkeypatch.setitem(rules.LAYERS, nn.Flatten, lie)
    _, found = probed(net, noise(6), "C4")
    assert found.label == "UNSOUND"
    assert found.failing[0].name.startswith("1")


@pytest.mark.parametrize("path", ["conv1.weight", "layer3.0.conv2.weight"])
def test_a_kernel_that_was_left_out_is_caught_at_its_layer(path):
    net, x = model("resnet18"), noise(65)
    typing = typed(net, x, "C4")
    typing.kernels.remove(path)
    found = snap_and_probe(net, typing, (x,), {})
    assert found.label == "UNSOUND"
    assert found.failing[0].name == path.removesuffix(".weight")


def test_a_table_that_was_left_out_is_caught_at_the_sum():
    net, x = model("test_vit", img_size=64), noise(64)
    typing = typed(net, x, "C4")
    typing.tables = [table for table in typing.tables if table[0] != "pos_embed"]
    found = snap_and_probe(net, typing, (x,), {})
    assert found.label == "UNSOUND"
    assert "pos_embed" in found.failing[0].weights


def test_a_buffer_with_a_direction_is_caught():
    class Tilted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("gain", torch.rand(8, 8))

        def forward(self, x):
            return (x * self.gain).mean((2, 3))

    typing, found = probed(Tilted(), noise(8), "C4")
    assert typing.untyped[0].why.kind == "position table"
    assert found.label != "EXACT"
    forged = dataclasses.replace(
        typing.sites["", 0, "mul"],
        why=None,
        kind=Kind.of(typing.signature.inputs[0][1], (2, 3, 8, 8)),
    )
    typing.sites["", 0, "mul"] = forged
    found = snap_and_probe(Tilted(), typing, (noise(8),), {})
    assert found.failing[0].name == "mul"


def test_a_shared_module_is_one_module():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.SiLU())
            self.two = self.one

        def forward(self, x):
            return self.two(self.one(x)).sum((2, 3))

    typing, found = probed(Twice(), noise(8), "D4")
    assert typing.kernels == {"one.0.weight"}
    assert found.label == "EXACT"


def test_code_that_asks_for_single_precision_is_probed_in_double():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(x.float()).float().softmax(1).mean((2, 3))

    _, found = probed(Single(), noise(8), "D4")
    assert found.label == "EXACT"
    assert found.output < 1e-14
