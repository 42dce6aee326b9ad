"""The front door of `method="penalize"` and `method="project"`: what it does, what it refuses."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.errors import (
    CaptureError,
    EquivarianceError,
    EquiwrapWarning,
    NoEffectWarning,
    SignatureError,
)

GRID = "b c h w -> b c h w"
METHODS = ["penalize", "project"]


def network(width=16):
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 5),
    )  # fmt: skip
    with torch.no_grad():
        net[1].running_mean.normal_(0, 0.1)
        net[1].weight.normal_()
    return net.eval()


@pytest.fixture
def net():
    return network()


@pytest.fixture
def x():
    return torch.randn(4, 3, 9, 9)


def soft(net, x, method="project", group="C4", signature=None, **options):
    return ew.equivariantize(net, group, signature, method=method, example=x, **options)


def error(model, x, group="C4"):
    return ew.measure.equivariance_error(model, group, x).value


def same(a, b):
    return all(torch.equal(v, b[k]) for k, v in a.items())


def kept(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


# -- as written ------------------------------------------------------------------------------------


def test_the_lines_of_the_usage_run_as_written(net, x):
    criterion, y = nn.CrossEntropyLoss(), torch.randint(5, (4,))
    a = ew.equivariantize(net, "C4", method="penalize", penalty=1e-2, hidden="trivial")
    loss = criterion(a(x), y) + a.equiwrap.penalty()
    loss.backward()
    optimizer = torch.optim.AdamW(a.parameters(), 1e-3)
    decay = ew.EquivarianceDecay(a, optimizer, strength=1e-2, every=4)
    first = a.equiwrap.penalty().detach()
    for _ in range(4):
        optimizer.step()
    assert decay is not None
    assert a.equiwrap.penalty() < first
    c = ew.equivariantize(net, "C4", method="project", example=x)
    assert error(c, x) < 1e-5
    c = ew.equivariantize(net, "C4", method="project", softness=0.2)
    c.equiwrap.certificate(x)
    plain = c.equiwrap.fold()
    assert not hasattr(plain, "equiwrap")
    assert ew.project_(net, "D4", example=x) is net
    assert error(net, x, "D4") < 1e-5


@pytest.mark.parametrize("group", ["C2", "C4", "D1", "D2", "D4"])
@pytest.mark.parametrize("hidden", ["trivial", "regular"])
def test_a_projected_model_is_equivariant_and_the_plain_one_is_not(net, x, group, hidden):
    wrapped = soft(net.double(), x.double(), group=group, hidden=hidden)
    assert wrapped.equiwrap.label == "EXACT"
    assert error(wrapped, x.double(), group) < 1e-12
    assert error(net, x.double(), group) > 1e-3


def test_penalised_models_run_their_own_forward_and_the_penalty_falls(net, x):
    wrapped = soft(net, x, "penalize", penalty=10.0)
    assert torch.equal(wrapped(x), net(x))
    first = wrapped.equiwrap.penalty()
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.02)
    for _ in range(20):
        optimizer.zero_grad()
        wrapped.equiwrap.penalty().backward()
        optimizer.step()
    assert wrapped.equiwrap.penalty() < 1e-3 * first


def test_the_penalty_is_the_distance_to_the_folded_weights(net, x):
    wrapped = soft(net, x, "penalize", penalty=0.5)
    folded = wrapped.equiwrap.fold(0.0)
    pairs = zip(net.parameters(), folded.parameters(), strict=True)
    by_hand = 0.5 * sum((a - b).square().sum() for a, b in pairs)
    torch.testing.assert_close(wrapped.equiwrap.penalty(), by_hand)


def test_the_dial_of_the_weights_goes_from_exact_to_plain(net, x):
    wrapped = soft(net, x, hidden="regular")
    found = []
    for b in (0.0, 0.25, 0.5, 1.0):
        wrapped.equiwrap.set_softness(b)
        found.append(error(wrapped, x))
    assert found[0] < 1e-5
    assert found == sorted(found)
    assert torch.equal(wrapped(x), net(x))
    with pytest.raises(SignatureError, match="between 0"):
        wrapped.equiwrap.set_softness(1.5)


def test_training_goes_through_the_projection_and_stays_exact(net, x):
    wrapped = soft(net, x, hidden="regular").train()
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
    before = wrapped.eval()(x).detach()
    for _ in range(3):
        optimizer.zero_grad()
        wrapped.train()(x).square().mean().backward()
        optimizer.step()
    wrapped.eval()
    assert (wrapped(x) - before).abs().max() > 1e-3
    assert error(wrapped, x) < 1e-5
    assert error(ew.unwrap(wrapped), x) > 1e-3


# -- reports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_report_says_what_is_pulled_how_far_and_what_is_left(net, x, method):
    report = soft(net, x, method, hidden="regular").equiwrap.report()
    text = str(report)
    assert report.label == "EXACT"
    assert f"method     {method}" in text
    assert "EXACT once every target is projected" in text
    assert "9 tensors" in text
    assert "0.weight  r = " in text
    assert "1 × equivariant already (P = 1), as 7.bias" in text
    assert "Hidden channels: regular" in text
    assert 0.05 < report.ratio < 1
    paths = {e.path for e in report.energies} | {path for path, _ in report.skipped}
    assert paths >= {name for name, _ in net.named_parameters()}


def test_random_weights_are_as_far_as_the_report_says_of_random_ones(x):
    report = soft(network(64), x, "penalize", hidden="regular").equiwrap.report()
    large = [e for e in report.energies if e.path == "3.weight"]
    assert abs(large[0].ratio - (1 - large[0].share)) < 0.01
    assert abs(large[0].share - 0.25) < 1e-6


def test_the_choice_of_hidden_channels_is_explained(net, x):
    said = {
        "auto": "trivial, since the weights are taken as they are",
        "trivial": "trivial, as asked for",
        "regular": "regular, as asked for",
    }
    for hidden, words in said.items():
        assert words in str(soft(net, x, hidden=hidden).equiwrap.report())
    assert "regular where |G| divides them" in str(soft(net, x, "penalize").equiwrap.report())
    asked = soft(net, x, hidden={"0": "(4 r)"}).equiwrap
    assert "as hidden= says" in str(asked.report())
    assert "0.bias" in {t.path for t in asked.targets}


def test_a_misaligned_model_may_be_penalised_and_says_what_stays(x):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
    images = torch.randn(2, 3, 16, 16)
    wrapped = soft(net, images, "penalize", signature=GRID)
    assert wrapped.equiwrap.label == "MISALIGNED"
    assert "sample off their centre" in str(wrapped.equiwrap.report())
    assert "17" in str(wrapped.equiwrap.report())
    partly = soft(net, images, softness=0.3, signature=GRID)
    assert partly.equiwrap.label == "MISALIGNED"


def test_print_graph_names_the_weights(net, x, capsys):
    text = soft(net, x, softness=0.25).equiwrap.print_graph()
    assert "0.weight = P W + 0.25 (W − P W)" in text
    assert capsys.readouterr().out.strip() == text.strip()


# -- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "paths"),
    [
        ("0", ["0.weight", "0.bias"]),
        (r"\d\.weight", ["0.weight", "1.weight", "3.weight", "7.weight"]),
        (["0", r"3\.bias"], ["0.weight", "0.bias", "3.bias"]),
        (lambda module, path: isinstance(module, nn.Linear), ["7.weight"]),
    ],
)
def test_targets_are_names_lists_or_a_filter(net, x, targets, paths):
    handle = soft(net, x, "penalize", targets=targets, hidden="regular").equiwrap
    assert [t.path for t in handle.targets] == paths
    assert "left out by targets=" in str(handle.report())


def test_nothing_to_pull_warns():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    x = torch.randn(2, 3, 9, 9)
    with pytest.warns(NoEffectWarning, match="finds nothing to pull"):
        soft(net, x, "penalize", signature=GRID, hidden="trivial")


def test_frozen_weights_are_penalised_without_effect_and_projected_with(net, x):
    net.requires_grad_(False)
    with pytest.warns(NoEffectWarning, match="requires a gradient"):
        assert float(soft(net, x, "penalize").equiwrap.penalty()) == 0
    assert error(soft(net, x), x) < 1e-5


# -- refusals --------------------------------------------------------------------------------------

REFUSED = [
    ({"hidden": "regulr"}, "one of auto, trivial, regular, matched"),
    ({"hidden": "matched"}, "give calibrate="),
    ({"hidden": {"0": "(5 r)"}}, "does not make the 16 channels of 0"),
    ({"hidden": {"conv": "(4 r)"}}, "meets no layer"),
    ({"frame": "whole"}, "frame= came beside"),
    ({"mask": "mask"}, "mask= came beside"),
    ({"chunk": 2}, "options belong to frames"),
    ({"method": "penalize", "targets": "conv1"}, "meets no layer and no weight"),
    ({"method": "penalize", "targets": "["}, "no regular expression"),
    ({"method": "penalize", "penalty": -1.0}, "a strength is 0 or more"),
    ({"method": "penalize", "penalty": float("nan")}, "a strength is 0 or more"),
    ({"method": "penalize", "softness": 0.2}, "is a dial of the weights"),
    ({"method": "project", "penalty": 1.0}, 'use method="penalize"'),
    ({"method": "project", "softness": 2.0}, "between 0"),
    ({"signature": "b c h w -> b v"}, "v needs 2"),
    ({"signature": "b c h w -> b k h w"}, "4 axes"),
    ({"example": torch.randn(2, 3, 8, 9)}, "square grid"),
    ({"example": torch.randn(0, 3, 9, 9)}, "no samples"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=[str(o) for o, _ in REFUSED])
def test_what_does_not_fit_gets_a_sentence_and_leaves_the_model_alone(net, x, options, words):
    before = kept(net)
    with pytest.raises(SignatureError, match=words):
        soft(net, **{"x": x, "signature": "b c h w -> b k", **_renamed(options)})
    assert same(before, net.state_dict())
    assert not hasattr(net, "equiwrap")


def _renamed(options):
    return {"x" if k == "example" else k: v for k, v in options.items()}


@pytest.mark.parametrize("group", ["SO(2)", "O(2)", "T(2)", "C8", "C3"])
def test_groups_that_do_not_turn_pixels_into_pixels_are_refused(net, x, group):
    with pytest.raises(CaptureError, match=r"no such group|finite"):
        soft(net, x, group=group)


def test_meta_lazy_and_compiled_models_are_refused(net, x):
    with pytest.raises(CaptureError, match="meta device"):
        soft(copy.deepcopy(net).to("meta"), x, signature="b c h w -> b k")
    with pytest.raises(CaptureError, match="no shape yet"):
        soft(nn.Sequential(nn.LazyConv2d(8, 3)), x)
    with pytest.raises(CaptureError, match="wrap before compiling"):
        soft(torch.compile(net), x)


def test_other_models_need_an_example():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(SignatureError, match="give example=x"):
        ew.equivariantize(net, "C2", "b n c -> b n c", method="project")


def test_average_refuses_the_arguments_of_the_weights(net):
    for options in ({"penalty": 1.0}, {"hidden": "regular"}, {"targets": "0"}):
        with pytest.raises(SignatureError, match="leaves the weights alone"):
            ew.equivariantize(net, "C4", **options)


def test_a_model_that_would_not_be_exact_is_refused_with_every_node_and_its_fix():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
    with pytest.raises(EquivarianceError) as found:
        soft(net, torch.randn(2, 3, 16, 16), signature=GRID)
    text = str(found.value)
    assert "MISALIGNED" in text
    assert "2 nodes are in the way" in text
    for name, grid in (("0", 16), ("2", 8)):
        assert f"\n  {name}: stride 2 on an even grid ({grid})" in text
    assert text.count("use 17") == 2
    assert 'method="average" is exact for any model' in text


def test_an_output_that_cannot_be_followed_has_no_error_to_tell():
    with pytest.raises(EquivarianceError) as found:
        soft(nn.Flatten(), torch.randn(2, 3, 8, 8), signature="b c h w -> b k")
    assert "UNSOUND under C4" in str(found.value)
    assert "its output cannot be followed. 1 node is in the way:\n" in str(found.value)
    assert "nan" not in str(found.value)


def test_an_exact_model_needs_all_of_its_weights(net, x):
    with pytest.raises(EquivarianceError, match="targets= came beside"):
        soft(net, x, targets="0")
    assert soft(net, x, targets="0", softness=0.5).equiwrap.targets


# -- project_ --------------------------------------------------------------------------------------


def test_project_in_place_is_exact_keeps_the_class_and_changes_nothing_twice(net, x):
    assert error(net, x, "D4") > 1e-3
    cls, keys = type(net), list(net.state_dict())
    ew.project_(net, "D4", example=x, hidden="regular")
    assert type(net) is cls
    assert list(net.state_dict()) == keys
    assert error(net, x, "D4") < 1e-5
    before = kept(net)
    ew.project_(net, "D4", example=x, hidden="regular")
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("images", "error"), [((2, 3, 16, 16), EquivarianceError), ((2, 3, 8, 9), SignatureError)]
)
def test_project_in_place_leaves_the_weights_when_it_refuses(images, error):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2, 1))
    before = kept(net)
    with pytest.raises(error):
        ew.project_(net, "C4", GRID, example=torch.randn(images))
    assert same(before, net.state_dict())


def test_project_in_place_goes_part_of_the_way(net, x):
    exact, half = copy.deepcopy(net), copy.deepcopy(net)
    ew.project_(exact, "C4", example=x)
    ew.project_(half, "C4", example=x, softness=0.5)
    middle = (net[0].weight + exact[0].weight) / 2
    torch.testing.assert_close(half[0].weight, middle)


# -- the model stays itself ------------------------------------------------------------------------


@pytest.mark.parametrize("b", [0.0, 0.3, 1.0])
def test_a_folded_copy_is_plain_and_gives_the_very_same_bits(net, x, b):
    wrapped = soft(net, x, softness=b or None, hidden="regular")
    wrapped.equiwrap.set_softness(b)
    folded = wrapped.equiwrap.fold()
    assert torch.equal(folded(x), wrapped(x))
    assert type(folded) is type(net)
    assert not hasattr(folded, "equiwrap")
    assert list(folded.state_dict()) == list(net.state_dict())
    network().load_state_dict(folded.state_dict(), strict=True)
    assert not torch.equal(folded(x), net(x)) or b == 1


def test_wrapped_models_keep_keys_class_parameters_and_load_strictly(net, x):
    wrapped = soft(net, x)
    assert isinstance(wrapped, nn.Sequential)
    assert list(wrapped.state_dict()) == list(net.state_dict())
    assert all(a is b for a, b in zip(wrapped.parameters(), net.parameters(), strict=True))
    wrapped.load_state_dict(network().state_dict(), strict=True)
    assert error(wrapped, x) < 1e-5
    assert ew.unwrap(wrapped) is net


@pytest.mark.parametrize("method", METHODS)
def test_copies_and_pickles_are_wrapped_alike(net, x, method):
    wrapped = soft(net, x, method, probes=True)
    for twin in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert torch.equal(twin(x), wrapped(x))
        assert twin.equiwrap.config == wrapped.equiwrap.config
        assert [t.path for t in twin.equiwrap.targets] == [t.path for t in wrapped.equiwrap.targets]
        with torch.no_grad():
            twin[0].weight.zero_()
    assert wrapped[0].weight.abs().sum() > 0


def test_disabled_in_place_and_replaced_wrappings(net, x):
    wrapped = soft(net, x)
    with ew.disabled(wrapped):
        assert torch.equal(wrapped(x), net(x))
    assert not torch.equal(wrapped(x), net(x))
    plain = copy.deepcopy(net)
    assert ew.equivariantize_(plain, "C4", method="project", example=x) is plain
    assert torch.equal(plain(x), wrapped(x))
    assert ew.unwrap(plain) is plain
    assert torch.equal(plain(x), net(x))
    averaged = ew.equivariantize(net, "C4")
    with pytest.warns(EquiwrapWarning, match="replaces the old one"):
        again = soft(averaged, x)
    assert torch.equal(again(x), wrapped(x))


def test_probes_measure_every_layer(net, x):
    handle = soft(net, x, "penalize", probes=True).equiwrap
    by_layer = handle.errors(x, layers=True)
    assert "Conv2d" in str(by_layer)
    assert "BatchNorm2d" in str(handle.probes.measure(x))


def test_modes_statistics_and_numbers_of_a_training_model_stay(net, x):
    net.train()
    net[1].eval()
    before = kept(net)
    wrapped = soft(net, x, hidden="regular")
    assert [m.training for m in net] == [i != 1 for i in range(8)]
    assert wrapped.training
    assert same(before, net.state_dict())


@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float64, 1e-12), (torch.bfloat16, 0.05), (torch.float16, 0.01)]
)
def test_other_dtypes_are_projected_in_their_own(net, x, dtype, allowed):
    wrapped = soft(net.to(dtype), x.to(dtype), hidden="regular")
    assert wrapped(x.to(dtype)).dtype == dtype
    assert float(wrapped.equiwrap.errors(x.to(dtype)).value) < allowed
    assert all(p.dtype == dtype for p in wrapped.equiwrap.fold().parameters())


def test_compile_and_export_hold_the_projected_forward(net, x):
    wrapped = soft(net, x, hidden="regular")
    compiled = torch.compile(wrapped, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), wrapped(x))
    exported = torch.export.export(wrapped, (x,)).module()
    torch.testing.assert_close(exported(x), wrapped(x))


def test_computed_weights_are_named_and_the_rest_may_be_penalised(net, x):
    nn.utils.parametrizations.weight_norm(net[3])
    with pytest.raises(EquivarianceError, match="computes its weight from other parameters"):
        soft(net, x)
    handle = soft(net, x, "penalize", hidden="trivial").equiwrap
    assert [t.path for t in handle.targets] == ["0.weight"]
    assert "not followed" in str(handle.report())
    nn.utils.parametrize.remove_parametrizations(net[3], "weight")
    assert error(soft(net, x), x) < 1e-5


def test_kernels_in_buffers_are_no_targets():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.randn(8, 3, 3, 3))

        def forward(self, x):
            return nn.functional.conv2d(x, self.kernel, padding=1).relu().mean((2, 3))

    with pytest.raises(EquivarianceError, match="conv2d"):
        soft(Fixed(), torch.randn(2, 3, 9, 9), signature="b c h w -> b k")


def test_numbers_that_are_none_get_a_sentence(net, x):
    with pytest.raises(SignatureError, match=r"softness='0\.2'"):
        ew.equivariantize(net, "C4", "b c h w -> b k", method="project", softness="0.2", example=x)
    made = ew.equivariantize(net, "C4", "b c h w -> b k", method="penalize", example=x)
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ValueError, match="every='4'"):
        ew.EquivarianceDecay(made, sgd, every="4")
    with pytest.raises(ValueError, match="strength='1e-2'"):
        ew.EquivarianceDecay(made, sgd, strength="1e-2")
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        ew.EquivarianceDecay(made, None)


def test_a_frozen_normalisation_in_a_training_model_is_projected():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    net[1].running_mean.normal_()
    x = torch.randn(2, 3, 9, 9)
    made = ew.equivariantize(
        net, "C4", "b c h w -> b c h w", method="project", hidden="regular", example=x
    )
    made.train()
    made[1].eval()
    with torch.no_grad():
        torch.testing.assert_close(made(x.rot90(1, (2, 3))), made(x).rot90(1, (2, 3)))
