"""Hidden channels that carry the regular representation: exact after projection, and not before."""

from __future__ import annotations

import copy

import pytest
import torch
from hidden_toys import TOYS, Do, conv, pooled
from reference_types import randomised, turns
from torch import nn

import equiwrap as ew
from equiwrap.errors import SignatureError
from equiwrap.graph import snap
from equiwrap.graph.hidden import Hidden, channels_of
from equiwrap.graph.layout import lay_out
from equiwrap.graph.projections import Averaged
from equiwrap.groups import parse_group
from equiwrap.reynolds import Fields, Kernels, Orbits, fields
from equiwrap.signature import Signature

SLOW = pytest.mark.slow
VIT = {"img_size": 64}
WINDOWS = {"img_size": 64, "window_size": 8}
SHORT = {**WINDOWS, "depths": (2, 2), "num_heads": (3, 6), "embed_dim": 48}


def laid(net, x, group="C4", pattern="b c h w -> b k", hidden="regular"):
    inputs = x if isinstance(x, tuple) else (x,)
    return lay_out(net, Signature.parse(pattern, parse_group(group)), inputs, {}, hidden)


def snapped(net, layout):
    """A float64 copy with every projection applied: what the user is left with."""
    twin = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        for path, projector in layout.projectors.items():
            projector.lerp_(
                twin.get_parameter(path) if _learned(twin, path) else twin.get_buffer(path), 1.0
            )
    return twin


def _learned(net, path):
    return path in dict(net.named_parameters(remove_duplicate=False))


def moved(layout):
    """The sources whose channels move, with their leads."""
    hidden = layout.typing.hidden
    found = {
        atom
        for site in layout.typing.sites.values()
        for axis in getattr(site.kind, "axes", ())
        for part in channels_of(axis)
        for atom in part.origin
    }
    return {path: hidden.leads.get(path, 1) for path in hidden.sizes if path in found}


def invariance(net, x, group):
    """*max_g ‖f(g x) − f(x)‖ / ‖f(x)‖* by rot90 and flip alone."""
    with torch.no_grad():
        here = net(x)
        return max(float((net(gx) - here).norm() / here.norm()) for gx in turns(x, group))


# -- whole models ----------------------------------------------------------------------------------

timm = pytest.importorskip("timm")
MODELS = [
    ("resnet18", 65, {}, 20),
    ("convnext_atto", 64, {}, 28),
    ("mobilenetv3_small_100", 65, {}, 35),
    ("vit_tiny_patch16_224", 64, VIT, 49),
    ("swin_tiny_patch4_window7_224", 64, SHORT, 17),
    pytest.param("swin_tiny_patch4_window7_224", 64, WINDOWS, 52, marks=SLOW),
    ("regnetx_002", 65, {}, 44),
    ("mixer_s32_224", 64, VIT, 17),
    ("efficientnet_b0", 65, {}, 50),
    pytest.param("resnet18", 225, {}, 20, marks=SLOW),
    pytest.param("resnet50", 65, {}, 50, marks=SLOW),
    pytest.param("resnet50", 225, {}, 50, marks=SLOW),
    pytest.param("resnext50_32x4d", 65, {}, 45, marks=SLOW),
    pytest.param("vit_small_patch16_224", 64, VIT, 49, marks=SLOW),
    pytest.param("densenet121", 61, {}, 100, marks=SLOW),
    pytest.param("vgg11_bn", 64, {}, 10, marks=SLOW),
]


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize(("name", "size", "kwargs", "count"), MODELS)
def test_models_with_regular_channels_are_exact_after_projection_and_not_before(
    name, size, kwargs, count, group
):
    net = randomised(timm.create_model(name, num_classes=7, **kwargs))
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    x = torch.randn(1, 3, size, size)
    layout = laid(net, x, group)
    errors = layout.probed.errors
    assert layout.label == "EXACT"
    assert not layout.typing.untyped
    assert layout.probed.output <= 1e-12
    assert max(e for k, e in errors.items() if not layout.typing.sites[k].loose) <= 1e-9
    assert len(moved(layout)) >= count
    assert all(torch.equal(kept[key], value) for key, value in net.state_dict().items())
    wide = torch.randn(2, 3, size, size, dtype=torch.float64)
    assert invariance(snapped(net, layout), wide, group) <= 1e-12
    assert invariance(copy.deepcopy(net).double(), wide, group) > 1e-4


class SlimVGG(nn.Sequential):
    """The structure of vgg11_bn at an eighth of its width: pools, kernels as large as the grid."""

    def __init__(self):
        widths, layers, last = [8, 0, 16, 0, 32, 32, 0, 64, 64, 0, 64, 64, 0], [], 3
        for w in widths:
            layers += [conv(last, w), nn.BatchNorm2d(w), nn.ReLU()] if w else [nn.MaxPool2d(2, 2)]
            last = w or last
        head = [nn.Conv2d(64, 128, 2), nn.ReLU(), nn.Dropout(), nn.Conv2d(128, 128, 1), nn.ReLU()]
        super().__init__(*layers, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 7))


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_the_structure_of_vgg_is_exact(group):
    net = randomised(SlimVGG())
    layout = laid(net, torch.randn(1, 3, 64, 64), group)
    assert layout.label == "EXACT"
    wide = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert invariance(snapped(net, layout), wide, group) <= 1e-12
    assert invariance(copy.deepcopy(net).double(), wide, group) > 1e-4


@pytest.mark.parametrize(
    ("name", "size", "fits"),
    [
        ("resnet18", 64, 65),
        ("mobilenetv3_small_100", 64, 65),
        pytest.param("resnet50", 224, 225, marks=SLOW),
        pytest.param("efficientnet_b0", 224, 225, marks=SLOW),
    ],
)
def test_at_even_sizes_models_are_misaligned_and_the_right_size_is_proposed(name, size, fits):
    net = randomised(timm.create_model(name, num_classes=7))
    layout = laid(net, torch.randn(1, 3, size, size))
    assert layout.label == "MISALIGNED"
    assert max(layout.probed.errors.values()) > 1e-2
    assert any(str(fits) in fix for _, _, _, fix in layout.broken)
    assert laid(net, torch.randn(1, 3, fits, fits)).label == "EXACT"


def test_heads_are_found_as_lead_of_qkv():
    net = timm.create_model("vit_tiny_patch16_224", num_classes=7, **VIT)  # 3 heads: q, k, v
    leads = moved(laid(net, torch.randn(1, 3, 64, 64)))
    qkv = {path: lead for path, lead in leads.items() if "qkv" in path}
    assert len(qkv) == 12
    assert set(qkv.values()) == {9}


# -- small networks --------------------------------------------------------------------------------


ONLY_REGULAR = ["pixel_shuffle"]  # its channels are pixels, which do not rest


@pytest.mark.parametrize("name", TOYS)
def test_small_networks_are_exact_in_both_modes_under_four_groups(name):
    toy = TOYS[name]
    net = randomised(toy.build())
    x = torch.randn(1, toy.channels, toy.side, toy.side)
    for group in ("C4", "D4", "D2", "C2"):
        for mode in ("trivial", "regular")[name in ONLY_REGULAR :]:
            layout = laid(net, x, group, toy.pattern, mode)
            assert layout.label == "EXACT", (group, mode, layout.sentence())
            assert layout.probed.output <= 1e-12
            if mode == "trivial":
                assert not any(isinstance(p, Fields) for p in layout.projectors.values())
    pair = Signature.parse(toy.pattern, parse_group("C4"))
    wide = torch.randn(2, toy.channels, toy.side, toy.side, dtype=torch.float64)
    twin = snapped(net, laid(net, x, "C4", toy.pattern))
    after = ew.measure.equivariance_error(twin, "C4", wide, signature=pair)
    before = ew.measure.equivariance_error(net.double(), "C4", wide, signature=pair)
    assert after.value <= 1e-12
    assert before.value > 1e-4


RESTS = ["depth multiplier", "local response", "every second", "sort", "roll", "cumulative sum"]
RESTS += ["attention_layer", "encoder_layer", "recurrent", "cell", "flip", "a ramp of gains"]


@pytest.mark.parametrize("name", RESTS)
def test_what_follows_an_order_of_channels_lets_its_source_rest_and_says_why(name):
    toy = TOYS[name]
    layout = laid(toy.build().eval(), torch.randn(1, 3, toy.side, toy.side))
    hidden = layout.typing.hidden
    assert 0 in hidden.leads.values()
    assert all(hidden.reasons[path] for path, lead in hidden.leads.items() if lead == 0)


CUTS = {"chunk": 2, "glu": 2, "halves": 2, "grouped": 4, "group norm": 4, "attention": 6}
CUTS |= {"uneven split": 4, "maxout across fields": 2, "channel shuffle": 1}


@pytest.mark.parametrize(("name", "lead"), CUTS.items())
def test_where_channels_are_cut_the_cut_stands_in_front(name, lead):
    toy = TOYS[name]
    leads = moved(laid(toy.build().eval(), torch.randn(1, 3, toy.side, toy.side)))
    assert lead in leads.values()


def test_the_large_weights_get_slices_and_not_tables_of_labels():
    net = timm.create_model("resnet18", num_classes=7)
    layout = laid(net, torch.randn(1, 3, 65, 65))
    for path, projector in layout.projectors.items():
        if path.endswith("weight") and net.get_parameter(path).dim() > 1:
            assert isinstance(projector, Fields), path
    trivial = laid(net, torch.randn(1, 3, 65, 65), hidden="trivial")
    kinds = {type(p) for p in trivial.projectors.values()}
    assert kinds == {Kernels}


def test_projections_are_projections_whose_rank_is_their_trace():
    net = TOYS["densely"].build()
    layout = laid(net, torch.randn(1, 3, 9, 9), "D4")
    field = laid(TOYS["field"].build(), torch.randn(1, 3, 9, 9), "D4", "b c h w -> b v h w")
    found = {**layout.projectors, **{f"field.{k}": p for k, p in field.projectors.items()}}
    assert {type(p) for p in found.values()} >= {Fields, Orbits, Averaged}
    sizes = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    sizes |= {f"field.{k}": v for k, v in TOYS["field"].build().named_parameters()}
    for path, projector in found.items():
        if sizes[path].numel() < 600:
            unit = torch.eye(sizes[path].numel(), dtype=torch.float64)
            p = torch.stack([projector(row.reshape(sizes[path].shape)).flatten() for row in unit])
            assert (p - p.mT).abs().max() < 1e-14, path
            assert (p @ p - p).abs().max() < 1e-14, path
            assert abs(float(p.trace()) - projector.rank) < 1e-9, path


# -- letters and mappings --------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["C2", "C4", "D1", "D2", "D4"])
@pytest.mark.parametrize("mode", ["trivial", "regular"])
@pytest.mark.parametrize(
    "pattern", ["b r h w -> b r h w", "b r h w -> b (2 r) h w", "b r h w -> b r"]
)
def test_signatures_may_ask_for_regular_channels(group, mode, pattern):
    order = parse_group(group).order
    out = order * (2 if "2 r" in pattern else 1)
    net = nn.Sequential(conv(order, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, out))
    if pattern.endswith("b r"):
        net = nn.Sequential(*net, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = randomised(net)
    layout = laid(net, torch.randn(1, order, 9, 9), group, pattern, mode)
    assert layout.label == "EXACT"
    x = torch.randn(2, order, 9, 9, dtype=torch.float64)
    signature = Signature.parse(pattern, parse_group(group))
    after = ew.measure.equivariance_error(snapped(net, layout), group, x, signature=signature)
    before = ew.measure.equivariance_error(net.double(), group, x, signature=signature)
    assert after.value < 1e-12
    assert before.value > 1e-2


def test_two_inputs_meet_in_one_network():
    net = Do(
        lambda m, x, y: m.h(pooled(m.a(x).relu() * m.b(y))),
        a=conv(3, 16), b=conv(2, 16), h=nn.Linear(16, 5),
    )  # fmt: skip
    inputs = torch.randn(1, 3, 9, 9), torch.randn(1, 2, 9, 9)
    layout = laid(net, inputs, "D4", "b c h w, b v h w -> b k")
    assert layout.label == "EXACT"
    assert isinstance(layout.projectors["b.weight"], Averaged)


def test_a_mapping_types_the_layers_that_it_names_and_no_others():
    net = nn.Sequential(
        conv(3, 16), nn.ReLU(), conv(16, 24), nn.ReLU(), conv(24, 16), nn.Flatten(2)
    )
    hidden = Hidden(parse_group("C4"), "trivial", {"0": "(4 r)", r"[23]": "(r 2 3)"})
    layout = laid(net, torch.randn(1, 3, 9, 9), pattern="b c h w -> b c (h w)", hidden=hidden)
    assert layout.label == "EXACT"
    assert [str(hidden.given[f"{i}.weight"][0][0].size) for i in (0, 2)] == ["4", "4"]
    assert set(moved(layout)) == {"0.weight", "2.weight"}


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"0": "(5 r)"}, "does not make the 16 channels of 0"),
        ({"conv7": "(4 r)"}, "meets no layer that makes channels"),
        ({"[": "(4 r)"}, "no regular expression"),
        ({"0": "(4 r"}, "hidden='\\(4 r' at 0"),
        ({"0": "(8 v)"}, "the network does not keep"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_with_a_sentence(mapping, words):
    net = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 2))
    with pytest.raises(SignatureError, match=words):
        laid(
            net,
            torch.randn(1, 3, 9, 9),
            pattern="b c h w -> b k h w",
            hidden=Hidden(parse_group("C4"), "trivial", mapping),
        )


# -- what is not exact says so ---------------------------------------------------------------------


def test_a_signature_that_the_network_cannot_keep_is_not_called_exact():
    net = randomised(nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 2), nn.BatchNorm2d(2)))
    layout = laid(net, torch.randn(1, 3, 9, 9), pattern="b c h w -> b v h w")
    assert layout.label == "UNSOUND"
    assert "signature says b v h w" in layout.sentence() or "normalises" in layout.sentence()


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("b c h w -> b v", "5 entries, v needs 2"),
        ("b c h w -> b k h w", "4 axes"),
        ("b c h w -> b k, b k", "promises"),
        ("b c h w -> {a: b k}", "promises"),
    ],
)
def test_outputs_of_other_sizes_are_refused(pattern, words):
    net = TOYS["plain"].build()
    with pytest.raises(SignatureError, match=words):
        laid(net, torch.randn(1, 3, 9, 9), pattern=pattern)


def test_kernels_that_are_not_square_are_misaligned_in_regular_channels_too():
    net = nn.Sequential(
        nn.Conv2d(3, 16, (3, 1), padding=(1, 0)),
        nn.ReLU(),
        nn.Conv2d(16, 8, (1, 3), padding=(0, 1)),
    )
    layout = laid(net, torch.randn(1, 3, 9, 9), pattern="b c h w -> b c h w")
    assert layout.label == "MISALIGNED"
    assert laid(net, torch.randn(1, 3, 9, 9), "D2", "b c h w -> b c h w").label == "EXACT"


@pytest.mark.parametrize(
    "how", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_weights_that_are_computed_are_named_as_such(how):
    net = TOYS["plain"].build()
    how(net[2])
    layout = laid(net, torch.randn(1, 3, 9, 9))
    assert layout.label == "UNSOUND"
    assert "computes its weight from other parameters" in layout.sentence()


# -- teeth -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["running_mean", "running_var", "weight", "bias"])
def test_forgetting_a_statistic_of_a_normalisation_is_caught(path, monkeypatch):
    net = randomised(TOYS["batch norm"].build())
    assert laid(net, torch.randn(1, 3, 9, 9)).label == "EXACT"
    whole = snap.projectors

    def forgetful(model, typing):
        return {k: p for k, p in whole(model, typing).items() if k != f"1.{path}"}

    monkeypatch.setattr(snap, "projectors", forgetful)
    layout = laid(net, torch.randn(1, 3, 9, 9))
    assert layout.label == "UNSOUND"
    assert layout.probed.failing[0].name == "1"
    assert layout.probed.output > 1e-6


def test_copies_in_another_order_than_the_layout_are_caught(monkeypatch):
    net = TOYS["plain"].build()

    def swapped(self, weight, t):
        out = self.out.before * len(parse_group("C4").elements()) if self.out.moved else 0
        weight.copy_(self(weight))
        if out and weight.dim() == 4:
            weight[:2] = weight[:2].flip(0)

    monkeypatch.setattr(Fields, "lerp_", swapped)
    assert laid(net, torch.randn(1, 3, 9, 9)).label == "UNSOUND"


def test_kernels_turned_the_wrong_way_are_caught(monkeypatch):
    net = TOYS["plain"].build()
    honest = fields._moved
    monkeypatch.setattr(fields, "_moved", lambda x, turn, way: honest(x, turn, 1 - way))
    assert laid(net, torch.randn(1, 3, 9, 9)).label == "UNSOUND"
