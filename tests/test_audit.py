"""The audit: its numbers against slow twins, and what it says of models that break a symmetry."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.audit import attribute_defect, layerwise, lie_layerwise
from equiwrap.audit.layers import breaks
from equiwrap.errors import CaptureError, GroupError, SignatureError
from equiwrap.graph.propagate import propagate
from equiwrap.graph.twin import twin_of
from equiwrap.signature import Signature

timm = pytest.importorskip("timm")


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and zero-initialised weights drawn, so that nothing is symmetric by chance."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def resnet() -> nn.Module:
    return randomised(timm.create_model("resnet18", num_classes=10))


class Net(nn.Module):
    """Convolutions, a residual add, a table, a pool on an even grid."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 6, 3, padding=1)
        self.table = nn.Parameter(torch.randn(1, 6, 12, 12))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        y = torch.tanh(self.a(x))
        y = y + torch.tanh(self.b(y)) + self.table
        return self.head(self.pool(y).mean((2, 3)))


def typed(model, group, x, signature="b c h w -> b k"):
    bound = Signature.parse(signature, ew.groups.parse_group(group))
    return propagate(model, bound, (torch.cat([x, x]),), {})


def quarter(group="C4"):
    return ew.groups.parse_group(group).generators()[0]


def by_name(typing, found):
    return {typing.sites[key].name: value for key, value in found.items()}


# -- layers ----------------------------------------------------------------------------------------


def test_the_folded_pass_agrees_with_two_runs_that_store_everything():
    model, x = resnet(), torch.randn(4, 3, 65, 65)
    typing = typed(model, "C4", x)
    rows = by_name(typing, layerwise(twin_of(model, False), typing, quarter(), (x,), {}))
    stored: list[dict[str, torch.Tensor]] = []
    for value in (x, x.rot90(1, (2, 3))):
        seen: dict[str, torch.Tensor] = {}
        hooks = [
            m.register_forward_hook(lambda m, i, o, n=n, seen=seen: seen.__setitem__(n, o.clone()))
            for n, m in model.named_modules()
            if n
        ]
        with torch.no_grad():
            model(value)
        stored.append(seen)
        for hook in hooks:
            hook.remove()
    checked = 0
    for name, here in stored[0].items():
        there = stored[1][name]
        moved = here.rot90(1, (2, 3)) if here.dim() == 4 else here
        expected = float((there - moved).norm() / there.norm())
        if name in rows and rows[name].error is not None:
            assert abs(rows[name].error - expected) < 1e-6 * max(1, expected) + 1e-6
            checked += 1
    assert checked > 60


def test_residual_adds_and_functions_are_nodes_too():
    model, x = randomised(Net()), torch.randn(4, 2, 12, 12)
    typing = typed(model, "C4", x)
    rows = by_name(typing, layerwise(twin_of(model, False), typing, quarter(), (x,), {}))
    assert {"a", "tanh", "b", "tanh_1", "add", "add_1", "pool", "mean", "head"} <= rows.keys()
    assert rows["add_1"].own > 0.1  # the table
    assert rows["tanh"].own == 0
    assert rows["pool"].own > 0.01  # stride 2 on 12 pixels


def test_what_a_node_adds_is_its_defect_on_moved_inputs():
    model = randomised(Net()).double()
    x = torch.randn(4, 2, 12, 12, dtype=torch.float64)
    typing = typed(model, "C4", x)
    rows = by_name(typing, layerwise(model, typing, quarter(), (x,), {}))
    with torch.no_grad():
        h = torch.tanh(model.a(x))
        there, here = model.b(h.rot90(1, (2, 3))), model.b(h).rot90(1, (2, 3))
    assert abs(rows["b"].own - float((there - here).norm() / there.norm())) < 1e-12
    with torch.no_grad():
        y = h + torch.tanh(model.b(h)) + model.table
        there = model.pool(y.rot90(1, (2, 3)))
        here = model.pool(y).rot90(1, (2, 3))
    assert abs(rows["pool"].own - float((there - here).norm() / there.norm())) < 1e-12


def test_a_dead_layer_has_no_error_rather_than_none():
    model = randomised(Net())
    nn.init.zeros_(model.b.weight)
    x = torch.randn(4, 2, 12, 12)
    typing = typed(model, "C4", x)
    row = by_name(typing, layerwise(twin_of(model, False), typing, quarter(), (x,), {}))["b"]
    assert row.dead
    assert row.error is None
    assert row.own is None


@pytest.mark.parametrize("name", ["net", "resnet18", "vit"])
def test_shares_sum_to_the_end_to_end_defect(name):
    model, size = {
        "net": (randomised(Net()), 12),
        "resnet18": (resnet(), 64),
        "vit": (randomised(timm.create_model("test_vit", num_classes=10, img_size=64)), 64),
    }[name]
    model = model.double()
    x = torch.randn(2, 2 if name == "net" else 3, size, size, dtype=torch.float64)
    typing = typed(model, "C4", x)
    rows = layerwise(model, typing, quarter(), (x,), {})
    chosen = [k for k, r in rows.items() if r.own and r.own > 1e-12 and breaks(typing.sites[k])]
    shares, rest, total = attribute_defect(model, typing, quarter(), (x,), {}, chosen)
    with torch.no_grad():
        there, here = model(x.rot90(1, (2, 3))), model(x)
    assert abs(total - float((there - here).norm() / there.norm())) < 1e-9
    assert abs(sum(shares.values()) + rest - 1) < 1e-6
    assert abs(rest) < 1e-6  # what is behind the last of them is equivariant
    assert max(map(abs, shares.values())) > 0.01


def test_a_share_is_the_difference_of_two_hybrid_runs():
    model = randomised(Net()).double()
    x = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    typing = typed(model, "C4", x)
    rows = layerwise(model, typing, quarter(), (x,), {})
    chosen = [k for k, r in rows.items() if r.own and r.own > 1e-12 and breaks(typing.sites[k])]
    shares, _, _ = attribute_defect(model, typing, quarter(), (x,), {}, chosen)

    def turn(t):
        return t.rot90(1, (2, 3))

    def tail_of_a(h):
        y = torch.tanh(h)
        y = y + torch.tanh(model.b(y)) + model.table
        return model.head(model.pool(y).mean((2, 3)))

    with torch.no_grad():
        defect = model(x) - model(turn(x))
        term = tail_of_a(turn(model.a(x))) - tail_of_a(model.a(turn(x)))
    expected = float((term * defect).sum() / defect.square().sum())
    assert abs(by_name(typing, shares)["a"] - expected) < 1e-9


def test_the_layerwise_lie_derivative_is_a_finite_difference():
    model = randomised(Net()).double()
    x = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    bound = Signature.parse("b c h w -> b k", ew.groups.parse_group("SO(2)"))
    typing = propagate(model, bound, (x,), {})
    found = by_name(typing, lie_layerwise(model, typing, (x,), {}))
    kind = bound.inputs[0][1]
    generator = bound.group.algebra()[0]

    def drift(value):
        return ew.measure.infinitesimal(kind, generator, value)

    eps = 1e-6
    with torch.no_grad():
        ahead, behind = model.a(x + eps * drift(x)), model.a(x - eps * drift(x))
        gap = drift(model.a(x)) - (ahead - behind) / (2 * eps)
        assert abs(found["a"] - float(gap.norm() / model.a(x).norm())) < 1e-7
        h = torch.tanh(model.a(x))
        ahead, behind = (torch.tanh(model.a(x + s * eps * drift(x))) for s in (1, -1))
        rate = (model.b(ahead) - model.b(behind)) / (2 * eps)
        gap = drift(model.b(h)) - rate
        assert abs(found["b"] - float(gap.norm() / model.b(h).norm())) < 1e-7


@pytest.mark.slow
def test_the_layerwise_profile_costs_little():
    model, x = resnet(), torch.randn(16, 3, 64, 64)
    typing, twin = typed(model, "C4", x), twin_of(model, False)
    bound = Signature.parse("b c h w -> b k", ew.groups.parse_group("SO(2)"))
    turning, doubled = propagate(model, bound, (x,), {}), torch.cat([x, x])
    runs = {
        "plain": lambda: model(doubled),
        "profile": lambda: layerwise(twin, typing, quarter(), (x,), {}),
        "lie": lambda: lie_layerwise(twin, turning, (x,), {}),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for _ in range(6):
            for name, run in runs.items():
                start = time.process_time()
                run()
                times[name].append(time.process_time() - start)
    plain, profile, lie = (min(times[name]) for name in runs)
    assert profile < 2.5 * plain * 1.15  # the table is in docs/pages/audit.md
    assert lie < 3 * plain * 1.15


# -- the report ------------------------------------------------------------------------------------


def test_the_misaligned_nodes_of_resnet_are_named_with_a_size():
    report = ew.audit(resnet(), "C4", torch.randn(4, 3, 64, 64))
    broken = [layer.name for layer in report.layers if layer.status == "misaligned"]
    stages = [f"layer{i}.0.{part}" for i in (2, 3, 4) for part in ("conv1", "downsample.0")]
    assert broken == ["conv1", "maxpool", *stages]
    strides = [found for found in report.findings if found.kind == "stride"]
    assert [found.name for found in strides] == broken
    assert all("65" in found.fix for found in strides)
    assert report.class_ == "misaligned"
    assert abs(sum(layer.share or 0 for layer in report.layers) - 1) < 1e-5
    assert not any(layer.status in ("unsound", "untyped") for layer in report.layers)


def test_at_an_aligned_size_only_weights_break_the_symmetry():
    report = ew.audit(resnet(), "D4", torch.randn(4, 3, 65, 65))
    assert report.class_ == "weights"
    assert {found.kind for found in report.findings} == {"weights"}
    assert sum(layer.status == "weights" for layer in report.layers) == 17
    assert report.remedies[0].recommended
    assert 'ew.equivariantize(model, "D4")' in report.remedies[0].call


def test_every_remedy_runs_and_does_what_it_says():
    model, x = resnet(), torch.randn(4, 3, 64, 64)
    for remedy in ew.audit(model, "C4", x).remedies:
        fixed = eval(remedy.call, {"ew": ew, "model": model})
        assert remedy.exact
        assert ew.measure.equivariance_error(fixed, "C4", x).value < 1e-5


def test_the_model_is_left_as_it_was():
    model = resnet().train()
    before = copy.deepcopy(model.state_dict())
    kinds = [type(m) for m in model.modules()]
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    ew.audit(model, "C4", torch.zeros(2, 3, 33, 33).uniform_())
    torch.manual_seed(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(m.training for m in model.modules())
    assert [type(m) for m in model.modules()] == kinds
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_equivariant_model_gets_a_clean_bill():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    report = ew.audit(model, "D4", torch.randn(4, 3, 8, 8))
    assert report.class_ == "exact"
    assert report.findings == ()
    assert report.remedies == ()
    assert report.error < 1e-6
    wrapped = ew.equivariantize(resnet(), "C4", frame="whole")
    assert ew.audit(wrapped, "C4", torch.randn(2, 3, 32, 32)).error < 1e-5


def test_a_model_that_ignores_its_input_gets_no_error():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    nn.init.zeros_(model[3].weight)
    report = ew.audit(model, "C4", torch.randn(4, 2, 8, 8))
    assert report.class_ == "dead"
    assert report.error is None
    assert "same for all inputs" in str(report)


@pytest.mark.parametrize(
    ("model", "group", "signature", "shape"),
    [
        (lambda: nn.Conv3d(1, 2, 3, padding=1), "O_h", "b c d h w -> b k d h w", (2, 1, 5, 5, 5)),
        (lambda: nn.Linear(3, 3), "E(3)", "b n p -> b n p", (3, 4, 3)),
        (lambda: nn.Linear(4, 4), "SO+(1,3)", "b n v -> b n v", (3, 4, 4)),
    ],
)
def test_what_cannot_be_followed_is_still_measured(model, group, signature, shape):
    torch.manual_seed(0)
    report = ew.audit(model(), group, torch.randn(shape), signature=signature)
    assert report.error > 0.05
    assert report.class_ in ("untyped", "unsound", "weights")
    assert str(report)


def test_outputs_in_a_dict_are_shared_among_the_layers():
    class Two(Net):
        def forward(self, x):
            return {"scores": super().forward(x), "size": x.shape[0]}

    x = torch.randn(2, 2, 12, 12)
    report = ew.audit(randomised(Two()), "C4", x, signature="b c h w -> {scores: b k, size: _}")
    assert abs(sum(layer.share or 0 for layer in report.layers) - 1) < 1e-5


def test_a_loader_with_targets_adds_what_the_data_say():
    torch.manual_seed(0)
    x = torch.randn(240, 2, 6, 6)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1)).eval()
    y = model(x).detach() + 0.1 * torch.randn(240, 1)
    loader = [(x[i : i + 60], y[i : i + 60]) for i in range(0, 240, 60)]
    report = ew.audit(model, "C4", loader, targets=True)
    alpha, low, high = report.data["alpha"]
    assert low < 1 < high
    assert 0.9 < alpha < 1.1
    assert "240 of shape 2×6×6" in report.inputs


def test_auto_ranks_candidate_groups_by_their_error():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 6, 3, padding=1)
    with torch.no_grad():  # symmetric under half turns only
        conv.weight.copy_((conv.weight + conv.weight.rot90(2, (2, 3))) / 2)
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    report = ew.audit(model, "auto", torch.randn(16, 1, 9, 9))
    names = [name for name, _, _ in report.ranking]
    assert names[0] == "C2" == report.group
    assert set(names) == {"C2", "C4", "D2", "D4", "T(2)"}
    errors = {name: value for name, value, _ in report.ranking}
    assert errors["C2"] < 1e-6 < errors["C4"]


def test_other_groups_are_measured_where_weights_cannot_be_projected():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    report = ew.audit(model, "SO(3)", torch.randn(6, 4, 3), signature="b n v -> b k")
    assert report.error > 0.05
    assert [f.kind for f in report.findings] == ["flatten"]
    assert report.remedies[0].recommended

    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.outer(torch.relu(self.inner(x)).sum(1))

    report = ew.audit(Sets(), "S(n)", torch.randn(6, 4, 3), signature="b n c -> b k")
    assert report.class_ == "exact"
    assert all(layer.status == "exact" for layer in report.layers)


class Functional(nn.Module):
    """A convolution by its function, with as many channels as the folded batch has samples."""

    def __init__(self, samples):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * samples, 3, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, padding=1).relu()


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_weights_are_no_constants_of_the_batch(samples):
    x = torch.randn(samples, 3, 8, 8)
    report = ew.audit(Functional(samples), "C4", x, signature="b c h w -> b c h w")
    layer = report.layers[0]
    assert (report.class_, layer.status) == ("weights", "weights")
    if samples > 1:  # one input does not tell a dead layer from another
        assert layer.own == pytest.approx(layer.error, rel=0.02)
        assert layer.own > 0.1
        assert layer.share == pytest.approx(1.0)


def test_a_model_of_one_layer_has_an_inside():
    x, kind = torch.randn(4, 3, 8, 8), "b c h w -> b c h w"
    report = ew.audit(nn.Conv2d(3, 4, 3, padding=1), "C4", x, signature=kind)
    assert [layer.status for layer in report.layers] == ["weights"]
    assert ew.audit(nn.LayerNorm([8, 8]), "C4", x, signature=kind).class_ == "exact"


def test_an_output_that_moves_otherwise_than_was_said_is_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    x = torch.randn(4, 3, 8, 8)
    report = ew.audit(net, "C4", x, signature="b c h w -> b k")
    assert report.class_ == "signature"
    assert report.error > 0.5
    assert report.findings[0].name == "output"
    assert "moves as b (c h w), and the signature says b k" in str(report)
    ew.audit(net, "C8", x, signature="b c h w -> b k")  # which does not act on (c h w)
    pooled = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    right = ew.audit(pooled, "C4", x, signature="b c h w -> b k")
    assert right.class_ == "exact"
    assert not right.findings


def test_progress_is_told_and_ends():
    told: list[tuple[int, int, str]] = []
    ew.audit(Net(), "C4", torch.randn(2, 2, 12, 12), progress=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize(
    ("group", "example", "error", "says"),
    [
        ("C4", [], SignatureError, "loader is empty"),
        ("C4", torch.randn(0, 2, 12, 12), SignatureError, "example is empty"),
        ("C4", 3, SignatureError, "a tensor, a tuple of tensors, or a loader"),
        ("C5x", torch.randn(2, 2, 12, 12), GroupError, "C5x"),
        ("C4", torch.randn(2, 2, 12, 14), SignatureError, "square"),
        ("C4", torch.randn(2, 5, 12, 12), CaptureError, "channels"),
    ],
)
def test_wrong_input_gets_a_sentence(group, example, error, says):
    with pytest.raises(error, match=says):
        ew.audit(Net(), group, example)


def test_what_is_no_module_and_what_is_not_finite_are_said():
    with pytest.raises(CaptureError, match="a str was given"):
        ew.audit("resnet18", "C4", torch.randn(2, 2, 12, 12))
    report = ew.audit(Net(), "C4", torch.full((2, 2, 12, 12), float("nan")))
    assert report.class_ != "dead"
    assert "no finite error" in str(report)
