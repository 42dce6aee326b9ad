"""The penalty as a loss: its value and gradients by two roads, under every way of training."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_penalty import Small, penalty_loop, residual
from torch import nn

from equiwrap import NoEffectWarning
from equiwrap.groups import parse_group
from equiwrap.penalty import Target, energies, penalty
from equiwrap.reynolds import Kernels, Orbits

GROUP = parse_group("C4")
PATHS = ("first.weight", "second.weight")
METRICS = ["frobenius", "relative", "lasso"]


def targets_in(model, paths=PATHS, group=GROUP, **more):
    shapes = [tuple(model.get_parameter(p).shape) for p in paths]
    return [Target(p, Kernels(group, s), s, **more) for p, s in zip(paths, shapes, strict=True)]


def made(**more):
    model = Small(**more).double()
    return model, targets_in(model)


def weights(model):
    return [model.get_parameter(path) for path in PATHS]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["C2", "C4", "D1", "D4"]),
    metric=st.sampled_from(METRICS),
    strength=st.floats(1e-3, 10),
    seed=st.integers(0, 99),
)
def test_value_and_gradient_are_those_of_the_loop_over_elements(name, metric, strength, seed):
    torch.manual_seed(seed)
    group, model = parse_group(name), Small(width=3).double()
    found = penalty(model, targets_in(model, group=group), strength, metric)
    expected = penalty_loop(model, group, PATHS, strength, metric)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert expected > 1e-3 * strength
    for one, two in zip(
        torch.autograd.grad(found, weights(model)),
        torch.autograd.grad(expected, weights(model)),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_second_derivatives_are_those_of_the_loop(metric):
    model, targets = made()
    seconds = []
    for value in (
        penalty(model, targets, 0.3, metric),
        penalty_loop(model, GROUP, PATHS, 0.3, metric),
    ):
        grads = torch.autograd.grad(value, weights(model), create_graph=True)
        energy = sum(
            (g * g * torch.linspace(1, 2, g.numel()).reshape(g.shape)).sum() for g in grads
        )
        seconds.append(torch.autograd.grad(energy, weights(model)))
    for one, two in zip(*seconds, strict=True):
        assert two.abs().max() > 1e-6
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-13)


def test_the_lasso_has_gradient_zero_where_the_weight_is_equivariant():
    model, targets = made()
    with torch.no_grad():
        for weight in weights(model):
            weight.fill_(0.5)
    value = penalty(model, targets, 1.0, "lasso")
    assert value == 0
    for grad in torch.autograd.grad(value, weights(model)):
        assert torch.equal(grad, torch.zeros_like(grad))


def test_the_relative_penalty_of_a_zero_weight_is_zero():
    model, targets = made()
    nn.init.zeros_(model.first.weight)
    value = penalty(model, targets[:1], 1.0, "relative")
    (grad,) = torch.autograd.grad(value, [model.first.weight])
    assert value == 0
    assert torch.equal(grad, torch.zeros_like(grad))


def test_the_relative_penalty_is_free_of_scale_and_its_gradient_is_orthogonal_to_the_weight():
    model, targets = made()
    before = penalty(model, targets, 1.0, "relative")
    for weight, grad in zip(
        weights(model), torch.autograd.grad(before, weights(model)), strict=True
    ):
        assert abs(float((weight * grad).sum().detach())) < 1e-14 < float(grad.norm())
    plain = penalty(model, targets)
    with torch.no_grad():
        for weight in weights(model):
            weight.mul_(7)
    torch.testing.assert_close(penalty(model, targets, 1.0, "relative"), before)
    torch.testing.assert_close(penalty(model, targets), 49 * plain)


def test_auto_is_relative_where_a_normalisation_follows():
    model, targets = made()
    mixed = [Target(t.path, t.projector, t.shape, scale_free=i == 0) for i, t in enumerate(targets)]
    expected = penalty(model, targets[:1], 1.0, "relative") + penalty(model, targets[1:])
    torch.testing.assert_close(penalty(model, mixed, 1.0, "auto"), expected)
    assert not torch.isclose(penalty(model, mixed, 1.0, "auto"), penalty(model, mixed))


def test_no_cancellation_near_equivariance():
    """|W|² − |PW|² is rounding here; |W − PW|² has every digit of it."""
    model, targets = made()
    model.float()
    with torch.no_grad():
        model.first.weight.copy_(targets[0].projector(model.first.weight))
        model.first.weight[0, 0, 0, 0] += 2.0**-16
    found = float(penalty(model, targets[:1]).detach())
    expected = float(residual(GROUP, model.first.weight.detach().double()).square().sum())
    assert found == pytest.approx(expected, rel=2e-2)
    w = model.first.weight.detach()
    other = float(w.square().sum() - targets[0].projector(w).square().sum())
    assert abs(other - expected) > 0.5 * expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_kept_and_halves_are_read_in_float32(dtype):
    model, targets = made()
    model.to(dtype)
    value = penalty(model, targets, 0.1)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    expected = penalty_loop(model, GROUP, PATHS, 0.1, "frobenius")
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    value.backward()
    grads = torch.autograd.grad(expected, weights(model))
    for weight, grad in zip(weights(model), grads, strict=True):
        assert weight.grad.dtype == dtype
        torch.testing.assert_close(weight.grad, grad)


def test_autocast_does_not_reach_inside():
    model, targets = made()
    model.float()
    plain = penalty(model, targets)
    with torch.autocast("cpu", torch.bfloat16):
        inside = penalty(model, targets)
        (grad,) = torch.autograd.grad(inside, [model.first.weight])
    (expected,) = torch.autograd.grad(plain, [model.first.weight])
    assert torch.equal(plain, inside)
    assert torch.equal(grad, expected)


def test_a_scaler_scales_the_gradient_of_the_penalty_as_that_of_the_loss():
    model, targets = made()
    model.float()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.scale(penalty(model, targets)).backward()
    scaled = model.first.weight.grad.clone()
    scaler.unscale_(optimizer)
    torch.testing.assert_close(scaled, 1024 * model.first.weight.grad)
    torch.testing.assert_close(
        model.first.weight.grad, 2 * residual(GROUP, model.first.weight.detach())
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_compiled_step_has_the_same_gradients(metric):
    model, targets = made()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)

    def loss(x):
        return model(x).square().mean() + penalty(model, targets, 0.2, metric)

    loss(x).backward()
    expected = [w.grad.clone() for w in weights(model)]
    model.zero_grad()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(x).backward()
    for weight, grad in zip(weights(model), expected, strict=True):
        torch.testing.assert_close(weight.grad, grad)


def test_frozen_parameters_and_buffers_are_left_out():
    model, targets = made()
    everything = penalty(model, targets)
    model.first.weight.requires_grad_(False)
    mean = Target("norm.running_mean", Orbits(torch.zeros(6, dtype=torch.long)), (6,))
    value = penalty(model, [*targets, mean])
    torch.testing.assert_close(value, penalty(model, targets[1:]))
    assert value < everything
    value.backward()
    assert model.first.weight.grad is None
    assert model.second.weight.grad is not None
    assert [e.path for e in energies(model, [*targets, mean])] == [*PATHS, "norm.running_mean"]


def test_a_model_without_trained_targets_is_told_so():
    model, targets = made()
    model.requires_grad_(False)
    with pytest.warns(NoEffectWarning, match="requires a gradient"):
        assert penalty(model, targets) == 0


def test_tied_parameters_count_once():
    model, targets = made()
    model.third = nn.Conv2d(2, 6, 3)
    model.third.weight = model.first.weight
    third = Target("third.weight", targets[0].projector, targets[0].shape)
    both = penalty(model, [*targets, third])
    torch.testing.assert_close(both, penalty(model, targets))
    both.backward()
    torch.testing.assert_close(
        model.first.weight.grad, 2 * residual(GROUP, model.first.weight.detach())
    )
    assert len(energies(model, [*targets, third])) == 2


def test_strengths_may_differ_from_layer_to_layer():
    model, targets = made()
    each = [penalty(model, [t]) for t in targets]
    found = penalty(model, targets, {PATHS[0]: 2.0, PATHS[1]: 0.5})
    torch.testing.assert_close(found, 2 * each[0] + 0.5 * each[1])
    torch.testing.assert_close(penalty(model, targets, {PATHS[1]: 3.0}), 3 * each[1])


@pytest.mark.parametrize("strength", [-1.0, float("nan"), {"first.weight": -0.1}])
def test_negative_strengths_are_refused(strength):
    model, targets = made()
    with pytest.raises(ValueError, match="at least 0"):
        penalty(model, targets, strength)


def test_unknown_metrics_and_unwrapped_models_are_refused_in_sentences():
    model, targets = made()
    with pytest.raises(ValueError, match="frobenius, relative, auto, lasso"):
        penalty(model, targets, 1.0, "nuclear")
    with pytest.raises(AttributeError, match='method="penalize"'):
        penalty(model)


def test_training_on_the_penalty_alone_makes_the_weights_equivariant():
    model, targets = made()
    before = sum(e.defect for e in energies(model, targets))
    kept = [t.projector(w.detach()) for t, w in zip(targets, weights(model), strict=True)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        penalty(model, targets).backward()
        optimizer.step()
    assert sum(e.defect for e in energies(model, targets)) < 1e-10 * before
    for weight, still in zip(weights(model), kept, strict=True):
        torch.testing.assert_close(weight.detach(), still, rtol=0, atol=1e-5)


def test_the_penalty_survives_deepcopy_and_follows_the_copy():
    model, targets = made()
    other = copy.deepcopy(model)
    nn.init.zeros_(other.first.weight)
    assert penalty(other, targets) < penalty(model, targets)
    torch.testing.assert_close(penalty(copy.deepcopy(model), targets), penalty(model, targets))


def test_energies_know_their_null_level():
    model, targets = made()
    torch.manual_seed(0)
    nn.init.normal_(model.second.weight)
    found = energies(model, targets)[1]
    assert found.share == pytest.approx(7 / 25)
    assert abs(found.excess) < 0.05
    with torch.no_grad():
        model.second.weight.copy_(targets[1].projector(model.second.weight))
    assert energies(model, targets)[1].excess == pytest.approx(1)
