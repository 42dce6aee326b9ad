"""The demo's pieces, on a small budget: the facts it tells hold before its table is printed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from equiwrap.__main__ import _refusal, main
from equiwrap.commands.table import Block, Row, render, seconds

for extra in ("timm", "sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(extra)

from equiwrap.commands import demo, digits, particles  # noqa: E402
from equiwrap.commands.figure import draw  # noqa: E402

SMALL = demo.Budget(epochs=2, fit=40, samples=300, steps=60)


@pytest.fixture(scope="module")
def images():
    return demo.images_part(SMALL, seed=0)


@pytest.fixture(scope="module")
def clouds():
    return demo.particles_part(SMALL, seed=0)


def test_the_plain_image_model_fails_and_every_wrapping_is_invariant(images):
    assert images.block[digits.PLAIN].error > 0.1
    for name in (digits.AVERAGE, digits.KEY, digits.PRIOR):
        assert images.block[name].error < 1e-5
        assert images.accuracy[name].unique().numel() == 1


def test_the_upright_prior_beats_the_average_and_the_plain_model_over_rotations(images):
    prior = images.block[digits.PRIOR].moved
    assert prior > images.block[digits.AVERAGE].moved + 0.1
    assert prior > images.block[digits.PLAIN].moved + 0.1


def test_averaging_costs_an_upright_model_its_upright_accuracy(images):
    assert images.block[digits.AVERAGE].here < images.block[digits.PLAIN].here - 0.1
    assert "seen upright images hurts" in demo.verdict(images.block, _any_cloud())


def test_a_canonical_form_does_not_depend_on_how_the_digit_is_turned(images):
    for name in (digits.KEY, digits.PRIOR):
        torch.testing.assert_close(
            images.pictures[name], images.pictures[name][:1].expand(4, -1, -1), rtol=0, atol=0
        )
    assert not torch.equal(images.pictures[digits.KEY], images.pictures[digits.PRIOR])


def test_the_plain_set_network_fails_and_both_wrapped_ones_are_equivariant(clouds):
    assert clouds[particles.PLAIN].error > 1e-3
    for name in (particles.AFTER, particles.THROUGHOUT):
        row = clouds[name]
        assert row.error < 1e-5
        assert row.moved == pytest.approx(row.here, rel=1e-4)


def test_the_set_network_is_equivariant_under_permutations_as_it_stands():
    net, order = particles.SetNetwork().double(), torch.randperm(5)
    x, v, q = (torch.randn(3, 5, d, dtype=torch.float64) for d in (3, 3, 1))
    torch.testing.assert_close(net(x, v, q)[:, order], net(x[:, order], v[:, order], q[:, order]))


def test_the_simulated_law_does_not_change_when_everything_is_moved():
    data = particles.simulate(8, seed=1)
    moved = data.moved(seed=2)
    apart, apart_moved = (torch.cdist(d.target, d.x) for d in (data, moved))
    torch.testing.assert_close(apart, apart_moved, rtol=1e-4, atol=1e-4)
    momentum = (data.target - data.x).mean(1)  # conserved, but for clipped encounters
    torch.testing.assert_close(momentum, data.v.mean(1), rtol=1e-2, atol=1e-3)


def test_the_figure_is_written_and_small(images, clouds, tmp_path):
    out = tmp_path / "deep" / "demo.png"
    draw(images, clouds, out)
    assert 10_000 < out.stat().st_size < 100_000


def test_the_table_has_columns_of_one_width():
    text = render([_any_cloud()])
    rows = [line for line in text.splitlines() if line.endswith(("×", "cost"))]
    assert len({len(row) for row in rows}) == 1
    assert "2.0 ×" in text


def test_times_are_medians_of_calls_that_take_turns():
    seen: list[str] = []
    first, second = seconds([lambda: seen.append("a"), lambda: seen.append("b")], rounds=3)
    assert seen == ["a", "b"] * 4
    assert first >= 0
    assert second >= 0


def test_a_missing_extra_is_a_sentence_with_the_line_that_installs_it():
    assert 'pip install -e ".[timm,plots]"' in _refusal(["timm", "matplotlib"])
    code = (
        "import sys, importlib.util as u; real = u.find_spec; "
        "u.find_spec = lambda n, *a: None if n == 'timm' else real(n, *a); "
        "from equiwrap.__main__ import main; sys.exit(main(['demo']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs timm" in done.stderr
    assert "Traceback" not in done.stderr


def test_info_names_versions_and_devices(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in text
    assert "device" in text


def _any_cloud() -> Block:
    names = (particles.PLAIN, particles.AFTER, particles.THROUGHOUT)
    rows = tuple(Row(name, 0.1, 0.1, 1e-7, 1e-3 * (i + 1)) for i, name in enumerate(names))
    return Block("particles", "MSE", "MSE, moved", ".4f", rows)
