"""A frozen classifier of upright digits, made invariant under quarter turns in five ways.

    python recipes/frozen_digits.py --json frozen.json --figure frozen.svg
    python recipes/frozen_digits.py --json frozen.json --figure frozen.svg --data FOLDER
    python recipes/frozen_digits.py --quick

scikit-learn's 1797 real digits, padded to 12 × 12, two thirds to train and one third to test; with
`--data` the 10 000 test images of MNIST (t10k-images-idx3-ubyte.gz, …), padded to 32 × 32. The
classifier sees upright digits only and is then frozen. The prior is fitted to the same images
without their labels. "Consistency" is the share of turned images that get the answer of the upright
one. Both sets of digits may share a file.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import mean

import study
import torch
from data import mnist
from sklearn.datasets import load_digits
from study import Row, spread
from torch import Tensor, nn

import equiwrap as ew
from equiwrap.frames import Learned, UprightNet, fit_upright
from equiwrap.groups import parse_group

C4, TYPE, DATA = parse_group("C4"), "b c h w -> b k", ("digits", "MNIST")
COLUMNS = {"upright": "upright", "mean": "mean over C4"}
COLUMNS |= {"consistency": "consistency", "identity": "identity rate"}


def digits(folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """`images[1797, 1, 12, 12]` in [0, 1], and labels; MNIST's `[10000, 1, 32, 32]`."""
    if folder is not None:
        images, labels = mnist.load(folder)
        return nn.functional.pad(images, (2, 2, 2, 2)), labels
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    return nn.functional.pad(images, (2, 2, 2, 2)), torch.tensor(bunch.target)


def classifier(x: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """A perceptron trained on upright digits."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(steps):
        pick = torch.randint(len(x), (100,))
        loss = nn.functional.cross_entropy(net(x[pick]), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def consistency(model: nn.Module, x: Tensor) -> float:
    """Share of (image, turn) pairs that are given the class of the image as it comes."""
    here = model(x).argmax(-1)
    turned = [model(x.rot90(k, (-2, -1))).argmax(-1) for k in range(4)]
    return float(torch.stack([(y == here).double() for y in turned]).mean())


def rows_of(seed: int, steps: int, folder: Path | None = None) -> list[Row]:
    """Upright and orbit accuracy, consistency, identity rate (per cent) and error, by method."""
    torch.manual_seed(seed)
    x, labels = digits(folder)
    order = torch.randperm(len(x))
    count = 1200 if folder is None else 7000
    train, test = order[:count], order[count:]
    net = classifier(x[train], labels[train], steps)
    start = time.perf_counter()
    prior = fit_upright(x[train], C4, seed=seed, steps=min(900 if folder is None else 2000, steps))
    seconds = time.perf_counter() - start
    frames = {"average of the logits": "whole", "fixed key": "key"}
    frames |= {"untrained energy": Learned(UprightNet(1).eval())}
    frames |= {"its own confidence": "confidence", "upright prior": prior}
    found = []
    for name in ("plain", *frames):
        model = net if name == "plain" else ew.equivariantize(net, "C4", TYPE, frame=frames[name])
        accuracy = ew.measure.orbit_accuracy(model.eval(), "C4", x[test], labels[test])
        row = {"data": DATA[folder is not None], "seed": seed, "method": name}
        row |= {"upright": 100 * accuracy.upright, "mean": 100 * accuracy.mean}
        row["consistency"] = 100 * consistency(model, x[test])
        if isinstance(frames.get(name), Learned):
            row["identity"] = 100 * frames[name].identity_rate(C4, x[test])
        row["error"] = ew.measure.equivariance_error(model, "C4", x[test], signature=TYPE).worst
        found.append(row | ({"guard": str(accuracy)} if name == "plain" else {}))
    found[-1]["seconds"] = seconds
    return study.short(found, 5)


def table(rows: list[Row]) -> str:
    """A part for each of the two data sets."""
    parts = []
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        plain = [row for row in mine if row["method"] == "plain"]
        lines = [f"| {data}, C4 | {' | '.join(COLUMNS.values())} | largest error |"]
        lines.append("|---|--:|--:|--:|--:|--:|")
        for name in dict.fromkeys(row["method"] for row in mine):
            held = [row for row in mine if row["method"] == name]
            cells = [spread([row[c] for row in held if c in row], ".1f") for c in COLUMNS]
            worst = max(row["error"] for row in held)
            lines.append(f"| {name} | {' | '.join(cells)} | {worst:.0e} |")
        seconds = max(row["seconds"] for row in mine if "seconds" in row)
        said = f"Seeds {', '.join(str(row['seed']) for row in plain)}; the prior took at most "
        said += f"{seconds:.0f} s to fit. The guard says:"
        parts += ["\n".join(lines), f"{said} {plain[0]['guard']}"]
    return "\n\n".join(parts)


def figure(rows: list[Row], path: Path) -> None:
    """The mean over C4 of every method, a dot a seed."""
    names = list(dict.fromkeys(row["data"] for row in rows))
    grid = {"ncols": len(names), "sharey": True, "squeeze": False}
    with study.drawn(path, (2 + 3.2 * len(names), 2.8), **grid) as axes:
        for ax, name in zip(axes[0], names, strict=True):
            held = [row for row in rows if row["data"] == name]
            methods = dict.fromkeys(row["method"] for row in held)
            study.dots(
                ax, {m: [row["mean"] for row in held if row["method"] == m] for m in methods}
            )
            ax.set(xlabel="% right, mean over C4", title=name, xlim=(0, 100))


def lost(rows: list[Row]) -> float:
    """Points that the prior costs, on average."""
    plain = [row["upright"] for row in rows if row["method"] == "plain"]
    return mean(plain) - mean(row["mean"] for row in rows if row["method"] == "upright prior")


def main(given: list[str] | None = None) -> int:
    """The command line; 1 where the prior loses more than two points."""
    asked = study.asked(
        __doc__,
        given,
        seeds=3,
        quick="600 steps",
        steps={"type": int, "default": 1500, "help": "of training"},
        data={"type": Path, "help": "a folder with MNIST's t10k files"},
    )
    steps = min(asked.steps, 600) if asked.quick else asked.steps
    done = {(row["data"], row["seed"]) for row in study.read(asked.json)}
    name = DATA[asked.data is not None]
    todo = [seed for seed in asked.seeds if (name, seed) not in done]
    about = {name: {"steps": steps}}
    rows = study.gathered(asked, todo, lambda seed: rows_of(seed, steps, asked.data), **about)
    study.shown(asked, rows, table, figure)
    return int(lost(rows) > 2)


if __name__ == "__main__":
    sys.exit(main())
