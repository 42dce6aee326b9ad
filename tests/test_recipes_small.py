"""The recipes of steering, partial symmetry and mean-field training, in a small form."""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import replace

import pytest
import torch
from recipes_shared import rng

import equiwrap as ew
from equiwrap.measure import model_error

pytest.importorskip("sklearn")

# -- steering --------------------------------------------------------------------------------------


def test_the_controller_finds_the_strength_of_the_sweep():
    import steering

    few = replace(steering.SETTINGS[0], count=5, lowest=0.6, ratio=1.5, epochs=20, settled=5)
    row = steering.compared(few, 1)
    assert 0.75 < row["ratio"] < 1.25
    assert abs(row["excess"]) < 0.01
    assert row["log"][0][1] < 0.6  # α* of the first epoch
    assert abs(row["log"][-1][1] - 1) < 0.02
    assert steering.line(row).count("|") == steering.HEAD.splitlines()[0].count("|")


def test_the_vertex_of_a_parabola_is_found():
    import steering

    points = [(s, (math.log(s) - math.log(0.3)) ** 2) for s in (0.05, 0.1, 0.2, 0.4, 0.8)]
    assert steering.vertex(points) == pytest.approx(0.3)
    assert steering.vertex(points[:2]) == 0.1


# -- partial symmetry ------------------------------------------------------------------------------


def test_the_data_break_the_symmetry_by_the_size_that_is_said():
    import partial_symmetry as p
    from soft.tasks import turned

    x, y = p.part(0.4, 20000, 0.0, rng(1))
    big = torch.randn(200_000, 4, generator=rng(0))
    one, two = (f(big).square().mean().sqrt() for f in (p.even, p.odd))
    values = torch.stack([p.even(g) / one + 0.4 * p.odd(g) / two for g in turned(x.float())])
    assert float(values.var(0, unbiased=False).mean().sqrt()) == pytest.approx(0.4, rel=0.05)
    torch.testing.assert_close(values[0].double()[:, None], y, rtol=1e-5, atol=1e-5)


def test_a_growing_penalty_takes_the_asymmetry_and_hard_is_the_best_average():
    import partial_symmetry as p

    x, y = p.part(0.4, 200, 0.2, rng(1))
    found = []
    for strength in (0.0, 0.1, 10.0, 1e6):
        model = p.Features(0, 100)
        model.fit(x, y, strength)
        found.append(float(model_error(model, "C4", x, signature=p.SIGNATURE)))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.05 * found[0]
    hard = p.Features(0, 100)
    hard.fit(x, y, math.inf)
    whole = ew.equivariantize(hard, "C4", p.SIGNATURE, frame="whole")
    assert float(model_error(whole, "C4", x, signature=p.SIGNATURE)) < 1e-12
    rest = (whole(x) - y).square().mean()
    with torch.no_grad():
        for other in (model, p.Features(1, 100)):
            hard.w.copy_(other.w)  # no other weights do better inside of the average
            assert (whole(x) - y).square().mean() > rest


def test_hard_wins_without_breaking_and_soft_with_some():
    import partial_symmetry as p

    none, some = p.fitted(0.0, 0, 240), p.fitted(0.6, 0, 240)
    assert none["hard"] < none["free"]
    assert none["dial"] < none["free"]
    assert some["soft"] < min(some["free"], some["hard"])
    assert 0.75 < some["MEE"] / 0.6 < 1.05


def test_an_average_over_some_turns_trains_on_digits():
    import partial_symmetry as p

    assert p.accuracy(90, 0, steps=40, count=100) > 35


# -- mean-field ------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 4])
def test_the_projection_is_the_mean_over_the_cyclic_group(d):
    import mean_field as m

    theta = torch.randn(5, d, d, dtype=torch.float64)
    g = m.cyclic(d).elements()
    assert len(g) == d
    slow = torch.stack([p @ theta @ p.T for p in g]).mean(0)
    torch.testing.assert_close(m.target_of(5, d).projector(theta), slow, rtol=0, atol=1e-14)
    assert m.target_of(5, d).projector.rank == 5 * d


def test_schemes_leave_the_fixed_parameters_as_the_theory_says():
    import mean_field as m

    few = m.Setting(sizes=(20,), horizon=15)
    found = {name: m.train(few, name, "arbitrary", 20, 0)[0] for name in m.METHODS}
    assert found["vanilla"] > 3e-3
    assert found["augmented"] < 0.1 * found["vanilla"]
    assert found["averaged"] < 1e-10
    assert found["equivariant"] < 1e-12
    kept = [m.train(few, "vanilla", "weakly invariant", n, 0)[0] for n in (5, 80)]
    assert kept[1] < kept[0] / 3  # it vanishes as N grows


def test_the_heuristic_ends_at_the_circulants():
    import mean_field as m

    basis, stairs = m.discover(2, 1)
    assert len(basis) == 2
    assert stairs[-1] < 3e-4 < stairs[-2]
    shared = basis.reshape(-1, 2, 2)
    torch.testing.assert_close(m.target_of(2, 2).projector(shared), shared, rtol=0, atol=0.05)


# -- MNIST -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_as_its_authors_wrote_it(tmp_path, packed):
    from data import mnist

    images = torch.randint(0, 256, (7, 28, 28), dtype=torch.uint8)
    labels = torch.arange(7, dtype=torch.uint8)
    for name, held in (("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)):
        raw = b"\0\0\x08" + bytes([held.ndim]) + struct.pack(f">{held.ndim}I", *held.shape)
        raw += held.numpy().tobytes()
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(raw) if packed else raw)
    x, y = mnist.load(tmp_path)
    assert torch.equal((x[:, 0] * 255).round().byte(), images)
    assert y.tolist() == list(range(7))
    path.write_bytes(b"\0\0\x08\x01\0\0\0\x09" + bytes(7))
    with pytest.raises(ValueError, match=r"says \[9\] and holds 7 bytes"):
        mnist.idx(path) if not packed else mnist.idx(path.rename(tmp_path / "cut"))
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        mnist.load(tmp_path, "train")
