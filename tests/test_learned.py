"""Learned, confident, drawn and partial frames: what is exact is exact, and the rest says so."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clouds import clouds
from reference import Convs, Dense, relative
from torch import nn

import equiwrap as ew
from equiwrap.frames import Confidence, Drawn, Learned, Partial, fit_upright
from equiwrap.groups import parse_group
from equiwrap.testing import tolerance

D = torch.float64


class Energy(nn.Module):
    """A score without any symmetry."""

    def __init__(self, size, dtype=torch.float32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(size, 16, dtype=dtype), nn.Tanh(), nn.Linear(16, 1, dtype=dtype)
        )

    def forward(self, x):
        return self.body(x).flatten()


class Vectors(nn.Module):
    """Equivariant vectors: sums of the points, weighted by functions of their distances."""

    def __init__(self, count=3, dtype=D):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2, 16, dtype=dtype), nn.Tanh(), nn.Linear(16, count, dtype=dtype)
        )

    def forward(self, x):
        far = torch.stack([x.norm(dim=-1), (x @ x.mT).square().mean(-1)], -1)
        return self.body(far).mT @ x


class Bent(Vectors):
    """Not equivariant."""

    def forward(self, x):
        return super().forward(x) + x[:, :3] * torch.tensor([1.0, 2, 3], dtype=x.dtype)


@pytest.mark.parametrize("group", ["C4", "D4", "C2"])
def test_any_energy_is_exact_trained_or_not(group):
    x = torch.randn(5, 3, 8, 8)
    x[1] = 1.0
    model = ew.equivariantize(
        Convs(dtype=torch.float32), group, "b c h w -> b k h w", frame=Learned(Energy(192))
    )
    assert model.equiwrap.errors(x).worst <= tolerance(torch.float32)
    frame = model.equiwrap.frame
    assert frame.consistency(parse_group(group), x[2:]) == 1.0
    assert 0 <= frame.identity_rate(parse_group(group), x) <= 1


def test_straight_through_brings_the_gradient_of_the_task_to_the_energy():
    x = torch.randn(6, 3, 8, 8)
    energy = Energy(192)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    frame = Learned(energy, straight_through=True, temperature=0.5)
    model = ew.equivariantize(net, "C4", "b c h w -> b k", frame=frame)
    model.train()
    y = model(x)
    y.square().sum().backward()
    grads = [p.grad for p in energy.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)
    assert max(float(g.abs().amax()) for g in grads) > 1e-6
    model.eval()
    assert relative(model(x), y) < 1e-5  # the forward is that of the best element
    assert model.equiwrap.errors(x).worst < 1e-5


@pytest.mark.parametrize("group", ["O(3)", "SO(3)", "E(3)", "SE(3)"])
def test_equivariant_vectors_are_exact_on_every_cloud(group):
    point = "p" if "E" in group else "v"
    for title, cloud in clouds().items():
        if "±" in title:  # vectors that nearly cancel keep few digits
            continue
        n = len(cloud)
        x = torch.stack([cloud, torch.randn(n, 3, dtype=D)])
        model = ew.equivariantize(
            Dense(n, 3, (4,)), group, f"b n {point} -> b k", frame=Learned(Vectors())
        )
        assert model.equiwrap.errors(x, elements=3).worst < 1e-8, title


def test_a_network_that_is_not_equivariant_is_caught():
    x, group = torch.randn(4, 6, 3, dtype=D), parse_group("SE(3)")
    assert Learned(Vectors()).consistency(group, x) > 1 - 1e-9
    assert Learned(Bent()).consistency(group, x) < 0.9


def test_gradients_reach_the_network_of_vectors_and_its_keys_have_one_prefix():
    vectors = Vectors()
    plain = Dense(6, 3, (2,))
    keys = set(plain.state_dict())
    model = ew.equivariantize(plain, "SO(3)", "b n v -> b k", frame=Learned(vectors))
    model(torch.randn(4, 6, 3, dtype=D)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vectors.parameters())
    assert max(float(p.grad.abs().amax()) for p in vectors.parameters()) > 0
    assert all(k in keys or k.startswith("equiwrap.") for k in model.state_dict())


def test_the_model_itself_may_choose_and_no_key_moves():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    x = torch.randn(6, 3, 8, 8)
    x[1] = 0.5
    model = ew.equivariantize(net, "C4", "b c h w -> b k", frame="confidence")
    assert set(model.state_dict()) == set(net.state_dict())
    assert model.equiwrap.errors(x).worst <= tolerance(torch.float32)
    y = model(x)
    for i in range(6):  # by hand: the turn with the largest margin
        orbit = torch.stack([x[i].rot90(-k, (-2, -1)) for k in range(4)])
        top = net(orbit).topk(2, -1).values
        best = (top[:, 0] - top[:, 1]).argmax()
        assert torch.allclose(net(orbit)[best], y[i], atol=1e-5)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), y)
        assert twin.equiwrap.frame.__dict__["ask"].__self__ is not net
    with pytest.raises(ew.SignatureError, match="reads logits"):
        ew.equivariantize(
            Convs(dtype=torch.float32), "C4", "b c h w -> b k h w", frame="confidence"
        )(x)
    with pytest.raises(ew.GroupError, match="no model is wrapped"):
        Confidence()(parse_group("C4"), None, x)


def test_drawn_frames_are_equivariant_on_average_only():
    x = torch.randn(2, 5, 3, dtype=D)
    few, many = (
        ew.equivariantize(
            Dense(5, 3, (4,)), "O(3)", "b n v -> b k", frame=Drawn(Vectors(), k)
        ).eval()
        for k in (4, 1024)
    )
    torch.manual_seed(0)
    assert float(many.equiwrap.errors(x)) < 0.3 * float(few.equiwrap.errors(x))
    assert float(few.equiwrap.errors(x)) > 1e-3
    assert torch.equal(few(x), few(x))  # the same noise in eval
    assert "distribution only" in str(few.equiwrap.report())

    class Scores(nn.Module):
        def forward(self, x):
            return x.square().sum(-1) + x.sum(-1)

    rows = ew.equivariantize(
        Dense(5, 3, (5, 2)), "S(n)", "b n c -> b n k", frame=Drawn(Scores(), 64)
    )
    assert rows(x).shape == (2, 5, 2)
    quiet = ew.equivariantize(
        Dense(5, 3, (5, 2)), "S(n)", "b n c -> b n k", frame=Drawn(Scores(), 1, noise=0.0)
    )
    assert quiet.equiwrap.errors(x).worst < 1e-9  # without noise it is sorting


def test_partial_sets_claim_nothing():
    x = torch.randn(2, 3, 9, 9)
    net = nn.Sequential(nn.Flatten(), nn.Linear(243, 4))
    model = ew.equivariantize(net, "SO(2)", "b c h w -> b k", frame=Partial(45, samples=5)).eval()
    assert "no exactness" in str(model.equiwrap.report())
    assert model.equiwrap.frame.calls(parse_group("SO(2)")) == 5
    assert float(model.equiwrap.errors(x)) > 0.01
    measure = model.equiwrap.frame(parse_group("SO(2)"))
    ends = torch.atan2(measure.elements[0, :, 0, 1], measure.elements[0, :, 0, 0]).rad2deg()
    assert torch.allclose(ends, torch.linspace(-45, 45, 5, dtype=D))
    model.train()
    assert not torch.equal(model(x), model(x))
    with pytest.raises(ew.GroupError, match="turns of the plane"):
        Partial(45)(parse_group("SO(3)"))
    named = ew.equivariantize(net, "SO(2)", "b c h w -> b k", frame="partial", degrees=45).eval()
    assert torch.equal(named(x), model.eval()(x))
    for bad in ({"degrees": "45"}, {"degrees": 200}, {"samples": 2.5}, {"samples": 0}):
        with pytest.raises(ValueError, match="a whole number of samples"):
            ew.equivariantize(net, "SO(2)", "b c h w -> b k", frame="partial", **bad)


def test_the_upright_prior_and_the_guard():
    sklearn = pytest.importorskip("sklearn.datasets")
    bunch = sklearn.load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(bunch.target)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(300):
        pick = torch.randint(1200, (100,))
        loss = nn.functional.cross_entropy(net(x[pick]), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    test, truth = x[1200:], labels[1200:]
    plain = ew.measure.orbit_accuracy(net, "C4", test, truth)
    assert plain.ruined
    assert "would ruin it" in str(plain)
    prior = fit_upright(x[:1200], parse_group("C4"), steps=150)
    model = ew.equivariantize(net, "C4", "b c h w -> b k", frame=prior).eval()
    found = ew.measure.orbit_accuracy(model, "C4", test, truth)
    assert not found.ruined
    assert len(set(found.accuracies)) == 1
    assert found.mean > plain.mean + 0.2
    assert prior.consistency(parse_group("C4"), test) == 1.0


def test_the_recipe_runs(tmp_path):
    pytest.importorskip("sklearn")
    script = Path(__file__).parent.parent / "recipes" / "frozen_digits.py"
    out = subprocess.run(
        [sys.executable, script, "--seeds", "1", "--steps", "60", "--out", tmp_path / "page.md"],
        capture_output=True,
        text=True,
    )
    assert "upright prior" in (tmp_path / "page.md").read_text(), out.stderr
