"""The decoupled decay: once per real step, exactly, in every way in which people train."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from reference_penalty import Small, decayed, prior_energy, residual, thresholded
from test_penalty import GROUP, PATHS, made, targets_in, weights
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from equiwrap import NoEffectWarning
from equiwrap.groups import parse_group
from equiwrap.penalty import EquivarianceDecay, Target, energies
from equiwrap.reynolds import Kernels, Orbits


def batch(n=4, dtype=torch.float64):
    return torch.randn(n, 2, 8, 8, dtype=dtype), torch.randint(0, 3, (n,))


def train(model, optimizer, steps, data=None, after=lambda i: None):
    """A real little training; `after` sees the model once each step is done."""
    generator = torch.Generator().manual_seed(5)
    for i in range(steps):
        x = torch.randn(4, 2, 8, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 3, (4,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(model(x.to(model.head.weight.dtype)), y).backward()
        optimizer.step()
        after(i)


def idle(optimizer):
    """A step whose gradients are all 0: only the decay moves the weights."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()


def defect(model, targets):
    return sum(e.defect for e in energies(model, targets))


# -- the formulas ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["C2", "C4", "D4"])
def test_one_step_is_the_exponential_of_the_gradient_flow(name):
    group, model = parse_group(name), Small().double()
    targets = targets_in(model, group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    EquivarianceDecay(model, optimizer, 0.7, targets=targets)
    expected = [decayed(group, w.detach().clone(), 0.3, 0.7) for w in weights(model)]
    head = model.head.weight.detach().clone()
    idle(optimizer)
    for weight, wanted in zip(weights(model), expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-15)
    assert torch.equal(model.head.weight, head)


def test_a_strong_decay_is_the_projection():
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    EquivarianceDecay(model, optimizer, 1e3, targets=targets)
    expected = [t.projector(w.detach()) for t, w in zip(targets, weights(model), strict=True)]
    assert defect(model, targets) > 0.1
    idle(optimizer)
    for weight, wanted in zip(weights(model), expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("rates", [[0.1] * 12, [0.02 * (i + 1) for i in range(12)]])
@pytest.mark.parametrize("every", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["decay", "lasso"])
def test_every_k_is_k_single_decays(kind, every, rates):
    model, _ = made()
    found = []
    for k in (1, every):
        one = copy.deepcopy(model)
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        decay = EquivarianceDecay(
            one, optimizer, 0.4, k, kind=kind, targets=targets_in(one), schedule=("linear", 9)
        )
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            idle(optimizer)
        decay.flush()
        found.append(weights(one))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    assert (found[0][0] - model.first.weight).norm() > 1e-2


def test_the_learning_rate_is_that_of_the_parameters_own_group():
    model, targets = made()
    groups = [
        {"params": [model.first.weight], "lr": 0.5},
        {"params": [model.second.weight], "lr": torch.tensor(0.01)},
    ]
    before = [e.defect for e in energies(model, targets)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    EquivarianceDecay(model, optimizer, 0.2, targets=targets)
    idle(optimizer)
    after = [e.defect for e in energies(model, targets)]
    for rate, old, new in zip((0.5, 0.01), before, after, strict=True):
        assert new / old == pytest.approx(math.exp(-4 * rate * 0.2), rel=1e-6)


def test_both_parts_decay_separately():
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    EquivarianceDecay(model, optimizer, separate=(0.5, 2.0), targets=targets)
    expected = [decayed(GROUP, w.detach().clone(), 0.3, 2.0, 0.5) for w in weights(model)]
    idle(optimizer)
    for weight, wanted in zip(weights(model), expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.3), (0.2, 2.0)])
def test_separate_strengths_are_residual_pathway_priors(a, b):
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    rest = residual(GROUP, weight)
    kept = weight - rest
    strengths = (1 / (2 * (a * a + b * b)), 1 / (2 * b * b))
    energy = strengths[0] * kept.square().sum() + strengths[1] * rest.square().sum()
    assert float(energy) == pytest.approx(prior_energy(GROUP, weight, a, b), rel=1e-12)


def test_the_lasso_is_the_prox_and_reaches_zero():
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    EquivarianceDecay(model, optimizer, 2.0, kind="lasso", targets=targets)
    expected = [thresholded(GROUP, w.detach().clone(), 0.1, 2.0) for w in weights(model)]
    idle(optimizer)
    for weight, wanted in zip(weights(model), expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-15)
    small = min(float(residual(GROUP, w.detach()).norm()) for w in weights(model))
    assert small > 0.1
    for _ in range(math.ceil(small / 0.2)):
        idle(optimizer)
    assert min(e.ratio for e in energies(model, targets)) < 1e-30  # one layer gave in,
    idle(optimizer)
    assert all(torch.isfinite(w).all() for w in weights(model))


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_the_ball_holds_after_every_step_of_a_training(optimiser):
    ratios = {}
    for bound in (None, 0.2):
        torch.manual_seed(0)
        model, targets = made()
        optimizer = optimiser(model.parameters(), lr=0.01)
        if bound:
            EquivarianceDecay(model, optimizer, bound, kind="ball", targets=targets)

        def worst(i, model=model, targets=targets, bound=bound):
            for e in energies(model, targets):
                ratios.setdefault(bound, []).append(math.sqrt(e.defect / (e.total - e.defect)))

        train(model, optimizer, 15, after=worst)
    assert max(ratios[0.2]) <= 0.2 * (1 + 1e-12)
    assert min(ratios[None]) > 0.3
    assert max(ratios[0.2]) > 0.19  # and the training uses it


def test_several_groups_alternate_on_one_optimiser():
    """C4 and D1 generate D4: together they leave what D4 fixes, and no more goes."""
    model, _ = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for name in ("C4", "D1"):
        EquivarianceDecay(
            model, optimizer, 50.0, targets=targets_in(model, group=parse_group(name))
        )
    expected = [
        Kernels(parse_group("D4"), tuple(w.shape))(w.detach().clone()) for w in weights(model)
    ]
    for _ in range(3):
        idle(optimizer)
    for weight, wanted in zip(weights(model), expected, strict=True):
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-12)


# -- real trainings --------------------------------------------------------------------------------


def test_decay_makes_a_trained_network_more_symmetric_and_without_it_it_is_not():
    found = {}
    for strength in (0.0, 3.0):
        torch.manual_seed(1)
        model, targets = made()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        EquivarianceDecay(model, optimizer, strength, targets=targets)
        train(model, optimizer, 60)
        found[strength] = [e.ratio for e in energies(model, targets)]
    assert all(a < 0.2 * b for a, b in zip(found[3.0], found[0.0], strict=True))


def factor(model, targets, step):
    """By how much |R| of the first target shrinks in `step`, its gradients 0."""
    before = energies(model, targets)[0].defect
    step()
    return math.sqrt(energies(model, targets)[0].defect / before)


def test_gradient_accumulation_decays_once_a_real_step():
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    EquivarianceDecay(model, optimizer, 1.0, targets=targets)
    x, y = batch()

    def step():
        for _ in range(4):
            (0 * cross_entropy(model(x), y) / 4).backward()
        optimizer.step()

    assert factor(model, targets, step) == pytest.approx(math.exp(-0.2), rel=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_is_no_step(fused):
    """Fused optimisers skip inside of step(), where hooks run all the same."""
    model, targets = made()
    model.float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0, fused=fused)
    decay = EquivarianceDecay(model, optimizer, 1.0, targets=targets)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    x, y = batch(dtype=torch.float32)

    def step(broken):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = 0 * cross_entropy(model(x).float(), y)
        scaler.scale(loss).backward()
        if broken:
            model.head.weight.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()

    assert factor(model, targets, lambda: step(True)) == 1.0
    assert decay.steps == 0
    assert factor(model, targets, lambda: step(False)) == pytest.approx(math.exp(-0.2), rel=1e-5)
    assert factor(model, targets, lambda: step(True)) == 1.0
    assert decay.steps == 1


def test_tied_weights_decay_once():
    model, targets = made()
    model.third = nn.Conv2d(2, 6, 3).double()
    model.third.weight = model.first.weight
    third = Target("third.weight", targets[0].projector, targets[0].shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    EquivarianceDecay(model, optimizer, 1.0, targets=[*targets, third])
    assert factor(model, targets, lambda: idle(optimizer)) == pytest.approx(math.exp(-0.2))


@pytest.mark.parametrize(
    "optimiser",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
        lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0, capturable=False, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, lr=0.1),
    ],
)
def test_every_optimiser_decays_once_a_step(optimiser):
    model, targets = made()
    optimizer = optimiser(model.parameters())
    EquivarianceDecay(model, optimizer, 1.0, targets=targets)
    assert factor(model, targets, lambda: idle(optimizer)) == pytest.approx(math.exp(-0.2))


def test_closures_decay_once_a_step_and_not_once_an_evaluation():
    model, targets = made()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    decay = EquivarianceDecay(model, optimizer, 1.0, targets=targets)
    x, y = batch()
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        calls.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    assert decay.steps == 1 < len(calls)
    without = copy.deepcopy(model)
    decay.remove()
    optimizer.step(closure)
    assert decay.steps == 1
    assert (model.first.weight - without.first.weight).norm() > 0


@pytest.mark.parametrize("whole", [False, True])
def test_a_compiled_step_decays_once(whole):
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = EquivarianceDecay(model, optimizer, 1.0, targets=targets)
    x, y = batch()

    def forward_backward():
        loss = 0 * cross_entropy(model(x), y)
        loss.backward()
        return loss

    def everything():
        forward_backward()
        optimizer.step()

    if whole:
        step = torch.compile(everything, backend="aot_eager")
    else:
        stepped = torch.compile(optimizer.step, backend="aot_eager")
        forward = torch.compile(model, backend="aot_eager")

        def step():
            (0 * cross_entropy(forward(x), y)).backward()
            stepped()

    for i in range(3):
        assert factor(model, targets, step) == pytest.approx(math.exp(-0.2), rel=1e-9)
        assert decay.steps == i + 1


def test_copies_that_average_weights_are_not_decayed_themselves():
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average, copied = AveragedModel(model), copy.deepcopy(model)
    EquivarianceDecay(model, optimizer, 1.0, targets=targets)
    start = model.first.weight.detach().clone()
    rest = residual(GROUP, start)
    for _ in range(3):
        idle(optimizer)
        average.update_parameters(model)
    assert torch.equal(copied.first.weight, start)
    sizes = [math.exp(-0.2 * n) for n in (1, 2, 3)]
    expected = start - rest + rest * sum(sizes) / 3
    torch.testing.assert_close(average.module.first.weight.detach(), expected)
    ema = AveragedModel(model, avg_fn=lambda mean, new, n: 0.9 * mean + 0.1 * new)
    ema.update_parameters(model)
    before = ema.module.first.weight.detach().clone()
    idle(optimizer)
    assert torch.equal(ema.module.first.weight, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_decay_in_float32_and_say_when_nothing_changes(dtype):
    model, targets = made()
    model.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    decay = EquivarianceDecay(model, optimizer, 1e-2, targets=targets)
    start = [w.detach().clone() for w in weights(model)]
    with pytest.warns(NoEffectWarning, match="raise every="):
        idle(optimizer)
    for weight, old in zip(weights(model), start, strict=True):
        assert (weight != old).float().mean() < 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idle(optimizer)  # once
        decay.remove()
        many = EquivarianceDecay(model, optimizer, 1e-2, 2000, targets=targets)
        for _ in range(2000):
            many._after(optimizer, (), {})
    for weight, old in zip(weights(model), start, strict=True):
        assert weight.dtype == dtype
        wanted = decayed(GROUP, old.double(), 1e-2, 1e-2 * 2000)
        torch.testing.assert_close(weight.double(), wanted, rtol=2e-2, atol=2e-3)
        assert (weight != old).float().mean() > 0.5


def test_tiny_decays_in_float32_leave_the_equivariant_part_where_it_is():
    """Else a rounded factor would scale PW at every one of a million steps."""
    model, targets = made()
    model.float()
    with torch.no_grad():
        for t, w in zip(targets, weights(model), strict=True):
            w.copy_(t.projector(w))
    start = [w.detach().clone() for w in weights(model)]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    EquivarianceDecay(model, optimizer, 1e-2, targets=targets)
    for _ in range(500):
        idle(optimizer)
    for weight, old in zip(weights(model), start, strict=True):
        torch.testing.assert_close(weight.norm(), old.norm(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("t", [1e-3, 0.4, 1.0, -0.2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [3, 7, 12, 16])
@pytest.mark.parametrize("name", ["C4", "D4"])
def test_small_and_large_kernels_in_any_memory_format_move_towards_their_projection(
    name, side, layout, t
):
    """Beyond 11 × 11 means over orbits take the place of the matrix."""
    group = parse_group(name)
    start = torch.randn(3, 2, side, side, dtype=torch.float64)
    weight = start.clone(memory_format=layout)
    Kernels(group, tuple(weight.shape)).lerp_(weight, t)
    expected = start - t * residual(group, start)
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-14)
    assert weight.is_contiguous(memory_format=layout)


def test_what_was_cached_in_inference_mode_serves_training():
    model, targets = made()
    with torch.inference_mode():
        for target in targets:
            target.projector.lerp_(torch.randn(target.shape, dtype=torch.float64), 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    EquivarianceDecay(model, optimizer, 1.0, targets=targets)
    assert factor(model, targets, lambda: idle(optimizer)) == pytest.approx(math.exp(-0.2))


# -- which, and for how long -----------------------------------------------------------------------


def mean_target(width=6):
    label = torch.arange(width) // 2 * 2
    return Target("norm.running_mean", Orbits(label, 1), (width,))


@pytest.mark.parametrize("statistics", [True, False])
def test_statistics_decay_with_their_layer(statistics):
    model, targets = made()
    model.norm.running_mean.copy_(torch.arange(6.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = EquivarianceDecay(
        model, optimizer, 1.0, statistics=statistics, targets=[*targets, mean_target()]
    )
    idle(optimizer)
    gap = 0.5 * math.exp(-0.2) if statistics else 0.5
    pairs = torch.tensor([0.5 - gap, 0.5 + gap], dtype=torch.float64)
    expected = (torch.tensor([[0.0], [2.0], [4.0]]) + pairs).flatten()
    torch.testing.assert_close(model.norm.running_mean, expected)
    assert ("statistics=False" in decay.report()) is not statistics


def test_statistics_of_a_frozen_layer_are_left_alone():
    model, targets = made()
    model.norm.running_mean.copy_(torch.arange(6.0))
    model.norm.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = EquivarianceDecay(model, optimizer, 1.0, targets=[*targets, mean_target()])
    idle(optimizer)
    assert torch.equal(model.norm.running_mean, torch.arange(6.0, dtype=torch.float64))
    assert "norm.running_mean: is a buffer of a layer that is not trained" in decay.report()


def test_parameters_that_join_the_optimiser_later_decay_from_then_on():
    model, targets = made()
    optimizer = torch.optim.SGD([model.first.weight], lr=0.1)
    decay = EquivarianceDecay(model, optimizer, 1.0, targets=targets)
    assert "second.weight: is not in the optimiser" in decay.report()
    idle(optimizer)
    start = model.second.weight.detach().clone()
    idle(optimizer)
    assert torch.equal(model.second.weight, start)
    optimizer.add_param_group({"params": [model.second.weight], "lr": 0.3})
    idle(optimizer)
    torch.testing.assert_close(model.second.weight.detach(), decayed(GROUP, start, 0.3, 1.0))
    model.second.weight.requires_grad_(False)
    assert "second.weight: is frozen" in decay.report()


def test_nothing_to_decay_is_said():
    model, targets = made()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    with pytest.warns(NoEffectWarning, match=r"first\.weight: is not in the optimiser"):
        EquivarianceDecay(model, optimizer, targets=targets)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"strength": -1.0}, "at least 0"),
        ({"every": 0}, "1 at least"),
        ({"kind": "clip"}, "decay, lasso, ball"),
        ({"separate": (1.0, -2.0)}, "separate=-2"),
        ({"separate": (1.0, 2.0), "kind": "ball"}, "both parts"),
        ({"targets": []}, "no targets"),
        ({"schedule": "cosine"}, "pass total="),
        ({"schedule": "sawtooth"}, "quadratic, cosine"),
    ],
)
def test_refusals_are_sentences(more, said):
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=said):
        EquivarianceDecay(model, optimizer, **{"targets": targets, **more})
    assert not optimizer._optimizer_step_post_hooks


def test_a_model_that_is_not_wrapped_is_refused():
    model, _ = made()
    with pytest.raises(AttributeError, match='method="penalize"'):
        EquivarianceDecay(model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_resumed_training_is_the_uninterrupted_one(cut):
    found = []
    for interrupted in (False, True):
        torch.manual_seed(3)
        model, targets = made()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        options = {"every": 3, "schedule": ("cosine", 5), "targets": targets}
        decay = EquivarianceDecay(model, optimizer, 2.0, **options)
        for i in range(8):
            if interrupted and i == cut:
                saved = copy.deepcopy((model.state_dict(), decay.state_dict()))
                model, targets = made()
                model.load_state_dict(saved[0])
                optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
                options["targets"] = targets
                decay = EquivarianceDecay(model, optimizer, 0.1, **options)
                decay.load_state_dict(saved[1])
            x = torch.linspace(-1, 1, 256, dtype=torch.float64).reshape(2, 2, 8, 8)
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        found.append([w.detach() for w in weights(model)])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_a_removed_decay_has_applied_what_was_pending_and_stops():
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = EquivarianceDecay(model, optimizer, 1.0, 10, targets=targets)
    start = model.first.weight.detach().clone()
    idle(optimizer)
    idle(optimizer)
    assert torch.equal(model.first.weight, start)
    decay.remove()
    expected = decayed(GROUP, start, 0.2, 1.0)
    torch.testing.assert_close(model.first.weight.detach(), expected)
    for _ in range(20):
        idle(optimizer)
    torch.testing.assert_close(model.first.weight.detach(), expected)


def test_the_strength_may_be_set_and_may_differ_by_layer():
    model, targets = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = EquivarianceDecay(model, optimizer, {PATHS[0]: 1.0}, targets=targets)
    start = [w.detach().clone() for w in weights(model)]
    idle(optimizer)
    torch.testing.assert_close(model.first.weight.detach(), decayed(GROUP, start[0], 0.1, 1.0))
    assert torch.equal(model.second.weight, start[1])
    decay.strength = 0.0
    now = model.first.weight.detach().clone()
    idle(optimizer)
    assert torch.equal(model.first.weight, now)
    with pytest.raises(ValueError, match="at least 0"):
        decay.strength = -0.1
    assert repr(decay) == "EquivarianceDecay(strength=0.0, every=1, targets=2)"
