"""Wrapped models trained as people train: the loss, the decay, and everything around them."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

import equiwrap as ew
from equiwrap.penalty import energies, snap


def plain_net():
    """Strides on odd grids, batch normalisation, a residual sum, a pool and a head."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def wrapped(hidden="trivial", **more):
    return ew.equivariantize(
        plain_net(),
        "C4",
        "b c h w -> b k",
        method="penalize",
        hidden=hidden,
        example=torch.randn(2, 3, 9, 9),
        **more,
    )


def batches(count, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x = torch.randn(8, 3, 9, 9, generator=generator)
        y = (x[:, 0, :4].mean((1, 2)) > 0).long() + 2 * (x[:, 1, :, :4].mean((1, 2)) > 0).long()
        yield x, y


def ratio(model, of=None):
    found = [e for e in energies(of or model, type(model).equiwrap.targets) if e.total]
    return sum(e.defect for e in found) / sum(e.total for e in found)


def fit(model, optimizer, count=30, extra=lambda: 0.0, forward=None):
    for x, y in batches(count):
        optimizer.zero_grad()
        loss = cross_entropy((forward or model)(x), y) + extra()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("hidden", ["trivial", "regular"])
def test_the_loss_and_the_decay_as_written_in_the_documentation(hidden):
    found = {}
    for way in ("none", "loss", "decay"):
        torch.manual_seed(0)
        a = wrapped(hidden, penalty=3.0)
        optimizer = torch.optim.AdamW(a.parameters(), lr=1e-2)
        if way == "decay":
            decay = ew.EquivarianceDecay(a, optimizer, strength=2.0, every=4)
            assert len(decay.targets) == len(a.equiwrap.targets)
        fit(a, optimizer, 40, a.equiwrap.penalty if way == "loss" else lambda: 0.0)
        found[way] = ratio(a)
    assert found["none"] > 0.3
    assert found["loss"] < 0.2 * found["none"]
    assert found["decay"] < 0.3 * found["none"]


def test_the_snapped_model_is_equivariant_and_its_statistics_are_those_of_its_weights():
    a = wrapped("regular")
    optimizer = torch.optim.AdamW(a.parameters(), lr=1e-2)
    ew.EquivarianceDecay(a, optimizer, 1.0, schedule="cosine", total=20)
    fit(a, optimizer, 20)
    before = float(ew.measure.equivariance_error(a.eval(), "C4", torch.randn(8, 3, 9, 9)))
    snap(a, loader=list(batches(4)))
    after = float(ew.measure.equivariance_error(a.eval(), "C4", torch.randn(8, 3, 9, 9)))
    assert after < 1e-5 < 1e-2 < before


@pytest.mark.parametrize("amp", [False, True])
def test_a_compiled_training_is_the_eager_one(amp):
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        a = wrapped(penalty=0.5)
        optimizer = torch.optim.SGD(a.parameters(), lr=0.05)
        ew.EquivarianceDecay(a, optimizer, 1.0, every=2)

        def loss(x, y, a=a):
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                out = a(x)
            return cross_entropy(out.float(), y) + a.equiwrap.penalty()

        run = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
        for x, y in batches(6):
            optimizer.zero_grad()
            run(x, y).backward()
            optimizer.step()
        ends.append(a.state_dict())
    for key, one in ends[0].items():
        torch.testing.assert_close(ends[1][key], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision_with_a_skipped_step(fused):
    """Two trainings that meet the same good batches; one has a broken batch in between."""
    ends = []
    for broken in (False, True):
        torch.manual_seed(0)
        a = wrapped()
        optimizer = torch.optim.AdamW(a.parameters(), lr=1e-2, fused=fused)
        decay = ew.EquivarianceDecay(a, optimizer, 5.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
        for i, (x, y) in enumerate(batches(5)):
            for bad in [True, False] if broken and i == 2 else [False]:
                state = copy.deepcopy(a.state_dict())
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = cross_entropy(a(x).float(), y)
                scaler.scale(loss * (math.inf if bad else 1.0)).backward()
                scaler.step(optimizer)
                scaler.update(8.0)
                if bad:  # statistics have seen the batch; weights have not moved
                    assert all(torch.equal(p, state[n]) for n, p in a.named_parameters())
                    a.load_state_dict(state)
        assert decay.steps == 5
        ends.append(a.state_dict())
    for key, one in ends[0].items():
        torch.testing.assert_close(ends[1][key], one)


def test_accumulated_gradients_decay_once_for_all_of_them():
    ends = []
    for parts in (1, 4):
        torch.manual_seed(0)
        a = wrapped().eval()  # batch statistics would tell the parts from the whole
        optimizer = torch.optim.SGD(a.parameters(), lr=0.05)
        decay = ew.EquivarianceDecay(a, optimizer, 2.0)
        for x, y in batches(5):
            optimizer.zero_grad()
            for u, v in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (cross_entropy(a(u), v) / parts).backward()
            optimizer.step()
        assert decay.steps == 5
        ends.append(a.state_dict())
    for key, one in ends[0].items():
        torch.testing.assert_close(ends[1][key], one)


def test_averages_of_weights_follow_and_are_not_decayed_themselves():
    a = wrapped()
    optimizer = torch.optim.SGD(a.parameters(), lr=0.05)
    ema = AveragedModel(a, avg_fn=lambda mean, new, n: 0.5 * mean + 0.5 * new)
    ew.EquivarianceDecay(a, optimizer, 3.0)
    key = next(t.path for t in a.equiwrap.targets)
    mean = a.get_parameter(key).detach().clone()
    for i, (x, y) in enumerate(batches(6)):
        optimizer.zero_grad()
        cross_entropy(a(x), y).backward()
        optimizer.step()
        ema.update_parameters(a)
        now = a.get_parameter(key).detach()
        mean = 0.5 * mean + 0.5 * now if i else now.clone()
        torch.testing.assert_close(ema.module.get_parameter(key).detach(), mean)
    assert ratio(a) < ratio(a, ema.module)
    x, _ = next(batches(1))
    torch.testing.assert_close(ema.module.eval()(x), ema.eval()(x))


def test_a_copy_of_a_wrapped_model_has_a_decay_of_its_own():
    a = wrapped()
    b = copy.deepcopy(a)
    start = copy.deepcopy(b.state_dict())
    optimizer = torch.optim.SGD(a.parameters(), lr=0.05)
    ew.EquivarianceDecay(a, optimizer, 3.0)
    fit(a, optimizer, 5)
    assert all(torch.equal(v, start[k]) for k, v in b.state_dict().items())
    other = torch.optim.SGD(b.parameters(), lr=0.05)
    ew.EquivarianceDecay(b, other, 3.0)
    fit(b, other, 5)
    for key, one in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[key], one)


def test_the_plain_model_sees_the_decay_since_it_shares_the_weights():
    net = plain_net()
    a = ew.equivariantize(
        net, "C4", "b c h w -> b k", method="penalize", example=torch.randn(2, 3, 9, 9)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    ew.EquivarianceDecay(a, optimizer, 30.0)
    before = ratio(a)
    fit(net, optimizer, 5)
    assert ratio(a, net) == ratio(a) < 0.1 * before


def test_weights_in_bfloat16_train_with_the_decay():
    found = {}
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        a = wrapped().to(torch.bfloat16)
        optimizer = torch.optim.SGD(a.parameters(), lr=0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ew.EquivarianceDecay(a, optimizer, strength, every=4)
            for x, y in batches(40):
                optimizer.zero_grad()
                cross_entropy(a(x.bfloat16()).float(), y).backward()
                optimizer.step()
        assert all(p.dtype == torch.bfloat16 for p in a.parameters())
        found[strength] = ratio(a)
    assert found[1.0] < 0.2 * found[0.0]


def test_checkpoints_resume_the_decay_with_the_optimiser():
    ends = []
    for cut in (None, 3):
        torch.manual_seed(0)
        a = wrapped()
        optimizer = torch.optim.AdamW(a.parameters(), lr=1e-2)
        decay = ew.EquivarianceDecay(a, optimizer, 2.0, every=2, schedule=("linear", 6))
        for i, (x, y) in enumerate(batches(7)):
            if i == cut:
                kept = [copy.deepcopy(o.state_dict()) for o in (a, optimizer, decay)]
                a = wrapped()
                optimizer = torch.optim.AdamW(a.parameters(), lr=1.0)
                decay = ew.EquivarianceDecay(a, optimizer, 9.0, every=2, schedule=("linear", 6))
                for one, state in zip((a, optimizer, decay), kept, strict=True):
                    one.load_state_dict(state)
            optimizer.zero_grad()
            cross_entropy(a(x), y).backward()
            optimizer.step()
        ends.append(a.state_dict())
    for key, one in ends[0].items():
        assert torch.equal(ends[1][key], one), key
