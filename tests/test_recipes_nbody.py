"""The recipe of charged particles: the simulator against a loop, and what stays exact."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from recipes_shared import rng
from reference import relative

D = torch.float64


def particles():
    from data import nbody

    return nbody


def nbody():
    import nbody

    return nbody


# -- the charged particles -------------------------------------------------------------------------


def loop_twin(x, v, q, steps):
    """One simulation, a pair and a step at a time, as the published recipe says it."""
    x, v, n = x.tolist(), v.tolist(), len(x)
    q = q[:, 0].tolist()
    kept = {}
    for step in range(1, max(steps) + 1):
        total = [[0.0] * 3 for _ in range(n)]
        for i in range(n):
            for j in range(n):
                if i != j:
                    cubed = math.dist(x[i], x[j]) ** 3
                    for d in range(3):
                        total[i][d] += q[i] * q[j] * (x[i][d] - x[j][d]) / cubed
        for i in range(n):
            for d in range(3):
                v[i][d] += 0.001 * max(-100.0, min(100.0, total[i][d]))
                x[i][d] += 0.001 * v[i][d]
        if step in steps:
            kept[step] = torch.tensor([x, v], dtype=D)
    return [kept[step] for step in steps]


def test_trajectories_are_those_of_a_loop_at_steps_3100_and_4100():
    sim = particles()
    found = sim.trajectories(12, seed=5, n=3)
    x, v, q = sim.drawn(12, 3, rng(5))
    assert torch.equal(found.q.double(), q)
    alike = (q.sum((1, 2)).abs() == 3).nonzero()[:3, 0].tolist()  # pairs that circle are chaotic
    assert len(alike) >= 2
    for i in alike:
        now, later = loop_twin(x[i], v[i], q[i], (3100, 4100))
        assert relative(found.x[i].double(), now[0]) < 1e-6
        assert relative(found.v[i].double(), now[1]) < 1e-6
        assert relative(found.target[i].double(), later[0]) < 1e-6
    (early,) = sim.run((x, v, q), (50,))
    for i in range(12):
        (right,) = loop_twin(x[i], v[i], q[i], (50,))
        assert relative(early[:, i], right) < 1e-9


def test_particles_without_charge_fly_straight_from_frame_to_frame():
    sim = particles()
    x, v, q = sim.drawn(3, 5, rng())
    now, later = sim.run((x, v, 0 * q), (3100, 4100))
    assert relative(now[0], x + 3.1 * v) < 1e-11
    assert relative(later[0], x + 4.1 * v) < 1e-11


def test_momentum_is_kept_until_a_force_is_clipped():
    sim = particles()
    x, v, q = sim.drawn(20, 5, rng(1))
    i, j = torch.triu_indices(5, 5, 1)
    free = (x[:, i] - x[:, j]).norm(dim=-1).amin(-1) > 0.5
    (found,) = sim.run((x[free], v[free], q[free]), (200,))
    assert free.sum() > 3
    assert relative(found[1].sum(1), v[free].sum(1)) < 1e-12
    close = torch.tensor([[[0.0, 0, 0], [0.05, 0, 0], [0.11, 0, 0]]], dtype=D)
    charge = torch.ones(1, 3, 1, dtype=D)
    clipped, whole = sim.force(close, charge), sim.force(close, charge, math.inf)
    assert whole.sum(1).abs().amax() < 1e-9
    assert clipped.sum(1).abs().amax() > 10


def test_forces_are_clipped_by_component_of_their_sum():
    x = torch.tensor([[[0.01, 0.002, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]], dtype=D)
    q = torch.tensor([[[1.0], [1.0], [-1.0]]], dtype=D)
    whole, found = particles().force(x, q, math.inf), particles().force(x, q)
    assert torch.equal(found, whole.clamp(-100, 100))
    assert (found[0, 0, :2] == 100).all()
    assert 0 < found[0, 0, 2] < 1  # the attraction along z is as it was
    pair = particles().force(x[:, :2], q[:, :2], math.inf)  # |F| = 1/r² for two unit charges
    assert relative(pair[0, 0].norm(), 1 / x[0, 0].norm() ** 2) < 1e-12


def test_starts_and_the_linear_guess_are_as_published():
    sim = particles()
    x, v, q = sim.drawn(4000, 5, rng())
    assert relative(v.norm(dim=-1), torch.full((4000, 5), 0.5, dtype=D)) < 1e-12
    assert set(q.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(q.mean())) < 0.03
    assert abs(float(x.std()) - 1) < 0.02
    assert abs(float(sim.drawn(4000, 20, rng())[0].std()) - 4 ** (1 / 3)) < 0.02
    data = sim.trajectories(400, 43)
    guess = (data.x + data.v - data.target).square().mean()
    assert 0.08 < float(guess) < 0.14  # 0.11 on 2000 simulations of the published recipe


# -- the n-body recipe -----------------------------------------------------------------------------


def small(**options):
    base = {"train": 40, "test": 16, "epochs": 2, "batch": 20, "width": 12, "rounds": 2, "some": 16}
    return replace(nbody().Config(), **{**base, "points": (2,), **options})


def made(count, seed=0):
    """Simulations of 300 steps."""
    return particles().trajectories(count, seed, frames=(1, 2))


EXACT = (
    "one frame (axes)",
    "eight frames (pca)",
    "one of eight (pca, stochastic)",
    "weighted, stochastic",
    "EGNN",
)


@pytest.mark.parametrize("method", EXACT)
def test_exact_models_stay_exact_after_training(method):
    data, test, config = made(40), made(16, 1), small()
    model, curve = nbody().train(method, data, test, config, 0)
    found = nbody().measured(model, test, config)
    assert max(found["turned"], found["shifted"], found["permuted"]) < 1e-5
    assert found["shift64"] < 1e-6
    assert abs(found["far"] - found["mse_some"]) < 1e-3 * found["mse_some"]
    assert list(curve) == [2]
    assert relative(torch.tensor(curve[2]), torch.tensor(found["mse_some"])) < 1e-5


@pytest.mark.parametrize("method", ["plain", "O(3) augmentation", "E(3) augmentation"])
def test_other_models_are_not_exact_until_they_are_averaged(method):
    data, test, config = made(40), made(16, 1), small()
    model, _ = nbody().train(method, data, test, config, 0)
    before = nbody().measured(model, test, config)
    assert min(before["turned"], before["shifted"]) > 1e-3
    assert before["permuted"] < 1e-5
    assert before["shift64"] > 1e-2
    after = nbody().measured(nbody().framed(model, "pca"), test, config)
    assert max(after["turned"], after["shifted"], after["permuted"]) < 1e-5
    assert after["shift64"] < 1e-6


def test_augmentation_moves_every_simulation_by_an_element_of_its_own():
    data = made(6)
    moved = nbody().augmented(data, "E(3) augmentation", rng())
    linear = nbody().augmented(data, "O(3) augmentation", rng())
    for now, where in ((moved, "E"), (linear, "O")):
        gap = data.x[:, :1] - data.x
        assert relative((now.x[:, :1] - now.x).norm(dim=-1), gap.norm(dim=-1)) < 1e-5
        assert relative(torch.cdist(now.x, now.target), torch.cdist(data.x, data.target)) < 1e-5
        turn = torch.linalg.lstsq(data.v, now.v).solution  # v R = v'
        assert relative(turn @ turn.mT, torch.eye(3).expand(6, 3, 3)) < 1e-4
        assert set(torch.linalg.det(turn).sign().tolist()) == {-1.0, 1.0}
        still = torch.einsum("bnd,bde->bne", data.x, turn) - now.x
        assert (float(still.abs().amax()) < 1e-4) == (where == "O")
    assert nbody().augmented(data, "plain", rng()) is data


def test_egnn_is_its_equations_pair_by_pair():
    torch.manual_seed(0)
    net = nbody().EGNN(8, 2).double()
    for part in net.along:  # else the coordinates hardly move
        torch.nn.init.normal_(part[-1].weight)
    data = made(2).to(D)
    b, n, _ = data.x.shape
    out = torch.zeros_like(data.x)
    for s in range(b):
        x, v, q = data.x[s], data.v[s], data.q[s]
        h, start = net.embed(v.norm(dim=-1, keepdim=True)), x
        for message, update, along, speed in zip(
            net.messages, net.updates, net.along, net.speed, strict=True
        ):
            new, heard = [], []
            for i in range(n):
                step, total = 0, 0
                for j in range(n):
                    if i != j:
                        r, r0 = (float((u[i] - u[j]).detach().square().sum()) for u in (x, start))
                        a = [float(q[i] * q[j]), math.log1p(r), math.log1p(r0)]
                        first = message.mine(h[i]) + message.other(h[j])
                        m = message.then(first + message.pair(torch.tensor(a, dtype=D)))
                        step, total = step + (x[i] - x[j]) * along(m), total + m
                new.append(x[i] + speed(h[i]) * v[i] + step / (n - 1))
                heard.append(total)
            x = torch.stack(new)
            h = h + update(torch.cat([h, torch.stack(heard)], -1))
        out[s] = x
    assert relative(net(data.x, data.v, data.q), out) < 1e-12


def test_averaging_an_equivariant_network_changes_nothing():
    net, data = nbody().EGNN(12, 2).double(), made(8).to(D)
    y = net(data.x, data.v, data.q)
    for frame in ("axes", "pca", "weighted"):
        assert relative(nbody().framed(net, frame)(data.x, data.v, data.q), y) < 1e-11


def test_the_recipe_writes_its_table_and_goes_on_with_its_file(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    module, path = nbody(), tmp_path / "found.json"
    monkeypatch.setattr(module, "trajectories", lambda count, seed: made(count, seed))
    command = ["--quick", "--epochs", "5", "--methods", "plain;EGNN", "--json", str(path)]
    rows = module.main([*command, "--figure", str(tmp_path / "curve.svg")])
    assert [r["method"] for r in rows] == ["plain", "plain, then averaged", "EGNN", "⟨EGNN⟩ − EGNN"]
    assert rows[-1]["same"] < 1e-5
    assert (tmp_path / "curve.svg").stat().st_size < 60_000

    def refused(*_):
        raise AssertionError("all of this is in the file")

    monkeypatch.setattr(module, "train", refused)
    assert module.main(command) == rows
    table = module.table(rows)
    assert f"| plain | {rows[0]['mse']:.4f} |" in table
    assert f"| EGNN | {rows[2]['curve']['10']:.4f} |" in table
