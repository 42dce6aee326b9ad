"""`python -m equiwrap audit`: what reaches the audit, what is printed, and every refusal a line."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from equiwrap.__main__ import main
from equiwrap.audit import Layer, Report

Image = pytest.importorskip("PIL.Image")

audit_module = importlib.import_module("equiwrap.audit")
command = importlib.import_module("equiwrap.commands.audit")
HERE = "tests.test_audit_command"


class Convolutions(nn.Module):
    def __init__(self, channels=3, classes=2):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.drop(self.conv(x)).mean((2, 3)))


class Cloud(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(x).mean(1)


class Dynamics(Cloud):
    def forward(self, x, q):
        return x + q


def grey():
    return Convolutions(channels=1)


def broken():
    raise RuntimeError("no weights here\nsecond line")


READY = Convolutions().double()
NUMBER = 3


@pytest.fixture
def seen(monkeypatch):
    """Stands where the analysis stands, keeps what it was given, and reports on it."""
    calls = []

    def stub(model, group, example, targets=None, *, signature=None, progress=None):
        calls.append((model, group, example, targets, signature))
        for done in range(1, 4):
            progress(done, 3, f"step {done}")
        layer = Layer("conv", "Conv2d", error=0.5, own=0.5, share=1.0)
        return Report(
            type(model).__name__,
            group,
            signature or "",
            "8 of them",
            0.5,
            0.1,
            5e-7,
            layers=(layer,),
        )

    monkeypatch.setattr(audit_module, "audit", stub, raising=False)
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    return calls


def pictures(root, files, size=(20, 10), mode="RGB"):
    """Left half black, right half white, with a grey frame that a square cut removes."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new(mode, size, 128 if mode == "L" else (128, 128, 128))
        wide, tall = size
        start = (wide - tall) // 2
        image.paste(0, (start, 0, wide // 2, tall))
        image.paste(255 if mode == "L" else (255, 255, 255), (wide // 2, 0, start + tall, tall))
        image.save(path)
    return root


def refused(capsys, *line):
    assert main(["audit", *map(str, line)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.count("\n") == 1, said.err
    return said.err


# -- what is printed and written -------------------------------------------------------------------


def test_the_report_goes_to_stdout_and_progress_to_stderr(seen, capsys):
    assert main(["audit", f"{HERE}:Convolutions", "--group", "D4", "--size", "16"]) == 0
    said = capsys.readouterr()
    text = " ".join(said.out.split())
    assert "Convolutions under D4 is not equivariant" in text
    assert "random inputs: 8 of them" in text
    assert "Inputs are random (normal, seed 0)" in text
    assert "step" in said.err
    assert "step" not in said.out


def test_progress_is_plain_where_there_is_no_tqdm(seen, capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["audit", f"{HERE}:Convolutions", "--group", "D4"]) == 0
    assert "3/3 step 3" in capsys.readouterr().err


def test_the_suffix_picks_page_or_numbers(seen, capsys, tmp_path):
    for name in ("report.html", "report.json"):
        out = tmp_path / "deep" / name
        line = ["audit", f"{HERE}:Convolutions", "--group", "C4", "--out", str(out)]
        assert main(line) == 0
        assert str(out) in capsys.readouterr().out
    report = Report.from_dict(json.loads(out.read_text()))
    assert report.group == "C4"
    assert "<svg" in out.with_suffix(".html").read_text()


def test_a_folder_that_cannot_be_made_is_a_sentence_after_the_text(seen, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "report.html"
    assert main(["audit", f"{HERE}:Convolutions", "--group", "C4", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "not equivariant" in said.out
    assert "cannot be written" in said.err


# -- what reaches the audit ------------------------------------------------------------------------


def test_random_images_have_the_shape_that_was_asked_for_and_repeat(seen):
    for seed in ("3", "3", "4"):
        line = ["audit", f"{HERE}:grey", "--group", "C4", "--size", "16", "--batch", "5"]
        assert main([*line, "--seed", seed]) == 0
    (model, group, first, targets, signature), (_, _, again, *_), (_, _, other, *_) = seen
    assert group == "C4"
    assert targets is signature is None
    assert not model.training
    assert first.shape == (5, 1, 16, 16)
    assert abs(first.std() - 1) < 0.1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    weights = [call[0].conv.weight for call in seen]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_module_is_taken_as_it_is_and_gives_its_dtype(seen):
    assert main(["audit", f"{HERE}:READY", "--group", "C4"]) == 0
    assert seen[0][0] is READY
    assert seen[0][2].dtype == torch.float64


def test_clouds_come_with_a_signature_and_shapes(seen):
    line = ["audit", f"{HERE}:Cloud", "--group", "SO(3)", "--signature", "b n v -> b k"]
    assert main([*line, "--shape", "8,64,3"]) == 0
    assert seen[0][2].shape == (8, 64, 3)
    assert seen[0][4] == "b n v -> b k"
    line = ["audit", f"{HERE}:Dynamics", "--group", "E(3)", "--signature", "b n p, b n 1 -> b n p"]
    assert main([*line, "--shape", "2,5,3", "2,5,1"]) == 0
    assert [x.shape[-1] for x in seen[1][2]] == [3, 1]


def test_complex_groups_are_given_complex_numbers(seen):
    class Complex(nn.Module):
        def forward(self, x):
            return x.abs().sum((1, 2))

    sys.modules[HERE].Complex = Complex
    line = ["audit", f"{HERE}:Complex", "--group", "U(3)", "--signature", "b n v -> b"]
    assert main([*line, "--shape", "2,4,3"]) == 0
    assert seen[0][2].dtype == torch.complex64


def test_timm_models_are_made_and_their_random_weights_are_said(seen, capsys):
    pytest.importorskip("timm")
    assert main(["audit", "timm:resnet10t", "--group", "D4", "--size", "32", "--batch", "2"]) == 0
    assert seen[0][2].shape == (2, 3, 32, 32)
    assert not seen[0][0].training
    assert "Weights are random" in capsys.readouterr().out


def test_auto_is_passed_on(seen):
    assert main(["audit", f"{HERE}:Convolutions", "--group", "auto"]) == 0
    assert seen[0][1] == "auto"


# -- folders ---------------------------------------------------------------------------------------


def test_pictures_are_cut_to_their_centre_and_scaled(seen, tmp_path):
    root = pictures(tmp_path, ["a.png", "b.jpg", "c.PNG"])
    (tmp_path / "notes.txt").write_text("no image")
    line = ["audit", f"{HERE}:Convolutions", "--group", "C4", "--data", str(root), "--size", "10"]
    assert main([*line, "--batch", "2"]) == 0
    loader, targets = seen[0][2:4]
    assert targets is None
    batches = list(loader)
    assert [len(x) for x in batches] == [2, 1]
    assert len(loader) == 2
    for x in torch.cat(batches):
        assert x.shape == (3, 10, 10)
        assert x[:, :, :4].amax() < 0.1
        assert x[:, :, 6:].amin() > 0.9


def test_normalisation_is_that_of_the_model(seen, tmp_path):
    sys.modules[HERE].Configured = lambda: configured
    configured = Convolutions()
    mean, std = (0.2, 0.4, 0.6), (0.5, 0.25, 0.1)
    configured.default_cfg = {"input_size": (3, 10, 10), "mean": mean, "std": std}
    root = pictures(tmp_path, ["a.png"])
    assert main(["audit", f"{HERE}:Configured", "--group", "C4", "--data", str(root)]) == 0
    (x,) = list(seen[0][2])
    assert x.shape == (1, 3, 10, 10)
    for c in range(3):
        assert x[0, c, 0, 0] == pytest.approx(-mean[c] / std[c], abs=1e-5)
        assert x[0, c, -1, -1] == pytest.approx((1 - mean[c]) / std[c], abs=1e-5)


def test_subfolders_are_classes_where_their_number_is_that_of_the_outputs(seen, capsys, tmp_path):
    names = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)]
    root = pictures(tmp_path / "two", names, mode="L")
    line = ["audit", f"{HERE}:Convolutions", "--group", "C4", "--size", "8", "--data"]
    assert main([*line, str(root)]) == 0
    loader, targets = seen[0][2:4]
    assert targets is True
    (x, y), (again, _) = next(iter(loader)), next(iter(loader))
    assert x.shape == (8, 3, 8, 8)
    assert torch.equal(x, again)
    assert y.sum() == 4
    assert y.tolist() != sorted(y.tolist())
    for file, label in zip(loader.files, y.tolist(), strict=True):
        assert file.parent.name == ("cat", "dog")[label]
    root = pictures(tmp_path / "three", [*names, "emu/0.png"])
    assert main([*line, str(root)]) == 0
    assert seen[1][3] is None
    assert "is not that of the model's outputs" in " ".join(capsys.readouterr().out.split())


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["resnet18", "--group", "C4"], "write timm:resnet18"),
        (["no.such.thing:build", "--group", "C4"], "cannot be imported: ModuleNotFoundError"),
        ([f"{HERE}:Convolution", "--group", "C4"], "it has Convolutions"),
        ([f"{HERE}:NUMBER", "--group", "C4"], "is an int, neither a model nor callable"),
        ([f"{HERE}:dict", "--group", "C4"], "has no 'dict'"),
        ([f"{HERE}:columns", "--group", "C4"], "has no 'columns'"),
        (["builtins:dict", "--group", "C4"], "returned a dict; a torch.nn.Module is needed"),
        ([f"{HERE}:broken", "--group", "C4"], "raised RuntimeError: no weights here; it"),
        ([f"{HERE}:grey", "--group", "C4", "--pretrained"], "--pretrained is for timm's"),
        ([f"{HERE}:grey", "--group", "C5x"], "There is no group 'C5x'"),
        ([f"{HERE}:grey", "--group", "C4", "--shape", "2,1,12,16"], "square"),
        ([f"{HERE}:grey", "--group", "C4", "--shape", "2,3,16,16"], "does not take inputs of"),
        ([f"{HERE}:grey", "--group", "C4", "--shape", "2x1"], "write 8,64,3"),
        ([f"{HERE}:grey", "--group", "C4", "--batch", "0"], "give 1 or more"),
        ([f"{HERE}:grey", "--group", "C4", "--out", "report.pdf"], "end in .html or .json"),
        ([f"{HERE}:grey", "--group", "SO(3)"], "declares only"),
        ([f"{HERE}:Cloud", "--group", "SO(3)"], "does not look like an image model"),
        ([f"{HERE}:Cloud", "--group", "SO(3)", "--shape", "2,5,3"], "need a signature"),
    ],
)
def test_wrong_lines_get_a_sentence(seen, capsys, line, said):
    assert said in refused(capsys, *line)
    assert not seen


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ("b n v, b n 1 -> b k", "has 2 inputs and 1 were given"),
        ("b v -> b k", "2 axes"),
        ("x: b n v, mask: _ -> b k", "cannot know"),
        ("(b n) v | batch -> b k", "cannot know"),
        ("b n v - b k", "->"),
    ],
)
def test_signatures_that_do_not_fit_get_a_sentence(seen, capsys, signature, said):
    line = [f"{HERE}:Cloud", "--group", "SO(3)", "--signature", signature, "--shape", "2,5,3"]
    assert said in refused(capsys, *line)
    assert not seen


def test_folders_without_images_and_files_that_are_none_get_a_sentence(seen, capsys, tmp_path):
    line = [f"{HERE}:Convolutions", "--group", "C4", "--data"]
    assert "is no folder" in refused(capsys, *line, tmp_path / "absent")
    assert "holds no image" in refused(capsys, *line, tmp_path)
    (tmp_path / "a.png").write_text("text")
    assert "a.png cannot be read as an image" in refused(capsys, *line, tmp_path)


def test_unknown_models_of_timm_come_with_the_nearest_names(seen, capsys, monkeypatch):
    pytest.importorskip("timm")
    assert "Did you mean resnet18" in refused(capsys, "timm:resnet_18", "--group", "C4")
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    said = refused(capsys, "timm:resnet18", "--group", "C4")
    assert 'pip install "equiwrap[timm]"' in said


def test_a_process_that_refuses_ends_with_status_1_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "equiwrap", "audit", "no.such:build", "--group", "C4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
