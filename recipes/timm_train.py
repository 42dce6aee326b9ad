"""timm's own train.py and validate.py, unmodified, on equivariant models of real digits.

    git clone https://github.com/huggingface/pytorch-image-models
    python recipes/timm_train.py --timm pytorch-image-models [--quick] [--out table.md]

scikit-learn's 1797 digits as an image folder (33 × 33, every fourth to validate), resnet18, one
epoch on one CPU process, upright digits only. Three runs of `train.py` through the launcher, each
with `--config recipes/configs/resnet18.yaml`: the average over C4, the penalty whose decay finds
train.py's own optimiser, and the same without its decay. "Error" is the relative equivariance error
on the validation digits; "turned" the accuracy over all four turns of them; R = W − PW over all
parameters. Fails if a checkpoint does not load into plain timm with strict=True, or if the symmetry
that was asked for is not there.
"""

from __future__ import annotations

import argparse
import csv
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import create_dataset, create_transform
from timm.models import load_state_dict
from torch import Tensor, nn

import equiwrap as ew
import equiwrap.integrations.timm
from equiwrap.penalty import energies

CONFIG = Path(__file__).parent / "configs" / "resnet18.yaml"
SIDE = 33  # odd under every stride of the network, so that the lattices stay centred
PENALTY = {"group": "C4", "method": "penalize", "penalty": "300.0", "example": str(SIDE)}
RUNS = {
    "average": {"group": "C4"},
    "penalty": PENALTY,
    "penalty, decay=False": {**PENALTY, "decay": "False"},
}


def write_digits(folder: Path, limit: int) -> None:
    """`train/LABEL/N.png` and `validation/LABEL/N.png`: 8 × 8 made 32 × 32, with a border."""
    bunch = load_digits()
    pairs = zip(bunch.images[:limit], bunch.target[:limit], strict=True)
    for i, (image, label) in enumerate(pairs):
        where = folder / ("train" if i % 4 else "validation") / str(label)
        where.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(np.uint8(np.clip(image * 16, 0, 255)), np.ones((4, 4), np.uint8))
        Image.fromarray(np.pad(pixels, ((0, 1), (0, 1)))).convert("RGB").save(where / f"{i}.png")


def script(path: Path, *arguments: object) -> str:
    """Run one of timm's scripts through the launcher; what it said."""
    command = [sys.executable, "-m", "equiwrap.integrations.timm", str(path), *map(str, arguments)]
    print("$ python -m equiwrap.integrations.timm", path.name, *arguments, flush=True)
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ran.returncode:
        sys.exit(f"{path.name} failed:\n{ran.stdout}")
    return ran.stdout


def common(words: dict[str, str]) -> list[object]:
    """What train.py and validate.py are both told."""
    kwargs = [f"{name}={value}" for name, value in words.items()]
    size = ["--num-classes", 10, "--img-size", SIDE, "--crop-pct", 1.0, "--device", "cpu", "-j", 1]
    size += ["--mean", 0, 0, 0, "--std", 1, 1, 1]
    return ["--model", "equi_resnet18", "--model-kwargs", *kwargs, *size]


def images(folder: Path) -> tuple[Tensor, Tensor]:
    """`x[b, 3, 33, 33]` of the validation split as train.py sees it, and labels."""
    data = create_dataset("", str(folder), split="validation")
    data.transform = create_transform(
        (3, SIDE, SIDE), is_training=False, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1)
    )
    xs, labels = zip(*(data[i] for i in range(len(data))), strict=True)
    return torch.stack(xs), torch.tensor(labels)


def defect(model: nn.Module) -> float:
    """Σ |R|² / Σ |W|² over the parameters."""
    names = dict(model.named_parameters())
    found = [e for e in energies(model) if e.path in names]
    return sum(e.defect for e in found) / sum(e.total for e in found)


def study(name: str, timm_root: Path, data: Path, out: Path) -> tuple[str, list[float], bool]:
    """One run: its row of the table, errors and defects before and after, and who was followed."""
    words, label = RUNS[name], name.replace(", ", "_").replace("=", "_")
    said = script(
        timm_root / "train.py",
        *[data, "--config", CONFIG, *common(words), "-b", 24, "--epochs", 1, "--warmup-epochs", 0],
        *["--no-prefetcher", "--output", out, "--experiment", label],
    )
    follows = [line for line in said.splitlines() if "follows the steps of" in line]
    print("\n".join(["train.py said:", *follows]) if follows else "train.py: no decay")
    with open(out / label / "summary.csv") as file:
        row = list(csv.DictReader(file))[-1]
    print("summary.csv:", ", ".join(f"{k} {float(v):.4g}" for k, v in row.items()), flush=True)
    checkpoint = out / label / "last.pth.tar"
    said = script(
        timm_root / "validate.py",
        *[data, "--split", "validation", *common(words), "--checkpoint", checkpoint],
    )
    print("validate.py:", next(line.strip() for line in said.splitlines() if "Acc@1" in line[:8]))

    plain = timm.create_model("resnet18", num_classes=10)
    plain.load_state_dict(load_state_dict(str(checkpoint)), strict=True)
    given = {
        k: v if k in ("group", "method") else float(v) for k, v in words.items() if k != "decay"
    }
    given |= {"example": SIDE} if "example" in given else {}
    torch.manual_seed(42)
    model = timm.create_model("equi_resnet18", num_classes=10, **given).eval()
    x, labels = images(data)
    penalised = name != "average"
    before = _error(model if penalised else ew.unwrap(model), x)
    held = [defect(model)] if penalised else []
    model.load_state_dict(plain.state_dict(), strict=True)
    after = _error(model, x)
    held += [defect(model)] if penalised else []
    accuracy = ew.measure.orbit_accuracy(model, "C4", x, labels)
    cells = [name, f"{float(row['eval_top1']):.1f}", f"{100 * accuracy.mean:.1f}"]
    cells += [f"{before:.1e}", f"{after:.1e}", *[f"{v:.1e}" for v in held]]
    row = "| " + " | ".join([*cells, *["–"] * (7 - len(cells))]) + " |"
    return row, [before, after, *held], bool(follows)


def _error(model: nn.Module, x: Tensor) -> float:
    found = ew.measure.equivariance_error(model.eval(), "C4", x, signature="b c h w -> b k")
    return float(found)


PAGE = """# timm's train.py, unmodified

`python recipes/timm_train.py --timm PATH`, scripts of timm {checkout} (with its own package),
checkpoints read by timm {timm}, torch {torch}, Python {python}, CPU.

| resnet18, one epoch | upright % | turned % | error before | after | defect before | after |
|---|--:|--:|--:|--:|--:|--:|
{table}
"""


def main() -> int:
    """The command line; 1 where the symmetry that was asked for is not there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timm", type=Path, required=True, help="a checkout of timm's repository")
    parser.add_argument("--quick", action="store_true", help="600 digits instead of 1797")
    parser.add_argument("--out", type=Path, help="write the table here")
    options = parser.parse_args()
    root = options.timm.resolve()
    with tempfile.TemporaryDirectory() as held:
        data = Path(held) / "digits"
        write_digits(data, 600 if options.quick else 1797)
        found = [study(name, root, data, Path(held) / "out") for name in RUNS]
    rows, ((raw, exact), pulled, free), followed = zip(*found, strict=True)
    good = [
        exact < 1e-5 < raw,
        pulled[1] < 0.5 * free[1] and pulled[3] < 0.01 * pulled[2],
        free[3] > 0.5 * free[2],
        followed == (False, True, False),
    ]
    page = PAGE.format(
        table="\n".join(rows),
        timm=timm.__version__,
        checkout=(root / "timm" / "version.py").read_text().split("=")[-1].strip(" '\"\n"),
        torch=torch.__version__.split("+")[0],
        python=platform.python_version(),
    )
    print(page)
    if options.out:
        options.out.write_text(page)
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
