"""The recipes of scores and of jets: the simulated laws, and what they show, in a small form."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from recipes_shared import rng
from reference import relative

import equiwrap as ew

D = torch.float64


def laws():
    from data import mixtures

    return mixtures


def methods():
    import score_methods

    return score_methods


def scores():
    import score_models

    return score_models


def toy():
    from data import toy_jets

    return toy_jets


def recipe_of_jets():
    import jets

    return jets


# -- scores: the laws ------------------------------------------------------------------------------

TASKS = ["C4, 2-D", "C8, 10-D"]


@pytest.mark.parametrize("task", TASKS)
def test_the_closed_form_of_the_noise_is_the_gradient_of_the_log_density(task):
    law, count = laws().law(task), 40
    x, t = laws().noisy(law, count, rng())
    alpha, sigma = laws().schedule(t)
    x = x.double().requires_grad_()
    parts = []
    for m, u, s, w in zip(law.means, law.axes, law.spread, law.weights, strict=True):
        eye = torch.eye(len(m), dtype=D)
        cov = alpha.double()[..., None] ** 2 * (u @ s.diag() @ u.T).double()
        normal = torch.distributions.MultivariateNormal(
            alpha.double() * m.double(), cov + sigma.double()[..., None] ** 2 * eye
        )
        parts.append(normal.log_prob(x) + w.double().log())
    (gradient,) = torch.autograd.grad(torch.stack(parts).logsumexp(0).sum(), x)
    assert relative(law.noise(x.detach().float(), t).double(), -sigma * gradient) < 1e-4


@pytest.mark.parametrize("task", TASKS)
def test_the_group_keeps_the_law_and_nothing_less_does(task):
    law = laws().law(task)
    assert len(law.group.elements()) == {"C4, 2-D": 4, "C8, 10-D": 8}[task]
    x, t = laws().noisy(law, 200, rng())

    def moved(g):
        return relative(law.noise(x @ g.mT.float(), t), law.noise(x, t) @ g.mT.float())

    assert max(moved(g) for g in law.group.elements()) < 1e-4
    mirror = torch.ones(law.group.dim, dtype=D)
    mirror[0] = -1
    assert moved(mirror.diag()) > 0.05
    drawn = law.draw(20_000, rng(1))
    assert float(drawn.square().mean()) == pytest.approx(1, abs=0.05)  # in units of the law
    assert float(drawn.mean(0).norm()) < 0.05


def test_the_transport_is_that_of_the_assignment():
    pytest.importorskip("ot")
    optimize = pytest.importorskip("scipy.optimize")
    x, y = torch.randn(60, 3, generator=rng()), torch.randn(60, 3, generator=rng(1)) + 0.5
    cost = torch.cdist(x.double(), y.double())
    row, column = optimize.linear_sum_assignment(cost.numpy())
    assert scores().transport(x, y) == pytest.approx(float(cost[row, column].mean()), rel=1e-9)


def test_the_sampler_carries_noise_to_the_law():
    law = laws().law("C4, 2-D")
    noise = torch.randn(4000, 2, generator=rng())
    made, truth = scores().generate(law.noise, noise, 50), law.draw(4000, rng(1))
    for power in (1, 2, 3):
        one, two = (v.norm(dim=-1).pow(power).mean() for v in (made, truth))
        assert float(one) == pytest.approx(float(two), rel=0.06)
    left = scores().generate(lambda x, t: torch.zeros_like(x), noise, 50)  # no score: only scaled
    assert abs(float(left.norm(dim=-1).mean() / truth.norm(dim=-1).mean()) - 1) > 0.5


# -- scores: what is trained -----------------------------------------------------------------------


def small(task, **options):
    return replace(methods().TASKS[task], **{"points": 100, "steps": 150, "decay": 0.98, **options})


@pytest.mark.parametrize("task", TASKS)
def test_the_error_falls_by_the_equivariance_error_within_a_tenth(task):
    law, config = laws().law(task), small(task)
    net = methods().train(law, config, "plain", law.draw(config.points, rng()), 0)
    promised, found = scores().identity(net, law, 0, 4000)
    assert promised > 1e-4
    assert found == pytest.approx(promised, rel=0.1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["averaged", "canonicalised", "averaged + augmentation"])
def test_a_wrapped_score_is_equivariant_and_a_plain_one_is_not(task, method):
    law, config = laws().law(task), small(task, steps=20)
    data = law.draw(config.points, rng())
    x, t = laws().noisy(law, 300, rng(1))

    def error(model):
        return ew.measure.equivariance_error(
            model, law.group, x, t, signature=methods().SIGNATURE
        ).worst

    net = methods().train(law, config, method, data, 0)
    assert error(net) > 0.01
    assert error(methods().wrapped(net, law.group, methods().METHODS[method][1])) < 1e-5


def test_the_average_and_the_full_orbit_call_the_network_equally_often(monkeypatch):
    law, config, rows = laws().law("C4, 2-D"), small("C4, 2-D", steps=1), {}
    plain = methods().Net.forward
    for method in methods().METHODS:
        seen = rows.setdefault(method, [])
        monkeypatch.setattr(
            methods().Net,
            "forward",
            lambda s, x, t, seen=seen: seen.append(len(x)) or plain(s, x, t),
        )
        methods().train(law, config, method, law.draw(100, rng()), 0)
    called = {method: sum(seen) // config.batch for method, seen in rows.items()}
    assert called == {
        "plain": 1,
        "augmentation": 1,
        "full-orbit augmentation": 4,
        "full-orbit, fresh noise": 4,
        "canonicalised": 1,
        "averaged": 4,
        "averaged + augmentation": 4,
    }


def drawn(recipe, rows, path):
    pytest.importorskip("matplotlib").use("svg")
    recipe.figure(rows, path)
    return path.read_text()


def test_a_seed_of_the_recipe_gives_every_row_of_its_table(tmp_path):
    pytest.importorskip("ot")
    tiny = small("C4, 2-D", steps=3, samples=60, jumps=4, probe=50, pairs=1)
    rows = [scores().study.short(scores().seed_of("C4, 2-D", tiny, seed)) for seed in (0, 1)]
    text = scores().table(json.loads(json.dumps(rows)))
    for method in [*methods().METHODS, "plain, wrapped after", "the exact score"]:
        assert f"\n| {method} | " in text
    assert text.count("of 2 seeds") == 6
    assert "plain, wrapped after" in drawn(scores(), rows, tmp_path / "figure.svg")


# -- jets: the toy ---------------------------------------------------------------------------------


def test_two_bodies_are_on_their_shells_and_carry_all_of_the_momentum():
    j = toy()
    p = j.start(torch.full((500,), 173.0, dtype=D), rng())
    one, two = j.decay(p, torch.tensor(4.7, dtype=D), torch.tensor(80.4, dtype=D), rng(1))
    assert relative(one + two, p) < 1e-12
    assert float((j.mass(p) - 173).abs().max()) < 1e-6
    assert float((j.mass(one) - 4.7).abs().max()) < 1e-4
    assert float((j.mass(two) - 80.4).abs().max()) < 1e-5
    pt = p[:, 1:3].norm(dim=-1)
    assert 550 <= float(pt.min()) < 560 < 640 < float(pt.max()) <= 650
    at_rest = torch.linalg.solve(j.boost(p / j.mass(p)[:, None]), one[..., None])[..., 0]
    way = at_rest[:, 1:] / at_rest[:, 1:].norm(dim=-1, keepdim=True)
    assert float(way.mean(0).norm()) < 0.15  # isotropic
    assert relative(way.T @ way / len(way), torch.eye(3, dtype=D) / 3) < 0.15


def test_the_quarks_of_a_top_add_up_to_it_and_showers_keep_the_energy():
    j = toy()
    b, one, two = j.partons(300, True, rng())
    assert float((j.mass(b + one + two) - 173).abs().max()) < 1e-6
    assert float((j.mass(one + two) - 80.4).abs().max()) < 1e-5
    for quark, rounds in ((b, 2), (one, 3)):
        rows = j.shower(quark, rounds, rng(1))
        assert rows.shape == (300, 2**rounds, 4)
        assert relative(rows[..., 0].sum(1), quark[:, 0]) < 1e-9
        assert float((rows[..., 0] - rows[..., 1:].norm(dim=-1)).abs().max()) < 1e-6  # massless
        assert 1e-4 < relative(rows.sum(1), quark) < 0.2  # momentum: only nearly, as it says


def test_the_jets_are_balanced_sorted_and_told_apart_by_their_mass():
    x, y = toy().jets(1000, rng())
    assert x.shape == (1000, 12, 4)
    assert int(y.sum()) == 500
    assert bool((x[:, :-1, 0] >= x[:, 1:, 0]).all())
    total = toy().mass(x.sum(1))
    assert float(total[y == 1].median()) == pytest.approx(175, abs=3)
    assert float(total[y == 0].median()) == pytest.approx(121, abs=15)
    j = recipe_of_jets()
    told = j.mass_only((x[:500], y[:500]), (x[500:], y[500:]))
    assert 0.96 < told["auc"] < 0.999  # high: whoever beats plain has this to beat too
    shuffled = y[torch.randperm(len(y), generator=rng(1))]
    assert abs(j.auc(total, shuffled) - 0.5) < 0.07


def test_the_auc_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    score, y = torch.randint(0, 9, (200,), generator=rng()).double(), torch.arange(200) % 2
    expected = metrics.roc_auc_score(y.numpy(), score.numpy())
    assert recipe_of_jets().auc(score, y) == pytest.approx(expected, abs=1e-12)


def test_boosts_add_their_rapidities_and_keep_masses():
    x, _ = toy().jets(50, rng())
    once = toy().boosted(
        toy().boosted(x, torch.tensor([0.4], dtype=D)), torch.tensor([0.9], dtype=D)
    )
    assert relative(once, toy().boosted(x, torch.tensor([1.3], dtype=D))) < 1e-12
    assert relative(toy().mass(once.sum(1)), toy().mass(x.sum(1))) < 1e-9
    rest = torch.tensor([[[1.0, 0, 0, 0]]], dtype=D)
    moved = toy().boosted(rest, torch.tensor([0.6], dtype=D).atanh())[0, 0]
    assert torch.allclose(moved, torch.tensor([1.25, 0.75, 0, 0], dtype=D))


# -- jets: the taggers -----------------------------------------------------------------------------


def test_the_frame_is_flat_under_boosts_and_far_above_the_plain_network():
    j = recipe_of_jets()
    config = j.Config(steps=250)
    train, test = j.jets(500, rng()), j.jets(1000, rng(1))
    plain, frame = (j.train(m, train, config, 0) for m in ("plain", "Lorentz frame"))
    flat = j.tested(frame, test)["accuracy"]
    assert max(flat) - min(flat) <= 0.1
    assert flat[0] >= j.tested(plain, test)["accuracy"][0] + 20
    # the scores themselves, in single and in double precision of the weights
    x = j.boosted(test[0], torch.tensor([0.99], dtype=D).atanh())
    with torch.no_grad():
        assert relative(frame(x), frame(test[0])) < 1e-5
        assert relative(plain(x), plain(test[0])) > 0.1
        frame.double()
        assert relative(frame(x), frame(test[0])) < 1e-8


def test_rows_of_zeros_change_nothing():
    j = recipe_of_jets()
    x, _ = j.jets(20, rng())
    padded = torch.cat([x, torch.zeros(20, 5, 4, dtype=D)], 1)
    for method in ("plain", "Lorentz frame"):
        model = j.tagger(method, 16).double()
        assert relative(model(padded), model(x)) < 1e-9


def test_a_seed_of_the_jets_gives_every_row_of_its_table(tmp_path):
    j = recipe_of_jets()
    config = j.Config(sizes=(40, 80), seeds=(0, 1), test=60, steps=3, width=8)
    rows = []
    for seed in config.seeds:
        train, test = j.jets(80, rng(seed)), j.jets(60, rng(9 + seed))
        rows += j.seed_of(train, test, config, seed)
    text = j.table(json.loads(json.dumps(rows)))
    assert [text.count(f"| {m} | ") for m in ("mass only", *j.METHODS)] == [2, 2, 2, 2]
    assert "moves by at most" in text
    assert "80 training jets (toy)" in drawn(j, rows, tmp_path / "figure.svg")


# -- jets: the reader of the reference files -------------------------------------------------------


def written(path, jets, constituents, form, names=None):
    """A file with the columns of the reference set."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("tables")
    from data import top_tagging

    x, y = jets
    padded = torch.zeros(len(x), constituents, 4, dtype=D)
    padded[:, : x.shape[1]] = x
    table = pandas.DataFrame(
        padded.flatten(1).float().numpy(), columns=names or top_tagging.columns(constituents)
    )
    table["truthE"], table["ttv"], table[top_tagging.LABEL] = 0.0, 1, y.numpy()
    table.to_hdf(path, key="table", format=form)
    return padded


def test_the_reader_runs_nothing_that_a_file_holds(tmp_path):
    h5py = pytest.importorskip("h5py")
    from data import top_tagging

    written(tmp_path / "bad.h5", toy().jets(10, rng()), 20, "table")
    told = tmp_path / "told"

    class Bad:
        def __reduce__(self):
            return (open, (str(told), "w"))

    with h5py.File(tmp_path / "bad.h5", "a") as file:
        rows = file["table"]["table"]
        for name in ("values_block_0_kind", "values_block_0_meta", "info"):
            rows.attrs[name] = np.bytes_(pickle.dumps(Bad(), 0) + bytes(rows.attrs.get(name, b"")))
    x, _ = top_tagging.load(tmp_path / "bad.h5", constituents=20)
    assert len(x) == 10
    assert not told.exists()


@pytest.mark.parametrize("form", ["table", "fixed"])
def test_the_reader_gives_back_what_was_written(tmp_path, form):
    from data import top_tagging

    x, y = toy().jets(30, rng())
    padded = written(tmp_path / "tiny.h5", (x, y), 20, form)
    found, labels = top_tagging.load(tmp_path / "tiny.h5", constituents=20)
    assert found.dtype == D
    assert relative(found, padded) < 1e-7  # the file is in single precision
    assert bool((labels == y).all())
    part, few = top_tagging.load(tmp_path / "tiny.h5", 7, 5, 20)
    assert bool((part == found[5:12]).all())
    assert bool((few == y[5:12]).all())


def test_the_reader_refuses_other_files_with_a_sentence(tmp_path):
    from data import top_tagging

    jets = toy().jets(10, rng())
    written(tmp_path / "tiny.h5", jets, 20, "table")
    with pytest.raises(ValueError, match=r"lacks 40 of 121 columns, the first E_20"):
        top_tagging.load(tmp_path / "tiny.h5", constituents=30)
    with pytest.raises(ValueError, match=r"asked for 20 jets from 4 on; it has 6"):
        top_tagging.load(tmp_path / "tiny.h5", 20, 4, 20)


def test_the_recipe_trains_on_a_file(tmp_path, monkeypatch, capsys):
    j = recipe_of_jets()
    written(tmp_path / "tiny.h5", toy().jets(80, rng()), 20, "table")
    config = j.Config(sizes=(40,), seeds=(0,), test=40, steps=2, width=8)
    monkeypatch.setattr(j, "Config", lambda **_: config)
    command = ["jets.py", "--data", str(tmp_path / "tiny.h5"), "--constituents", "20"]
    monkeypatch.setattr("sys.argv", [*command, "--json", str(tmp_path / "out.json")])
    j.main()
    assert "Lorentz frame" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 4
