"""Schedules, controllers, the sampled regulariser and the circuits of attention."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_decay import idle, train
from test_penalty import PATHS, made, targets_in, weights
from torch import nn

import equiwrap as ew
from equiwrap import SignatureError
from equiwrap.groups import parse_group
from equiwrap.measure import model_error
from equiwrap.penalty import (
    AlphaController,
    DefectController,
    EquivarianceDecay,
    LearnedStrengths,
    Moments,
    Target,
    as_schedule,
    circuits,
    circuits_penalty,
    data_penalty,
    energies,
    james_stein,
    penalty,
    recalibrate,
    sampled_penalty,
    snap,
)
from equiwrap.representations import Regular
from equiwrap.reynolds import Fields, Orbits, Side, orbits_of

# -- schedules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "total", "values"),
    [
        (None, None, {0: 1, 7: 1}),
        (0.5, None, {0: 0.5, 7: 0.5}),
        (("linear", 10), None, {0: 0, 5: 0.5, 10: 1, 99: 1}),
        (("quadratic", 10), None, {0: 0, 5: 0.25, 10: 1}),
        (("cosine", 10), None, {0: 0, 5: 0.5, 2.5: (1 - math.sqrt(0.5)) / 2, 10: 1}),
        ("warmup", 100, {0: 0, 5: 0.5, 10: 1, 50: 1}),
        (("warmup", 0.2), 100, {10: 0.5, 20: 1}),
        ("cosine", 100, {50: 0.5, 100: 1}),
        (("linear", 1), 100, {0: 0, 1: 1}),
        (("linear", 1.0), 100, {0: 0, 25: 0.25}),
        (lambda u: u**3, 10, {5: 0.125, 10: 1, 40: 1}),
        (lambda step: step, None, {17: 17}),
    ],
)
def test_schedules_are_what_was_written(given, total, values):
    schedule = as_schedule(given, total)
    for step, value in values.items():
        assert schedule(step) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("given", [("linear", 0), ("linear", 1.5), ("linear", 0.0), "stairs"])
def test_schedules_without_a_span_are_refused(given):
    with pytest.raises(ValueError, match="schedule="):
        as_schedule(given, 100)


def test_a_scheduled_decay_sums_the_multipliers():
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    EquivarianceDecay(model, optimizer, 1.0, schedule="linear", total=4, targets=targets)
    before = energies(model, targets)[0].defect
    for _ in range(6):
        idle(optimizer)
    wanted = math.exp(-4 * 0.1 * (0 + 0.25 + 0.5 + 0.75 + 1 + 1))
    assert energies(model, targets)[0].defect / before == pytest.approx(wanted, rel=1e-9)


def test_the_snap_projects_and_new_statistics_fit_the_new_weights():
    model, targets = made()
    x = [torch.randn(16, 2, 8, 8, dtype=torch.float64) for _ in range(6)]
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), 20)
    model.eval()
    stale = copy.deepcopy(model)
    snap(stale, targets)
    snap(model, targets, [(batch, 0) for batch in x])
    for one in (stale, model):
        assert max(e.ratio for e in energies(one, targets)) < 1e-28
    assert not any(module.training for module in model.modules())

    def gap(net):
        inside = torch.cat([net.first(b) for b in x]).transpose(0, 1).flatten(1)
        found = inside.mean(1) - net.norm.running_mean
        return float((found.abs() / inside.std(1)).max().detach())

    assert gap(model) < 1e-6 < 1e-2 < gap(stale)
    turned = [torch.rot90(batch, 1, (2, 3)) for batch in x]
    torch.testing.assert_close(model(x[0]), model(turned[0]))


def test_recalibration_leaves_modes_alone():
    model, _ = made()
    model.eval()
    model.head.train()
    modes = [m.training for m in model.modules()]
    recalibrate(model, [torch.randn(4, 2, 8, 8, dtype=torch.float64)])
    assert [m.training for m in model.modules()] == modes


# -- controllers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("goal", [0.3, 0.03, 0.003])
def test_the_controller_brings_a_training_to_its_target(goal, start):
    """A task that pulls the weights to ones without symmetry, with noisy gradients."""
    model, targets = made()
    wanted = [torch.randn_like(w) for w in weights(model)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    decay = EquivarianceDecay(model, optimizer, start, targets=targets)
    control = DefectController(goal, start)
    seen = []
    for _ in range(250):
        optimizer.zero_grad()
        pairs = zip(weights(model), wanted, strict=True)
        sum((w - v - 0.3 * torch.randn_like(v)).square().sum() for w, v in pairs).backward()
        optimizer.step()
        found = energies(model, targets)
        seen.append(sum(e.defect for e in found) / sum(e.total for e in found))
        decay.strength = control.update(seen[-1])
    assert all(goal / 1.1 < q < goal * 1.1 for q in seen[-50:])
    assert min(seen) < goal / 1.5 or max(seen) > 1.5 * goal


def test_a_controller_goes_on_where_its_state_was_taken():
    one, two = DefectController(0.1), DefectController(0.1, strength=7.0)
    for q in (0.5, 0.2):
        one.update(q)
    two.load_state_dict(one.state_dict())
    assert two.update(0.4) == one.update(0.4)
    assert one.update(0.0) > 0
    with pytest.raises(ValueError, match="at least 0"):
        one.update(float("nan"))


def test_alpha_raises_the_strength_until_the_asymmetry_is_that_of_the_data():
    control = AlphaController(strength=1.0, rate=0.5)
    assert control.update(0.0) == pytest.approx(math.exp(0.5))
    assert control.update(2.0) == pytest.approx(1.0)
    strength = 1e-3  # a ridge on the asymmetric part: f = y/(1 + λ) + noise, α* by its own formula
    signal, noise = 0.09, 0.04
    control = AlphaController(strength, rate=1.0)
    for _ in range(200):
        shrunk = 1 / (1 + control.strength)
        control.update(signal * shrunk / (shrunk**2 * (signal + noise)))
    assert control.strength == pytest.approx(noise / signal, rel=1e-6)


def test_the_first_strength_is_the_minimum_of_the_risk():
    noise, d, n, data = 0.5, 30, 200, 0.3

    def risk(s):
        return (s / (1 + s)) ** 2 * data**2 + noise * d / (n * (1 + s) ** 2)

    best = james_stein(noise, d, n, data)
    grid = [best * 1.01**i for i in range(-300, 300)]
    assert min(grid, key=risk) == pytest.approx(best, rel=1e-9)
    assert james_stein(noise, d, n, 0.0) == math.inf
    assert james_stein(0.0, d, n, 0.0) == 0.0
    with pytest.raises(ValueError, match="one sample"):
        james_stein(noise, d, 0, data)


def test_learned_strengths_maximise_the_posterior_and_let_go_of_what_breaks_the_symmetry():
    model, targets = made()
    with torch.no_grad():
        model.first.weight.copy_(targets[0].projector(model.first.weight))
    learned = LearnedStrengths(a=0.5, b=1e-2)
    found = learned.update(model, targets)
    assert found[PATHS[0]] > 5 * found[PATHS[1]]
    size = 6 * 6 * (25 - 7)
    defect = energies(model, targets)[1].defect

    def loss(variance):  # −log of N(R; 0, s²) InvGamma(s²; a, b)
        return (defect + 2 * 0.01) / (2 * variance) + (size / 2 + 0.5 + 1) * math.log(variance)

    best = 1 / (2 * found[PATHS[1]])
    grid = [best * 1.01**i for i in range(-200, 200)]
    assert min(grid, key=loss) == pytest.approx(best, rel=1e-9)
    EquivarianceDecay(
        model, torch.optim.SGD(model.parameters(), lr=0.1), learned.strengths, targets=targets
    )
    with pytest.raises(ValueError, match="b > 0"):
        LearnedStrengths(b=0.0).update(model, targets)


# -- the sampled regulariser -----------------------------------------------------------------------


def vectors(bias=0.0):
    torch.manual_seed(2)
    net = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        net.weight.mul_(bias).add_(2 * torch.eye(3))
    return net


@pytest.mark.parametrize("shared", [False, True])
def test_the_sampled_penalty_is_zero_for_equivariant_models_and_only_for_those(shared):
    x = torch.randn(5, 7, 3, dtype=torch.float64)
    options = {"signature": "b n v -> b n v", "shared": shared}
    good, bad = vectors(), vectors(bias=1.0)
    assert sampled_penalty(good, "SO(3)", x, **options) < 1e-26
    assert sampled_penalty(bad, "SO(3)", x, **options) > 1e-2


def test_the_sampled_penalty_is_the_loop_over_inputs():
    model, _ = made()
    model.eval()
    x = torch.randn(6, 2, 8, 8, dtype=torch.float64)
    group = parse_group("C4")
    found = sampled_penalty(
        model, group, x, signature="b c h w -> b k", generator=torch.Generator().manual_seed(4)
    )
    g = group.sample(6, generator=torch.Generator().manual_seed(4))
    total = 0.0
    for one, h in zip(x, g, strict=True):
        turns = round(math.atan2(h[1, 0], h[0, 0]) / (math.pi / 2)) % 4
        moved = torch.stack([torch.rot90(one, k, (1, 2)) for k in (turns, -turns)])
        gaps = (model(moved) - model(one[None])).square().sum(1)
        total += float(gaps.detach().mean()) if turns == 2 else 0
        if turns in (1, 3):
            exact = ew.grids.act_on_grid(group, h[None], one[None])
            total += float((model(exact) - model(one[None])).square().sum().detach())
    assert float(found.detach()) == pytest.approx(total / 6, rel=1e-9)


def test_its_expectation_is_twice_the_squared_model_error():
    """On inputs whose law the group keeps: every turned copy is among them."""
    model, _ = made()
    model.eval()
    x = torch.randn(8, 2, 8, 8, dtype=torch.float64)
    x = torch.cat([torch.rot90(x, k, (2, 3)) for k in range(4)])
    with torch.no_grad():
        values = [sampled_penalty(model, "C4", x, signature="b c h w -> b k") for _ in range(400)]
        error = float(model_error(model, "C4", x, signature="b c h w -> b k"))
    mean = float(torch.stack(values).mean())
    assert mean == pytest.approx(2 * error**2, rel=0.05)


def test_both_branches_are_differentiated_and_one_where_asked():
    net = vectors(bias=1.0)
    x = torch.randn(5, 3, dtype=torch.float64)
    grads = {}
    for detach in (False, True):
        rng = torch.Generator().manual_seed(1)
        value = sampled_penalty(
            net, "SO(3)", x, signature="b v -> b v", detach=detach, generator=rng
        )
        (grads[detach],) = torch.autograd.grad(value, [net.weight])
    rng = torch.Generator().manual_seed(1)
    g = parse_group("SO(3)").sample(5, generator=rng)
    weight = net.weight.detach().requires_grad_()
    value = (g @ (x @ weight.T)[..., None])[..., 0] - (g @ x[..., None])[..., 0] @ weight.T
    (expected,) = torch.autograd.grad(value.square().sum(1).mean(), [weight])
    torch.testing.assert_close(grads[False], expected)
    assert (grads[True] - grads[False]).norm() > 1e-2 * expected.norm()


def test_an_output_at_hand_saves_a_pass():
    model, _ = made()
    calls = []
    model.register_forward_hook(lambda m, i, o: calls.append(1))
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    output = model(x)
    sig = ew.Signature.parse("b c h w -> b k", parse_group("C4"))
    sampled_penalty(model, "C4", x, signature=sig, output=output).backward()
    assert len(calls) == 2
    assert model.first.weight.grad.norm() > 0


def test_training_with_it_lowers_the_error_of_the_function():
    found = {}
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, 16), nn.Tanh(), nn.Linear(16, 3))
        model = model.double()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(60):
            x = torch.randn(8, 2, 8, 8, dtype=torch.float64)
            optimizer.zero_grad()
            out = model(x)
            goal = (out - 3 * x[:, :1, :4].mean((2, 3))).square().mean()
            extra = sampled_penalty(model, "C4", x, signature="b c h w -> b k", output=out)
            (goal + strength * extra).backward()
            optimizer.step()
        found[strength] = float(model_error(model, "C4", x, signature="b c h w -> b k"))
    assert found[1.0] < 0.5 * found[0.0]


# -- circuits --------------------------------------------------------------------------------------


def matrices_under_a_shift(d=8):
    """P on d × d matrices under the cyclic shift of four fields of two."""
    index = torch.arange(d * d).reshape(d, d)
    moved = index.roll((2, 2), (0, 1))
    return Orbits(orbits_of(d * d, [(index, moved)]))


def attention(heads=2, e=4, d=8):
    shapes = [(heads * e, d)] * 3 + [(d, heads * e)]
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]


def test_circuits_do_not_see_the_gauge_and_the_weights_do():
    q, k, v, o = attention()
    a = torch.linalg.matrix_exp(0.3 * torch.randn(2, 4, 4, dtype=torch.float64))
    blocks = torch.block_diag(*a)
    turned = (blocks @ q, blocks.inverse().T @ k, blocks @ v, o @ blocks.inverse())
    p = matrices_under_a_shift()
    for one, two in zip(circuits(q, k, v, o, 2), circuits(*turned, 2), strict=True):
        torch.testing.assert_close(one, two)
    found = circuits_penalty(q, k, v, o, 2, p)
    torch.testing.assert_close(circuits_penalty(*turned, 2, p), found)
    sizes = [float((p(w) - w).norm().detach()) for w in (q, turned[0])]
    assert sizes[0] != pytest.approx(sizes[1], rel=1e-2)


def attend(x, q, k, v, o):
    m, n = circuits(q, k, v, o, 2)
    scores = torch.einsum("bsd,hde,bte->bhst", x, m, x).softmax(-1)
    return torch.einsum("bhst,hde,bte->bsd", scores, n, x)


def test_attention_is_equivariant_where_its_circuits_are_whatever_its_weights_look_like():
    """Weights between regular representations, in a random gauge of each head."""
    p, x = matrices_under_a_shift(), torch.randn(3, 5, 8, dtype=torch.float64)
    plain = [w.detach() for w in attention()]

    def shifted(w, s):  # heads hold one field of four each, the stream two
        heads = w.T.unflatten(1, (2, 4)).roll(s, 2).flatten(1).T if w is not plain[3] else w
        if w is plain[3]:
            return w.unflatten(1, (2, 4)).roll(s, 2).flatten(1).roll(2 * s, 0)
        return heads.roll(2 * s, 1)

    q, k, v, o = (sum(shifted(w, s) for s in range(4)) / 4 for w in plain)
    a = torch.block_diag(*torch.linalg.matrix_exp(torch.randn(2, 4, 4, dtype=torch.float64)))
    hidden = (a @ q, a.inverse().T @ k, a @ v, o @ a.inverse())
    for four, symmetric in ((hidden, True), (plain, False)):
        gap = attend(x.roll(2, -1), *four) - attend(x, *four).roll(2, -1)
        assert bool(gap.norm() < 1e-12 * attend(x, *four).norm()) is symmetric
        assert bool(circuits_penalty(*four, 2, p) < 1e-20) is symmetric
        assert (four[0] - p(four[0])).norm() > 0.1


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(SignatureError, match="3 heads"):
        circuits(*attention(), 3)


# -- weighted by data ------------------------------------------------------------------------------


def test_the_data_penalty_of_a_convolution_is_the_mean_defect_over_elements_and_inputs():
    model, targets = made()
    model.eval()
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64) * torch.linspace(0.1, 6, 8)
    moments = Moments.collect(model, [(x[:2], 0), (x[2:], 0)], targets)
    total = 0.0
    inputs = {PATHS[0]: x, PATHS[1]: model.norm(model.first(x)).relu()}
    for path, h in inputs.items():
        layer = model.get_submodule(path.rpartition(".")[0])

        def linear(h, layer=layer):
            return nn.functional.conv2d(h, layer.weight, None, padding=layer.padding)

        for k in range(4):
            gap = linear(torch.rot90(h, k, (2, 3))) - torch.rot90(linear(h), k, (2, 3))
            total = total + gap.square().sum(1).mean() / 4
    found = data_penalty(model, moments, 0.7, targets)
    torch.testing.assert_close(found, 0.7 * total, rtol=1e-12, atol=0)
    assert found > 1e-3
    assert not torch.isclose(found, penalty(model, targets, 0.7), rtol=0.1)
    grads = [torch.autograd.grad(v, [model.second.weight])[0] for v in (found, 0.7 * total)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_the_data_penalty_of_regular_channels_is_the_mean_over_elements(name):
    group = parse_group(name)
    order = group.order
    layer = nn.Linear(3 * order, 2 * order, bias=False).double()
    target = Target("0.weight", Fields(group, Side(1, 2), Side(1, 3)), tuple(layer.weight.shape))
    model = nn.Sequential(layer)
    x = torch.randn(7, 3 * order, dtype=torch.float64) * torch.linspace(0, 2, 3 * order)
    moments = Moments.collect(model, [x], [target])
    regular = Regular(group).matrix(group.elements()).double()
    total = 0.0
    for g in regular:
        into, out = (torch.kron(g, torch.eye(n, dtype=torch.float64)) for n in (3, 2))
        gap = (x @ layer.weight.T) @ out.T - (x @ into.T) @ layer.weight.T
        total = total + gap.square().sum(1).mean() / order
    found = data_penalty(model, moments, targets=[target])
    torch.testing.assert_close(found, total, rtol=1e-12, atol=0)
    with torch.no_grad():
        target.projector.lerp_(layer.weight, 1.0)
    assert data_penalty(model, moments, targets=[target]) < 1e-26


def test_layers_without_moments_are_named():
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(200, 4, 3)
    )
    targets = targets_in(net, ("0.weight", "1.weight", "2.weight"))
    targets.append(Target("0.bias", Orbits(torch.zeros(4, dtype=torch.long)), (4,)))
    moments = Moments.collect(net, [], targets)
    assert not moments.matrices
    said = list(moments.skipped.values())
    for word, reason in zip(["groups", "padding", "1800 inputs", "not known"], said, strict=True):
        assert word in reason
    assert data_penalty(net, moments, targets=targets) == 0
    assert not any(m._forward_pre_hooks for m in net.modules())
