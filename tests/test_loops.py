"""The training-loop recipes: one task, one table, whichever loop; the pull is what makes it so."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
RECIPES = Path(__file__).parents[1] / "recipes"
LOOPS = {"conv": ["plain", "timm", "lightning"], "vit": ["plain", "transformers", "lightning"]}
FOREIGN = {"plain": "torch", "timm": "timm", "lightning": "lightning"}


@pytest.fixture(autouse=True)
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))


@cache
def trained(loop, model, **given):
    """(model, run, data, table) of one quick training."""
    from loops import common

    options = common.Options(model=model, quick=True, **given)
    net, run, data = import_module(f"loop_{loop}").train(options)
    return net, run, data, common.final_table(net, run, data)


def numbers(table):
    """Name → value of the rows."""
    rows = [re.split(r"  +", line) for line in table.splitlines()]
    return {name: float(value.split()[0]) for name, value in rows}


def check(loop, model, least):
    """The pulled run against its twin."""
    pulled, free = (numbers(trained(loop, model, **g)[3]) for g in ({}, {"penalty": 0.0}))
    assert list(pulled) == list(free)
    assert pulled["Σ|R|² / Σ|W|²"] < 0.02 * free["Σ|R|² / Σ|W|²"]
    assert pulled["relative error"] < 0.7 * free["relative error"]
    four = "test accuracy, four turns"
    assert pulled[four] > free[four] + 10
    assert pulled[four] > least
    assert free["test accuracy, upright"] > least
    assert free["λ"] == 0 < pulled["λ"]


def test_the_plain_loop_pulls_and_its_twin_does_not():
    check("plain", "conv", least=55)


def test_the_loop_of_transformers_pulls_and_its_twin_does_not():
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    check("transformers", "vit", least=30)


@pytest.mark.parametrize(
    ("model", "loop"), [(m, loop) for m in LOOPS for loop in LOOPS[m] if loop != "plain"]
)
def test_every_loop_ends_with_the_table_of_the_plain_one(model, loop):
    if model == "vit":
        pytest.importorskip("transformers")
    pytest.importorskip(FOREIGN.get(loop, "accelerate"))
    plain, other = trained("plain", model), trained(loop, model)
    for a, b in zip(plain[0].parameters(), other[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)
    assert numbers(plain[3]) == pytest.approx(numbers(other[3]), rel=0.02)


def test_a_seed_is_another_start_order_and_split():
    from loops import common

    first, second = (common.Options(seed=seed) for seed in (0, 1))
    a, b = (next(iter(common.loader(common.digits(o), o)))[0] for o in (first, second))
    assert not torch.equal(a, b)
    again = next(iter(common.loader(common.digits(first), first)))[0]
    torch.testing.assert_close(a, again, rtol=0, atol=0)
    order = common.Order(50, 0)
    epochs = [list(order) for _ in range(3)]
    assert epochs[0] != epochs[1]
    order.set_epoch(1)
    assert [list(order), list(order)] == epochs[1:]
    w = [common.model(o)[0].weight for o in (first, second)]
    assert not torch.equal(*w)


@pytest.mark.slow
@pytest.mark.parametrize("line", ["plain --model vit", "plain --steer", "timm", "transformers"])
def test_the_commands_print_the_table(line, tmp_path):
    if line.split()[0] in ("timm", "transformers"):
        pytest.importorskip(line.split()[0])
    script, *rest = line.split()
    command = [sys.executable, str(RECIPES / f"loop_{script}.py"), "--quick", *rest]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert len(numbers("\n".join(out.strip().splitlines()[-6:]))) == 6
    assert not list(tmp_path.iterdir())
