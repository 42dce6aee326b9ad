"""The recipe of soft symmetry: its targets break what they say, its methods keep what they say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from equiwrap.measure import model_error
from equiwrap.penalty import energies, read

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))


def tasks():
    from soft import tasks

    return tasks


def methods():
    from soft import methods

    return methods


def run():
    from soft import run

    return run


SMALL = {
    "sweep": lambda: tasks().sweep(0, 0.4, n=100, steps=30),
    "inertia": lambda: tasks().inertia(0, n=100, steps=10),
    "digits": lambda: tasks().digits(0, n=60, steps=4),
}


class Truth(nn.Module):
    """A target as a model."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


# -- the targets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_the_sweep_breaks_c4_by_epsilon_and_at_zero_not_at_all(eps):
    t = tasks()
    x = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(5))
    one, two = (f(x).square().mean().sqrt() for f in (t.even, t.odd))
    truth = Truth(lambda x: (t.even(x) / one + eps * t.odd(x) / two)[:, None])
    size = model_error(truth, "C4", x, signature="b (2 v) -> b 1")
    assert size.exact if eps == 0 else size.value == pytest.approx(eps, rel=0.03)
    task = t.sweep(0, eps)
    assert float(((truth(task.test[0]) - task.test[1]) ** 2).mean()) < 1e-3


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_the_modified_inertia_breaks_o3_by_what_the_task_says(eps):
    t = tasks()
    task = t.inertia(1, eps)
    x, y = task.test
    factor = torch.eye(3) + eps * torch.diag(torch.tensor([0.0, 0.0, 1.0]))
    unit = float((t.inertia_of(x) @ factor)[0, 0, 0] / y[0, 0, 0])
    truth = Truth(lambda x: t.inertia_of(x) @ factor / unit)
    assert torch.allclose(truth(x), y, atol=1e-5)
    size = model_error(truth, "O(3)", x, signature=task.signature, samples=4)
    if eps == 0:
        assert size.exact
        assert task.asymmetry == 0
    else:
        assert size.low * 0.97 < task.asymmetry < size.high * 1.03


def test_no_digit_is_in_two_parts_and_the_coin_is_fair():
    task = tasks().digits(0)
    parts = [task.train, task.val, task.test]
    keys = [{tuple(row) for row in x.flatten(1).sort(1).values[:, ::97].tolist()} for x, _ in parts]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    labels = torch.cat([y for _, y in parts])
    assert 0.4 < float((labels == 6).sum() / ((labels == 6) | (labels == 9)).sum()) < 0.6
    assert all(x.shape[1:] == (1, 65, 65) for x, _ in parts)


# -- the methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_hard_net_is_exact_after_training_and_a_plain_one_is_not(name):
    task = SMALL[name]()
    x = task.test[0][:200]
    for method, exact in (("hard", True), ("plain", False)):
        net = run().fitted(task, method, 0.0, 0)
        size = model_error(net, task.group, x, signature=task.signature, form="relative")
        assert (size.value < 1e-6) == exact, (method, str(size))


@pytest.mark.parametrize("name", SMALL)
def test_the_symmetric_start_is_equivariant_and_as_large_as_the_usual_one(name):
    task = SMALL[name]()
    torch.manual_seed(0)
    net = task.net()
    targets = task.find(net, task.train[0])
    before = {t.path: read(net, t.path).norm() for t in targets}
    methods().symmetric_start(net, targets)
    assert all(e.ratio < 1e-10 for e in energies(net, targets))
    for t in targets:
        if len(t.shape) > 1:
            assert 0.7 < read(net, t.path).norm() / before[t.path] < 1.3, t.path


def test_augmentation_moves_the_target_with_the_input():
    t = tasks()
    for eps, kept in ((0.0, True), (0.3, False)):
        task = t.inertia(0, eps, n=200)
        net = task.net()
        moved = methods().augmented(task, net, (), 1.0).moved
        x, y = task.train
        unit = float((t.inertia_of(x)[0, 0, 0]) / y[0, 0, 0]) if kept else 1.0
        gx, gy = moved(x, y)
        assert not torch.allclose(gx, x, atol=0.1)
        truth = t.inertia_of(gx) / unit
        assert torch.allclose(truth, gy, atol=1e-4) == kept


def test_residual_pathways_are_two_sets_of_weights_and_the_decay_is_one():
    task = SMALL["sweep"]()
    counts = {}
    for method, (build, grid) in methods().METHODS.items():
        net = task.net()
        targets = task.find(net, task.train[0])
        build(task, net, targets, grid[1])
        counts[method] = sum(p.numel() for p in net.parameters())
    extra = sum(torch.Size(t.shape).numel() for t in targets)
    assert counts["RPP"] == counts["plain"] + extra
    assert counts["decay"] == counts["plain"] == counts["hard"]


# -- the numbers -----------------------------------------------------------------------------------


def test_at_intermediate_breaking_the_decayed_net_beats_both_ends():
    task = tasks().sweep(1, 0.3)
    x, y = task.test
    found = {}
    for method, strength in (("plain", 0.0), ("hard", 0.0), ("decay", 10.0)):
        net = run().fitted(task, method, strength, 1)
        with torch.no_grad():
            found[method] = task.error(net(x), y)
    assert found["decay"] < 0.85 * min(found["plain"], found["hard"]), found


def test_the_recipe_runs_at_toy_size_and_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    import soft_symmetry

    path = tmp_path / "found.json"
    line = f"x --task sweep --eps 0.2 --quick --seeds 2 --json {path}"
    monkeypatch.setattr("sys.argv", line.split())
    soft_symmetry.main()
    (found,) = json.loads(path.read_text())
    assert run().table(found) in capsys.readouterr().out
    assert set(found["ms"]) == set(methods().METHODS)
    assert min(found["ms"].values()) > 0
    assert len(found["runs"]) == 2 * len(methods().METHODS)
    for r in found["runs"]:
        low, high = r["mee"][1:]
        assert r["test"] > 0
        assert 0 <= low <= r["mee"][0] <= high
        assert (r["alpha"] is None) == (r["method"] == "hard") == (high < 1e-5)


def test_the_page_prints_the_stored_results():
    page = (ROOT / "docs" / "pages" / "soft-symmetry.md").read_text()
    stored = json.loads((ROOT / "docs" / "assets" / "soft_symmetry.json").read_text())
    assert {f["task"].split()[0] for f in stored} == {"sweep", "inertia", "digits"}
    for found in stored:
        assert run().table(found).strip() in page, found["task"]
        seeds = {r["seed"] for r in found["runs"]}
        assert len(seeds) >= 3
        assert len(found["runs"]) == len(seeds) * len(methods().METHODS)


def test_makers_split_a_run_by_task():
    import soft_symmetry

    makers = partial(soft_symmetry.makers, sizes=[0.1, 0.2], quick=True)
    assert [len(makers(name)) for name in ("sweep", "inertia", "digits", "all")] == [2, 1, 1, 4]
