"""The front that all recipes have, and that pages, files and figures say the same."""

from __future__ import annotations

import json
import re
import shlex
from importlib import import_module

import pytest
from recipes_shared import ROOT, page, results

NEEDS = {
    "digit_clouds": "sklearn",
    "frozen_digits": "sklearn",
    "graph_atlas": "networkx",
    "jets": "torch",
    "matched_fields": "torch",
    "mean_field": "torch",
    "nbody": "torch",
    "partial_symmetry": "sklearn",
    "relaxed_energies": "torch_geometric",
    "score_models": "torch",
    "soft_symmetry": "sklearn",
    "steering": "sklearn",
    "timm_images": "timm",
}
COMMANDS = re.findall(
    rf"python recipes/((?:{'|'.join(NEEDS)})\.py[^`#\n]*)",
    "\n".join(path.read_text() for path in sorted((ROOT / "docs" / "pages").glob("*.md"))),
)


def recipe(name):
    pytest.importorskip(NEEDS[name])
    return import_module(name)


def study():
    return import_module("study")


# -- the shared part -------------------------------------------------------------------------------


def test_seeds_are_a_number_or_a_list(capsys):
    which = study().which
    assert [which(text) for text in ("3", "0,4", "4,")] == [[0, 1, 2], [0, 4], [4]]
    front = {"seeds": 5, "quick": "", "few": 2}
    for words, seeds in ((["--quick"], 2), ([], 5), (["--quick", "--seeds", "3"], 3)):
        assert study().asked("", words, **front).seeds == list(range(seeds))
    with pytest.raises(SystemExit):
        study().asked("", ["--seeds", "0"], **front)
    assert "seed 0 alone is 0," in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study().asked("", ["--seeds", "all"], **front)
    assert "'all' was given for numbers" in capsys.readouterr().err


def test_a_spread_is_the_sample_deviation():
    spread = study().spread
    assert spread([1.0, 2.0, 4.0], ".2f") == "2.33 ± 1.53"
    assert spread([1.0, 2.0, 4.0], ".3g", ".1g") == "2.33 ± 2"
    assert (spread([0.25], ".1f"), spread([])) == ("0.2", "–")


def test_rows_are_kept_as_they_come_and_gone_on_with(tmp_path):
    path, told, front = tmp_path / "rows.json", {"steps": 3}, {"seeds": 3, "quick": ""}
    words = ["--json", str(path)]

    def rows_of(seed):
        if seed == 1:
            raise KeyboardInterrupt
        yield {"seed": seed, "value": 1 / 3}

    asked = study().asked("", words, **front)
    with pytest.raises(KeyboardInterrupt):
        study().gathered(asked, asked.seeds, rows_of, config=told)
    assert json.loads(path.read_text()) == {"config": told, "rows": [{"seed": 0, "value": 1 / 3}]}
    rows = study().gathered(asked, [2], rows_of, config=told, other={"steps": 9})
    assert [row["seed"] for row in rows] == [0, 2]
    assert rows == study().read(path)
    assert json.loads(path.read_text())["other"] == {"steps": 9}
    shown = study().asked("", [*words, "--table"], **front)
    assert study().gathered(shown, [1], rows_of) == rows
    with pytest.raises(SystemExit, match=r"holds results of {'steps': 3}: name another file"):
        study().gathered(asked, [2], rows_of, config={"steps": 4})
    study().write(tmp_path / "list.json", rows)
    assert json.loads((tmp_path / "list.json").read_text()) == rows == study().read(path)


def test_a_table_without_a_file_is_refused(tmp_path, capsys):
    for words in ([], ["--json", str(tmp_path / "none.json")]):
        with pytest.raises(SystemExit):
            study().asked("", ["--table", *words], seeds=1, quick="")
        assert "name it by --json" in capsys.readouterr().err


def test_numbers_are_rounded_wherever_they_lie():
    row = {"a": [1 / 3, {"b": 2e-7 / 3}], "c": (12345.678, 7, "x", None, True)}
    assert study().short(row) == {
        "a": [0.3333, {"b": 6.667e-8}],
        "c": [12350.0, 7, "x", None, True],
    }
    assert study().short(12345.678, 5) == 12346.0


# -- every recipe ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEEDS)
def test_every_recipe_has_the_same_front(name, capsys):
    with pytest.raises(SystemExit) as stop:
        recipe(name).main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for option in ("--seeds", "--quick", "--json", "--table", "--figure", "--out"):
        assert f"{option} " in said


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_the_commands_of_the_pages_are_understood(command, monkeypatch):
    script, *words = shlex.split(command)
    module, whole = recipe(script.removesuffix(".py")), study().asked

    class Understood(Exception):
        pass

    def stop(*given, **options):
        whole(*given, **options)
        raise Understood

    monkeypatch.setattr(study(), "asked", stop)
    monkeypatch.chdir(ROOT)
    with pytest.raises(Understood):
        module.main(words)


def test_every_recipe_is_quoted_in_a_page():
    assert {command.split(".")[0] for command in COMMANDS} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_the_pages_print_the_stored_results(name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    module = recipe(name)
    asset = ROOT / "docs" / "assets" / f"{name}.json"
    figure = tmp_path / "figure.svg"
    module.main(["--table", "--json", str(asset), "--figure", str(figure)])
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("|")]
    text = page(name)
    assert len(lines) > 4
    assert [line for line in lines if line not in text] == []
    assert f"../assets/{name}.svg" in text
    for drawing in (figure, asset.with_suffix(".svg")):
        assert "<svg" in drawing.read_text()
        assert 5_000 < drawing.stat().st_size < 120_000


CHEAP = {
    "digit_clouds": "--steps 60 --directions 8",
    "frozen_digits": "--quick --steps 60",
    "graph_atlas": "--limit 40",
    "matched_fields": "--steps 20 --width 8 --anneal 4",
}


@pytest.mark.parametrize("name", CHEAP)
def test_a_recipe_writes_rows_that_print_its_table_and_draws(name, tmp_path, capsys, monkeypatch):
    if name == "graph_atlas":
        pytest.importorskip("igraph", reason="needs python-igraph")
    pytest.importorskip("matplotlib")
    module, path, figure = recipe(name), tmp_path / "rows.json", tmp_path / "figure.svg"
    words = ["--seeds", "1", "--json", str(path), *CHEAP[name].split()]
    module.main([*words, "--figure", str(figure), "--out", str(tmp_path / "out.md")])
    first = capsys.readouterr().out
    assert (tmp_path / "out.md").read_text() == first
    assert "<svg" in figure.read_text()
    rows = study().read(path)
    assert module.table(rows) in first
    assert module.table(rows).count("\n|") > 3
    assert {row["seed"] for row in rows if "seed" in row} == {0}
    read = study().short(rows, 5)
    assert rows == read  # small files
    for made in ("train", "rows_of", "run", "errors", "counts"):  # all of this is in the file
        monkeypatch.setattr(module, made, None, raising=False)
    module.main(words)
    assert module.table(rows) in capsys.readouterr().out
    assert study().read(path) == rows


def test_one_file_holds_both_sets_of_digits():
    found = results("frozen_digits")["rows"]
    count = {
        name: len({r["seed"] for r in found if r["data"] == name}) for name in ("digits", "MNIST")
    }
    assert min(count.values()) >= 3
    assert len(found) == 6 * sum(count.values())
