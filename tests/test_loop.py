"""The callback of the training loop: what it does to weights, what it measures, how it goes on."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from reference_penalty import Small
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import equiwrap as ew
from equiwrap import EquiwrapWarning, SignatureError
from equiwrap.penalty import AlphaController, DefectController, energies, penalty

SIDE, CLASSES = 9, 3


class Noisy(Small):
    """With dropout and batch statistics: whatever a measurement could disturb."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return super().forward(self.drop(x))


def data(n=24, seed=3, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, SIDE, SIDE, generator=draw, dtype=dtype)
    return x, torch.randint(0, CLASSES, (n,), generator=draw)


def wrapped(cls=Small, dtype=torch.float64, **more):
    torch.manual_seed(0)
    asked = {"method": "penalize", "hidden": "trivial", "example": data(4, dtype=dtype)[0]}
    return ew.equivariantize(cls().to(dtype), "C4", "b c h w -> b k", **asked | more)


def batches(steps, start=0):
    """The same batches for every training; with noise drawn from the global generator."""
    for i in range(start, steps):
        yield data(8, seed=100 + i)


def train(model, optimizer, callback=None, steps=6, start=0, epoch=3):
    """A loop as people write it."""
    for i, (x, y) in enumerate(batches(steps, start), start):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        if callback is not None:
            callback.before_step(optimizer)
        optimizer.step()
        if callback is not None:
            callback.after_step()
            if (i + 1) % epoch == 0:
                callback.after_epoch()
    return model


def sgd(model, rate=0.1):
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)


def same(one, two):
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def close(one, two, tolerance=1e-12):
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, msg=name)


def ratio(model):
    found = energies(model)
    return sum(e.defect for e in found) / sum(e.total for e in found)


# -- what it does to the weights -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "strength"), [("decay", 0.5), ("lasso", 0.7), ("ball", 0.3)])
def test_a_decay_of_the_callback_is_the_decay(kind, strength):
    a, b, plain = wrapped(), wrapped(), wrapped()
    one, two = sgd(a), sgd(b)
    callback = ew.EquivarianceCallback(
        a, penalty=strength, kind=kind, decay_every=2, schedule=("linear", 4)
    )
    ew.EquivarianceDecay(b, two, strength, every=2, kind=kind, schedule=("linear", 4))
    train(a, one, callback)
    train(b, two)
    same(a, b)
    assert callback.steps == 6
    assert ratio(train(plain, sgd(plain))) > 1.05 * ratio(a)


@pytest.mark.parametrize("metric", ["frobenius", "relative", "lasso"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_loss_kind_trains_as_the_loss_with_the_penalty_would(metric, clip):
    a, b = wrapped(), wrapped()
    one, two = sgd(a), sgd(b)
    callback = ew.EquivarianceCallback(
        a, penalty=0.7, kind="loss", metric=metric, schedule=("cosine", 5)
    )
    for i, (x, y) in enumerate(batches(6)):
        factor = (1 - math.cos(math.pi * min(i / 5, 1))) / 2
        for model, optimizer in ((a, one), (b, two)):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            if model is b:
                loss = loss + 0.7 * factor * penalty(b, metric=metric)
            loss.backward()
            if model is a:
                callback.before_step(one)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        callback.after_step()
    close(a, b)
    free = wrapped()
    assert ratio(a) < ratio(train(free, sgd(free))) - 1e-3


@pytest.mark.parametrize("kind", ["decay", "ball", "loss"])
def test_an_accumulated_step_is_one_step(kind):
    ends = []
    for parts in (1, 4):
        a = wrapped().eval()  # batch statistics would tell the parts from the whole
        optimizer = sgd(a)
        callback = ew.EquivarianceCallback(a, penalty=0.3, kind=kind, decay_every=1)
        for x, y in batches(5):
            optimizer.zero_grad()
            for part, label in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (cross_entropy(a(part), label) / parts).backward()
            callback.before_step(optimizer)
            optimizer.step()
            callback.after_step()
        assert callback.steps == 5
        ends.append(a)
    close(*ends)


@pytest.mark.parametrize("kind", ["decay", "ball", "lasso", "loss"])
@pytest.mark.parametrize("unscaled", [False, True])
def test_an_overflowed_step_does_nothing_and_counts_nothing(kind, unscaled):
    a = wrapped(dtype=torch.float32)
    optimizer = torch.optim.AdamW(a.parameters(), lr=0.05, weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    callback = ew.EquivarianceCallback(a, penalty=0.5, kind=kind, decay_every=1, every=None)

    def step(x, y, broken):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(a(x).float(), y)
        scaler.scale(loss * (math.inf if broken else 1.0)).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        callback.before_step(optimizer, 1.0 if unscaled else scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()
        callback.after_step()

    for i, (x, y) in enumerate(batches(4)):
        before = [p.detach().clone() for p in a.parameters()]
        step(x.float(), y, broken=i % 2 == 1)
        moved = any(not torch.equal(p, q) for p, q in zip(a.parameters(), before, strict=True))
        assert moved is (i % 2 == 0)
    assert callback.steps == 2


def test_the_gradient_is_scaled_as_the_others_are():
    found = []
    for scale in (1.0, 1024.0):
        a = wrapped()
        optimizer = torch.optim.SGD(a.parameters(), lr=1.0)
        callback = ew.EquivarianceCallback(a, penalty=0.5, kind="loss")
        for p in a.parameters():
            p.grad = torch.zeros_like(p)
        callback.before_step(optimizer, scale)
        found.append([p.grad / scale for p in a.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-14, atol=0)
    assert any(float(g.abs().max()) > 0 for g in found[0])


@pytest.mark.parametrize("how", ["averaged", "copy"])
def test_copies_hold_projected_weights_where_asked(how):
    a = wrapped()
    optimizer = sgd(a)
    average = AveragedModel(a, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    kept = average if how == "averaged" else copy.deepcopy(a)
    callback = ew.EquivarianceCallback(a, penalty=1e-3, ema=kept)
    free = copy.deepcopy(average)
    for x, y in batches(4):
        optimizer.zero_grad()
        cross_entropy(a(x), y).backward()
        callback.before_step(optimizer)
        optimizer.step()
        average.update_parameters(a)
        free.update_parameters(a)
        callback.after_step()
    inside = average.module if how == "averaged" else kept
    assert ratio(inside) < 1e-28
    assert ratio(free.module) > 0.1
    assert ratio(a) > 0.1
    if how == "averaged":  # P is linear: the same as the projection of the free average
        ew.penalty.snap(free.module, a.equiwrap.targets)
        for one, two in zip(inside.parameters(), free.module.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-14)


def test_the_end_applies_what_waits_and_snaps_where_asked():
    a, b = wrapped(), wrapped()
    for model, snapped in ((a, True), (b, False)):
        callback = ew.EquivarianceCallback(model, penalty=0.2, decay_every=4, snap=snapped)
        train(model, sgd(model), callback, steps=6)
        assert callback.pull.decays[0].waiting == 2
        callback.finish()
        assert not callback.pull.decays
    assert ratio(a) < 1e-28
    c = wrapped()
    two = sgd(c)
    decay = ew.EquivarianceDecay(c, two, 0.2, every=4)
    train(c, two)
    decay.flush()
    same(b, c)


def test_a_compiled_step_and_checkpointed_activations_train_alike():
    ends = []
    for how in ("eager", "compiled", "checkpointed"):
        a = wrapped()
        run = torch.compile(a, backend="aot_eager") if how == "compiled" else a
        callback = ew.EquivarianceCallback(run, penalty=0.3, decay_every=2)
        optimizer = sgd(a)
        for x, y in batches(4):
            optimizer.zero_grad()
            if how == "checkpointed":
                out = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)
            else:
                out = run(x)
            cross_entropy(out, y).backward()
            callback.before_step(optimizer)
            optimizer.step()
            callback.after_step()
        ends.append(a)
    for other in ends[1:]:
        for one, two in zip(ends[0].parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


# -- what it measures ------------------------------------------------------------------------------


def test_measuring_leaves_no_trace_in_the_training():
    ends, states = [], []
    for every in (None, 1):
        a = wrapped(Noisy)
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        holdout = DataLoader(TensorDataset(*data()), batch_size=8, shuffle=True)
        watching = {"every": every, "holdout": holdout} if every else {}
        callback = ew.EquivarianceCallback(a, penalty=0.1, **watching)
        a.norm.eval()  # frozen statistics stay frozen
        train(a, sgd(a), callback)
        assert a.training
        assert not a.norm.training
        ends.append(a)
        states.append((torch.get_rng_state(), random.random(), np.random.rand()))
    same(*ends)
    assert torch.equal(states[0][0], states[1][0])
    assert states[0][1:] == states[1][1:]


def test_rows_say_what_the_measures_say():
    a, (x, y) = wrapped(), data()
    seen = []
    callback = ew.EquivarianceCallback(
        a, penalty=0.3, holdout=(x, y), every=2, layers=True, log=lambda v, s: seen.append((s, v))
    )
    train(a, sgd(a), callback, steps=4, epoch=4)
    assert [row["step"] for row in callback.history] == [0, 2, 4, 4]
    last = callback.history[-1]
    a.eval()
    error = ew.measure.equivariance_error(a, "C4", x)
    assert last["equiv/error"] == pytest.approx(error.value, rel=1e-9)
    assert last["equiv/error_half_width"] == pytest.approx(error.half_width, rel=1e-9)
    dial = ew.measure.data_error(a, "C4", (x, y)).dial
    assert last["equiv/alpha_star"] == pytest.approx(dial.value, rel=1e-6)
    assert last["equiv/alpha_star_low"] < last["equiv/alpha_star"] < last["equiv/alpha_star_high"]
    assert last["equiv/ratio"] == pytest.approx(ratio(a), rel=1e-9)
    total = sum(e.defect for e in energies(a))
    assert last["equiv/penalty"] == pytest.approx(0.3 * total, rel=1e-9)
    found = {e.path: e.ratio**0.5 for e in energies(a)}
    for path, value in found.items():
        assert last[f"equiv/layer/{path}"] == pytest.approx(value, rel=1e-9)
    assert [step for step, _ in seen] == [0, 2, 4, 4]
    assert seen[-1][1] == {k: v for k, v in last.items() if k not in ("step", "epoch")}
    assert "error" in callback.line
    assert "α*" in callback.line


@pytest.mark.parametrize("holdout", ["tensor", "inputs", "pair", "loader", "list"])
def test_holdouts_come_in_every_usual_shape(holdout):
    x, y = data()
    given = {
        "tensor": x,
        "inputs": (x,),
        "pair": (x, y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=24),
        "list": [(x[:12], y[:12]), (x[12:], y[12:])],
    }[holdout]
    callback = ew.EquivarianceCallback(wrapped().eval(), holdout=given)
    row = callback.measure(data=True)
    assert ("equiv/alpha_star" in row) is (holdout in ("pair", "loader", "list"))
    first = x[:12] if holdout == "list" else x
    expected = ew.measure.equivariance_error(wrapped().eval(), "C4", first).value
    assert row["equiv/error"] == pytest.approx(expected, rel=1e-9)


def test_plain_and_averaged_models_are_watched():
    x, y = data()
    plain = Small().double()
    free = ew.EquivarianceCallback(plain, "C4", "b c h w -> b k", holdout=(x, y), every=1)
    whole = ew.equivariantize(plain, "C4", "b c h w -> b k", frame="whole")
    exact = ew.EquivarianceCallback(whole, holdout=(x, y), every=1)
    train(plain, sgd(plain), free, steps=2)
    train(whole, sgd(whole), exact, steps=2)
    assert free.history[-1]["equiv/error"] > 1e-2
    assert exact.history[-1]["equiv/error"] < 1e-12
    assert "equiv/alpha_star" not in exact.after_epoch()  # nothing breaks it: not defined
    assert "equiv/alpha_star" in free.after_epoch()
    assert "equiv/strength" not in free.history[-1]


def test_a_plain_model_is_typed_by_the_callback_and_stays_plain():
    plain = Small().double()
    callback = ew.EquivarianceCallback(
        plain, "C4", "b c h w -> b k", penalty=1.0, hidden="trivial", holdout=data()[0]
    )
    before = callback.history
    train(plain, sgd(plain), callback, steps=6)
    assert type(plain) is Small
    assert callback.history[-1]["equiv/ratio"] < 0.9 * before[0]["equiv/ratio"]


def test_a_loop_without_before_step_counts_its_own_steps():
    callback = ew.EquivarianceCallback(wrapped(), holdout=data()[0], every=3)
    for _ in range(6):
        callback.after_step()
    assert [row["step"] for row in callback.history] == [3, 6]


def test_a_fraction_of_the_training_is_a_pace():
    a = wrapped()
    callback = ew.EquivarianceCallback(a, holdout=data()[0], every=0.5, total=6)
    train(a, sgd(a), callback, epoch=100)
    assert [row["step"] for row in callback.history] == [0, 3, 6]


def test_only_what_is_known_to_be_around_a_model_is_taken_off():
    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Conv2d(2, 4, 3, padding=1)  # its own attribute of that name
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.module(x).relu().mean((2, 3)))

    plain = Headed().double()
    asked = {"penalty": 0.1, "hidden": "trivial", "holdout": data()[0]}
    callback = ew.EquivarianceCallback(plain, "C4", "b c h w -> b k", **asked)
    assert callback.model is plain
    assert [t.path for t in callback.pull.targets] == ["module.weight"]
    average = AveragedModel(plain)
    assert ew.EquivarianceCallback(average).model is average.module
    timm = pytest.importorskip("timm")
    copied = timm.utils.ModelEmaV3(plain)
    assert ew.EquivarianceCallback(copied).model is copied.module


@pytest.mark.parametrize("plain", [True, False])
def test_a_forward_that_a_trainer_put_autocast_around_is_looked_behind(plain):
    model = Small().double() if plain else wrapped()
    own = model.forward
    model._original_forward = own  # as accelerate does
    model.forward = lambda x: own(x.bfloat16().to(x.dtype))
    asked = {"penalty": 0.1, "hidden": "trivial", "holdout": data()[0]}
    callback = ew.EquivarianceCallback(model, "C4", "b c h w -> b k", **asked)
    error = callback.measure()["equiv/error"]
    del model.forward, model._original_forward
    exact = ew.measure.equivariance_error(model.eval(), "C4", asked["holdout"]).value
    assert error == pytest.approx(exact, rel=1e-9)
    assert len(callback.pull.targets) == 2
    with torch.no_grad():
        model.first.weight.zero_()
    assert not callback.pull.model.first.weight.any()


# -- what it steers --------------------------------------------------------------------------------


def linear(odd):
    """One kernel to learn, data that break C4 by `odd` of what they are, and a penalised model."""
    x = data(200)[0]
    given = torch.randn(SIDE, SIDE, dtype=torch.float64)
    even = sum(torch.rot90(given, k, (0, 1)) for k in range(4)) / 4
    kernel = even / even.norm() + odd * (given - even) / (given - even).norm()
    y = (x[:, 0] * kernel).sum((1, 2))[:, None]
    net = nn.Sequential(nn.Conv2d(2, 1, SIDE), nn.Flatten()).double()
    a = ew.equivariantize(
        net, "C4", "b c h w -> b k", method="penalize", hidden="trivial", example=x
    )
    return a, (x[:100], y[:100]), (x[100:], y[100:])


def fit(a, pair, callback, steps, rate=0.05, epoch=20, after=0):
    optimizer = torch.optim.SGD(a.parameters(), lr=rate)
    for i in range(steps):
        optimizer.zero_grad()
        (a(pair[0]) - pair[1]).square().mean().backward()
        callback.before_step(optimizer)
        optimizer.step()
        callback.after_step()
        if i >= after and i % epoch == 0:
            callback.after_epoch()


@pytest.mark.parametrize("goal", [0.05, 0.2])
def test_a_goal_for_the_error_is_held(goal):
    a, (x, _), trained = linear(odd=1.0)
    free = ew.EquivarianceCallback(copy.deepcopy(a), holdout=x, every=2)
    held = ew.EquivarianceCallback(a, penalty=1e-2, steer=goal, holdout=x, every=2, decay_every=1)
    fit(free.model, trained, free, 300, epoch=1000)
    fit(a, trained, held, 300, epoch=1000)
    for row in held.history[-10:]:
        assert goal / 1.25 < row["equiv/error"] < 1.25 * goal
    assert free.history[-1]["equiv/error"] > 0.5


def test_alpha_moves_the_strength_towards_one():
    a, holdout, trained = linear(odd=0.0)  # what breaks C4 is overfitted
    callback = ew.EquivarianceCallback(a, penalty=1e-2, steer=True, holdout=holdout, every=None)
    fit(a, trained, callback, 200, after=100)
    last = callback.history[-1]
    assert callback.history[0]["equiv/alpha_star"] < 0.5
    assert last["equiv/strength"] > 1.5e-2
    expected = 1e-2
    for row in callback.history:
        expected *= math.exp(0.5 * max(-2.0, min(2.0, 1 - row["equiv/alpha_star"])))
    assert last["equiv/strength"] == pytest.approx(expected, rel=1e-12)


def test_the_line_of_the_usage_page_runs_and_says_what_it_steers_by():
    net, x = Small(), data(dtype=torch.float32)[0]
    a = ew.equivariantize(net, "C4", method="penalize", penalty=1e-2, hidden="trivial", example=x)
    cb = ew.EquivarianceCallback(
        a, "C4", penalty=1e-2, schedule="cosine", steer=True, every=100, holdout=x
    )
    optimizer = torch.optim.AdamW(a.parameters())
    cb.attach(optimizer, total=4)
    for i in range(4):
        optimizer.zero_grad()
        a(x).square().mean().backward()
        if i == 0:
            with pytest.warns(EquiwrapWarning, match=r"holdout=\(x, y\)"):
                cb.before_step(optimizer)
        optimizer.step()
        cb.after_step()
    goal = cb.state_dict()["steering"]["goal"]
    assert goal == pytest.approx(0.1 * cb.history[0]["equiv/error"])


# -- going on --------------------------------------------------------------------------------------


CASES = [
    {"kind": "decay", "steer": True},
    {"kind": "decay", "decay_every": 4, "schedule": ("cosine", 9)},
    {"kind": "ball", "decay_every": 2},
    {"kind": "loss", "steer": 0.01},
    {"kind": "lasso", "steer": DefectController(0.05)},
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['kind']}-{c.get('steer')}"[:24])
@pytest.mark.parametrize("killed", [1, 2, 3, 4, 7])
def test_a_killed_training_goes_on_bit_for_bit(case, killed):
    holdout, steps = data(), 9

    def made():
        model = wrapped(Noisy)
        asked = copy.deepcopy(case) | {"holdout": holdout, "every": 2}
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        return model, optimizer, ew.EquivarianceCallback(model, penalty=0.2, **asked)

    model, optimizer, callback = made()
    torch.manual_seed(7)
    train(model, optimizer, callback, steps)

    half, other, before = made()
    torch.manual_seed(7)
    train(half, other, before, killed)
    file = io.BytesIO()
    torch.save(
        {
            "model": half.state_dict(),
            "optimizer": other.state_dict(),
            "callback": before.state_dict(),
            "random": torch.get_rng_state(),
        },
        file,
    )
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    json.dumps(saved["callback"])  # plain numbers, lists and names

    resumed, third, after = made()
    torch.manual_seed(99)
    resumed.load_state_dict(saved["model"])
    third.load_state_dict(saved["optimizer"])
    after.load_state_dict(saved["callback"])
    torch.set_rng_state(saved["random"])
    train(resumed, third, after, steps, start=killed)
    same(resumed, model)
    assert after.pull.strength == callback.pull.strength
    assert after.history == callback.history
    assert all(row["equiv/error"] > 1e-5 for row in after.history)
    assert after.state_dict() == callback.state_dict()


def test_a_checkpoint_loads_where_equiwrap_is_not_installed(tmp_path):
    a = wrapped(dtype=torch.float32)
    callback = ew.EquivarianceCallback(a, penalty=0.2, holdout=data(dtype=torch.float32), every=1)
    optimizer = sgd(a)
    for x, y in batches(2):
        cross_entropy(a(x.float()), y).backward()
        callback.before_step(optimizer)
        optimizer.step()
        callback.after_step()
    path = tmp_path / "last.pt"
    torch.save({"model": a.state_dict(), "callback": callback.state_dict()}, path)
    code = (
        "import sys, torch\n"
        "sys.modules['equiwrap'] = None\n"
        f"sys.path.insert(0, {str(sys.path[0])!r})\n"
        "from torch import nn\n"
        f"saved = torch.load({str(path)!r}, weights_only=True)\n"
        "names = {k.partition('.')[0] for k in saved['model']}\n"
        "net = nn.ModuleDict({'first': nn.Conv2d(2, 6, 3), 'norm': nn.BatchNorm2d(6),\n"
        "    'second': nn.Conv2d(6, 6, 5), 'head': nn.Linear(6, 3)})\n"
        "net.load_state_dict(saved['model'], strict=True)\n"
        "print(saved['callback']['steps'], sys.modules['equiwrap'])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["2", "None"]


# -- what it says ----------------------------------------------------------------------------------


def told(callback, model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, sgd(model), callback, steps=1)
        callback.finish()
    return [str(w.message) for w in caught if issubclass(w.category, EquiwrapWarning)]


def test_a_misaligned_model_is_told_once_where():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).double()
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    a = ew.equivariantize(net, "C4", method="penalize", hidden="trivial", example=x)
    callback = ew.EquivarianceCallback(a, penalty=0.1, holdout=x)
    said = told(callback, a)
    assert len(said) == 1
    assert "centre" in said[0]
    assert said[0] in str(callback.report())


def test_a_vacuous_certificate_is_told_at_the_end():
    x = data()[0]
    a = wrapped()
    with torch.no_grad():
        for p in a.parameters():
            p.mul_(20)
    loud = ew.EquivarianceCallback(a, penalty=0.1, holdout=x, certificate=True)
    assert any("vacuous" in line for line in told(loud, a))
    silent = ew.EquivarianceCallback(wrapped(), penalty=0.1, holdout=x)
    assert not told(silent, silent.model)


def test_the_guard_speaks_for_a_frozen_upright_model():
    x = torch.randn(64, 1, 9, 9, dtype=torch.float64)
    x[:, :, 0] += 5.0  # a bright row on top
    y = (x[:, 0, 0].mean(-1) > 5).long()

    class Top(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)

        def forward(self, x):
            m = x[:, 0, 0].mean(-1) - 5 + self.bias
            return torch.stack([-m, m], -1)

    a = ew.equivariantize(Top(), "C4", "b c h w -> b k", frame="whole")
    callback = ew.EquivarianceCallback(a, holdout=(x, y))
    other = nn.Linear(1, 1)
    with pytest.warns(EquiwrapWarning, match="has not learned moved inputs"):
        callback.before_step(sgd(other))


def test_a_frame_that_jumps_is_told_where_outputs_move():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 12), nn.Tanh(), nn.Unflatten(1, (4, 3))
    ).double()
    x = torch.randn(8, 4, 3, dtype=torch.float64)
    for frame, expected in (("axes", 1), ("weighted", 0)):
        a = ew.equivariantize(net, "SO(3)", "b n v -> b n v", frame=frame)
        callback = ew.EquivarianceCallback(a, holdout=x)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            callback.before_step(sgd(a))
        said = [str(w.message) for w in caught if "jumps" in str(w.message)]
        assert len(said) == expected, said


def test_the_report_prints_and_saves_its_curves(tmp_path):
    a = wrapped()
    path = tmp_path / "runs" / "run.html"
    callback = ew.EquivarianceCallback(
        a, penalty=0.5, holdout=data(), every=1, layers=True, report=str(path)
    )
    train(a, sgd(a), callback)
    run = callback.finish()
    text = str(run)
    assert "equiv/error" in text
    assert "equiv/layer/first.weight" in text
    page = path.read_text()
    assert page.count("<polyline") >= 5
    assert "equiv/alpha_star" in page
    saved = json.loads(run.save(tmp_path / "run.json").read_text())
    assert saved["rows"] == callback.history
    lines = run.save(tmp_path / "run.csv").read_text().splitlines()
    assert len(lines) == len(callback.history) + 1
    assert run.curve("equiv/error")[0][0] == 0
    with pytest.raises(ValueError, match=r"\.html|\.json|\.csv"):
        run.save("run.txt")


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"penalty": -1.0}, ValueError, "at least 0"),
        ({"penalty": 1e-2, "kind": "hard"}, ValueError, "decay, lasso, ball, loss"),
        ({"penalty": 1e-2, "metric": "l2"}, ValueError, "frobenius"),
        ({"penalty": 1e-2, "every": 0}, ValueError, "1 at least"),
        ({"penalty": 1e-2, "every": 1.5}, ValueError, "at most 1.0"),
        ({"penalty": 1e-2, "every": "epoch"}, ValueError, "counts steps"),
        ({"penalty": 1e-2, "steer": True}, ValueError, "holdout="),
        ({"steer": True, "holdout": 1}, ValueError, "penalty="),
        ({"penalty": 0.1, "kind": "ball", "steer": 0.1, "holdout": 1}, ValueError, "radius"),
        ({"penalty": 0.0, "steer": True, "holdout": 1}, ValueError, "positive number"),
        ({"penalty": 1e-2, "steer": "auto", "holdout": 1}, ValueError, "steer='auto'"),
        (
            {"penalty": {"first.weight": 1.0}, "steer": 0.1, "holdout": 1},
            ValueError,
            "one strength",
        ),
    ],
)
def test_wrong_arguments_get_a_sentence(wrong, error, said):
    if wrong.get("holdout") == 1:
        wrong = wrong | {"holdout": data()[0]}
    with pytest.raises(error, match=said):
        ew.EquivarianceCallback(wrapped(), **wrong)


def test_states_of_others_get_a_sentence():
    pulls = ew.EquivarianceCallback(wrapped(), penalty=0.1)
    watches = ew.EquivarianceCallback(wrapped())
    with pytest.raises(ValueError, match=r"lacks epochs"):
        pulls.load_state_dict({"steps": 3})
    with pytest.raises(ValueError, match="without penalty="):
        pulls.load_state_dict(watches.state_dict())
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        ew.EquivarianceCallback("net", "C4")


def test_an_optimizer_of_another_model_is_told():
    a, other = wrapped(), Small().double()
    callback = ew.EquivarianceCallback(a, penalty=0.1)
    x, y = data(8)
    optimizer = sgd(other)
    cross_entropy(other(x), y).backward()
    callback.before_step(optimizer)
    optimizer.step()
    with pytest.warns(ew.NoEffectWarning, match="nothing is pulled"):
        callback.after_step()


def test_the_group_that_is_named_is_the_one_that_is_measured():
    a, x = wrapped().eval(), data()[0]
    rows = {g: ew.EquivarianceCallback(a, g, holdout=x).measure() for g in (None, "C4", "D4")}
    for group in ("C4", "D4"):
        expected = ew.measure.equivariance_error(a, group, x, signature="b c h w -> b k").value
        assert rows[group]["equiv/error"] == pytest.approx(expected, rel=1e-9)
    assert rows[None] == rows["C4"]
    assert rows["D4"]["equiv/error"] != rows["C4"]["equiv/error"]


def test_weights_are_recorded_where_somebody_else_pulls_them():
    a = wrapped()
    callback = ew.EquivarianceCallback(a, layers=True)
    row = callback.measure()
    assert row["equiv/ratio"] == pytest.approx(ratio(a))
    assert "equiv/layer/first.weight" in row
    assert "equiv/strength" not in row


def test_outputs_that_are_not_finite_stop_neither_the_training_nor_the_record():
    a = wrapped()
    x = data()[0] * float("nan")
    callback = ew.EquivarianceCallback(a, penalty=0.1, steer=0.1, holdout=x, every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = callback.measure()
    assert "equiv/error" not in row
    assert callback.pull.strength == 0.1


def test_wrong_data_and_wrong_models_get_a_sentence():
    x, y = data()
    whole = ew.equivariantize(Small().double(), "C4", "b c h w -> b k", frame="whole")
    with pytest.raises(SignatureError, match="leave penalty= out"):
        ew.EquivarianceCallback(whole, penalty=1e-2)
    for bad, said in (
        (({"x": x},), "tuple"),
        ((x, y, y), "1 input"),
        ([], "without batches"),
        (x[:0], "empty"),
    ):
        with pytest.raises(SignatureError, match=said):
            ew.EquivarianceCallback(wrapped(), holdout=bad).measure()
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        ew.EquivarianceCallback(wrapped(), penalty=1e-2).before_step(nn.Linear(1, 1))
    a = wrapped()
    shaped = ew.EquivarianceCallback(a, penalty=1e-2, schedule="cosine")
    with pytest.raises(ValueError, match="total="):
        shaped.before_step(sgd(a))
    steered = ew.EquivarianceCallback(a, penalty=1.0, steer=AlphaController(), holdout=x)
    with pytest.raises(ValueError, match="needs targets"):
        steered.before_step(sgd(a))
    paced = ew.EquivarianceCallback(a, holdout=x, every=0.1)
    with pytest.raises(ValueError, match="total="):
        train(a, sgd(a), paced)
