"""Vision models of transformers: their hooks stay theirs, and their layers are followed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from reference import relative
from torch import nn

import equiwrap as ew

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_labels": 3}
TOKENS = "b c h w -> {pooler_output: b k, last_hidden_state: _}"


def clip():
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL))


def siglip():
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL))


def aimv2():
    return transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**SMALL))


def convnextv2():
    config = transformers.ConvNextV2Config(image_size=64, **STAGES)
    return transformers.ConvNextV2ForImageClassification(config)


def segformer():
    heads = {"num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16}
    config = transformers.SegformerConfig(**STAGES, **heads)
    return transformers.SegformerForSemanticSegmentation(config)


@pytest.mark.parametrize(
    ("build", "signature", "side", "name", "tables"),
    [
        (clip, TOKENS, 32, "pooler_output", {"embeddings.position_embedding.weight"}),
        (siglip, TOKENS, 32, "pooler_output", {"embeddings.position_embedding.weight"}),
        (aimv2, TOKENS, 32, "pooler_output", {"embeddings.position_embedding.weight"}),
        (convnextv2, None, 64, "logits", set()),
    ],
)
def test_a_projected_model_is_exact_and_was_not(build, signature, side, name, tables):
    torch.manual_seed(0)
    model = build().double().eval()
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    for tensor in model.parameters():  # layer scales and position tables start at zero
        nn.init.normal_(tensor, std=0.3)
    with torch.no_grad():
        assert relative(model(x)[name], model(x.rot90(1, (2, 3)))[name]) > 1e-3
        soft = ew.equivariantize(model, "C4", signature, method="penalize", example=x)
        assert soft.equiwrap.label == "EXACT"
        assert tables <= {target.path for target in soft.equiwrap.targets}
        ew.project_(ew.unwrap(soft), "C4", signature, example=x)
        assert relative(model(x)[name], model(x.rot90(1, (2, 3)))[name]) < 1e-12
        assert model(x)[name].std() > 1e-6


def test_a_model_that_has_run_keeps_the_hooks_that_its_forward_needs():
    model, x = segformer().eval(), torch.randn(1, 3, 64, 64)
    model(x)  # transformers installs hooks now, which collect the hidden states
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    assert hooks > 0
    wrapped = ew.equivariantize(model, "C4")
    assert str(wrapped.equiwrap.signature) == "b c h w -> {logits: b c h w}"
    soft = ew.equivariantize(ew.unwrap(wrapped), "C4", method="penalize", example=x)
    assert soft.equiwrap.label == "MISALIGNED"
    assert len(soft.equiwrap.targets) > 100
    report = ew.audit(ew.unwrap(soft), "C4", x)
    assert report.class_ == "misaligned"
    assert {layer.status for layer in report.layers} == {"exact", "weights", "misaligned"}
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks


class Keeps(nn.Module):
    """A network that hears its own layers, by a method of its own or of what it holds."""

    def __init__(self, held):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.shelf = Shelf()
        keep = partial(self.shelf.put, "first") if held else self.put
        self.first.register_forward_hook(keep)

    def put(self, module, args, out):
        self.shelf.put("first", module, args, out)

    def forward(self, x):
        y = self.second(self.first(x).relu())
        return (y + self.shelf.kept.pop("first")).mean((2, 3))


class Shelf:
    """No module."""

    def __init__(self):
        self.kept = {}

    def put(self, name, module, args, out):
        self.kept[name] = out


@pytest.mark.parametrize("held", [False, True])
def test_what_a_model_hangs_on_itself_runs_in_its_copies(held):
    torch.manual_seed(0)
    model, x = Keeps(held).double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    soft = ew.equivariantize(model, "C4", method="penalize", example=x, hidden="trivial")
    assert soft.equiwrap.label == "EXACT"
    ew.project_(ew.unwrap(soft), "C4", example=x)
    assert relative(model(x), model(x.rot90(1, (2, 3)))) < 1e-12
    assert not model.shelf.kept


def test_what_a_user_hangs_on_a_model_hears_no_copy():
    model, x, heard = clip().eval(), torch.randn(2, 3, 32, 32), []
    model.register_forward_hook(lambda module, args, out: heard.append(1))
    model.embeddings.register_forward_pre_hook(lambda module, args: heard.append(2))
    soft = ew.equivariantize(model, "C4", TOKENS, method="penalize", example=x)
    assert not heard
    soft(x)
    assert sorted(heard) == [1, 2]


class Shifted(nn.Embedding):
    """A table whose first rows are reserved."""

    def forward(self, index):
        return super().forward(index + 2)


class Placed(nn.Module):
    """Patches with a learned place each."""

    def __init__(self, table):
        super().__init__()
        self.patches, self.table = nn.Conv2d(3, 4, 4, 4), table
        self.register_buffer("index", torch.arange(16))

    def forward(self, x):
        return (self.patches(x).flatten(2).mT + self.table(self.index)).relu().mean(1)


@pytest.mark.parametrize("kind", ["plain", "normed", "shifted", "parametrized"])
def test_tables_of_places_are_followed_or_left_and_never_wrong(kind):
    torch.manual_seed(0)
    table = Shifted(18, 4) if kind == "shifted" else nn.Embedding(16, 4)
    if kind == "normed":
        table.max_norm = 1.0
    if kind == "parametrized":
        nn.utils.parametrizations.weight_norm(table)
    model, x = Placed(table).double().eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    soft = ew.equivariantize(model, "C4", "b c h w -> b k", method="penalize", example=x)
    if soft.equiwrap.label != "EXACT":
        assert kind != "plain"
        return
    ew.project_(ew.unwrap(soft), "C4", "b c h w -> b k", example=x)
    assert relative(model(x), model(x.rot90(1, (2, 3)))) < 1e-12
