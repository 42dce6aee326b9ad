"""The recipe of timm's models: its configs, its training, its table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

timm = pytest.importorskip("timm")
yaml = pytest.importorskip("yaml")
pytest.importorskip("sklearn")

import equiwrap as ew  # noqa: E402
import equiwrap.integrations.timm  # noqa: E402

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "configs").glob("*.yaml")), ids=str)
def test_a_config_makes_an_exact_model_that_a_plain_checkpoint_fits(path):
    config = yaml.safe_load(path.read_text())
    model = timm.create_model(config["model"], num_classes=10, **config["model_kwargs"]).eval()
    x = torch.randn(2, 3, config["img_size"], config["img_size"])
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(model(x.rot90(1, (2, 3))), y, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(ew.unwrap(model)(x.rot90(1, (2, 3))), ew.unwrap(model)(x))


def test_the_recipe_trains_adapts_and_prints(tmp_path, capsys):
    import timm_images

    kept = tmp_path / "rows.json"
    asked = {"only": "convnext", "epochs": 1, "seeds": 1, "limit": 48, "sets": "±45°", "json": kept}
    words = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    timm_images.main(words)
    rows = {(r["part"], r["method"]): r for r in json.loads(kept.read_text())["rows"]}
    assert rows["adapt", "average"]["passes"] == [0.0, 5.0]
    assert rows["scratch", "average"]["passes"] == [5.0, 5.0]
    assert rows["scratch", "augmentation"]["passes"] == [1.0, 1.0]
    assert rows["adapt", "average"]["error"] < rows["adapt", "frozen"]["error"]
    said = capsys.readouterr().out
    assert said.count("| convnext | average | 5") == 2


def test_the_ways_under_a_group_are_what_they_are_called():
    import timm_images
    import timm_parts

    config = timm_images.configs(["convnext"])["convnext"]
    task = timm_parts.task_of(32, None, 0, 24)
    config |= {"epochs": 1, "batch_size": 12}
    errors, passes = {}, {}
    for method, ours in timm_images.methods("C4", 32).items():
        model, _ = timm_parts.train(timm_images.wrapped(config, ours), task, 0)
        row = task.row("scratch", "convnext", "C4", method, 0, model.eval(), 0.0)
        errors[method], passes[method] = row["error"], row["passes"][1]
    assert passes == {
        "augmentation": 4, "average": 4, "canonical": 1, "penalty": 1, "soft": 5,
    }  # fmt: skip
    for exact in ("augmentation", "average", "canonical"):  # as wrapped models they all are
        assert errors[exact] < 1e-5 < errors["soft"]
    assert errors["penalty"] > 1e-5


def test_written_configs_are_what_timms_parser_takes(tmp_path):
    import timm_images

    timm_images.write(tmp_path, timm_images.configs(["resnet18", "swin"]))
    held = sorted(tmp_path.glob("*.yaml"))
    assert len(held) == 2 * (1 + 5 + 5 + 2)
    known = {"model", "model_kwargs", "num_classes", "img_size", "crop_pct", "mean", "std", "seed"}
    known |= {"no_aug", "smoothing", "epochs", "batch_size", "opt", "lr", "weight_decay"}
    known |= {"warmup_epochs"}
    for path in held:
        config = yaml.safe_load(path.read_text())
        assert set(config) == known  # arguments of train.py, under their names
    with pytest.raises(SystemExit, match="There is no config resnet81: there are convnext, "):
        timm_images.configs(["resnet81"])
    with pytest.raises(SystemExit, match="There is no set C5: there are C4, D4, ±45°"):
        timm_images.main(["--sets", "C4,C5"])


def test_turned_images_are_turned_by_their_angles():
    from data import images

    x = torch.rand(3, 1, 9, 9)
    found = images.turned(x, torch.tensor([0.0, 90.0, 180.0]))
    torch.testing.assert_close(found[0], x[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[2], x[2].rot90(2, (1, 2)), rtol=0, atol=1e-5)
    either = [x[1].rot90(k, (1, 2)) for k in (1, 3)]
    assert any(torch.allclose(found[1], e, atol=1e-5) for e in either)


def test_the_command_without_options_has_nothing_left_to_run_for_the_page(tmp_path, monkeypatch):
    import timm_images

    held = ROOT / "docs/assets/timm_images.json"
    kept = tmp_path / "rows.json"
    kept.write_text(held.read_text())
    monkeypatch.setattr(timm_images.Study, "run", lambda own, config, *key: pytest.fail(str(key)))
    timm_images.main(["--json", str(kept)])
    rows = json.loads(held.read_text())["rows"]
    each = Counter((r["part"], r["set"], r["name"], r["method"]) for r in rows)
    assert set(each.values()) == {3}
