"""A frozen classifier of upright digits, made invariant under quarter turns in five ways.

    python recipes/frozen_digits.py --seeds 3 --out table.md
    python recipes/frozen_digits.py --seeds 3 --data FOLDER    # with t10k-images-idx3-ubyte.gz, …

scikit-learn's 1797 real digits, padded to 12 × 12, two thirds to train and one third to test; with
`--data` the 10 000 test images of MNIST, padded to 32 × 32. The classifier sees upright digits only
and is then frozen. The prior is fitted to the same images without their labels. "Consistency" is
the share of turned images that get the answer of the upright one.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from statistics import mean, stdev

import torch
from data import mnist
from sklearn.datasets import load_digits
from torch import Tensor, nn

import equiwrap as ew
from equiwrap.frames import Learned, UprightNet, fit_upright
from equiwrap.groups import parse_group

C4 = parse_group("C4")


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


def study(
    seed: int, steps: int, folder: Path | None = None
) -> tuple[dict[str, list[float]], str, float]:
    """Upright accuracy, orbit accuracy, consistency, identity rate and error, by method."""
    torch.manual_seed(seed)
    x, labels = digits(folder)
    order = torch.randperm(len(x))
    count = 1200 if folder is None else 7000
    train, test = order[:count], order[count:]
    net = classifier(x[train], labels[train], steps)
    start = time.perf_counter()
    prior = fit_upright(x[train], C4, seed=seed, steps=min(900 if folder is None else 2000, steps))
    seconds = time.perf_counter() - start
    wrap = {
        "plain": net,
        "average of the logits": ew.equivariantize(net, "C4", "b c h w -> b k", frame="whole"),
        "fixed key": ew.equivariantize(net, "C4", "b c h w -> b k", frame="key"),
        "untrained energy": ew.equivariantize(
            net, "C4", "b c h w -> b k", frame=Learned(UprightNet(1).eval())
        ),
        "its own confidence": ew.equivariantize(net, "C4", "b c h w -> b k", frame="confidence"),
        "upright prior": ew.equivariantize(net, "C4", "b c h w -> b k", frame=prior),
    }
    guard = ew.measure.orbit_accuracy(net, "C4", x[test], labels[test])
    found = {}
    for name, model in wrap.items():
        model.eval()
        accuracy = ew.measure.orbit_accuracy(model, "C4", x[test], labels[test])
        frame = getattr(getattr(model, "equiwrap", None), "frame", None)
        rate = frame.identity_rate(C4, x[test]) if isinstance(frame, Learned) else float("nan")
        error = ew.measure.equivariance_error(model, "C4", x[test], signature="b c h w -> b k")
        numbers = [accuracy.upright, accuracy.mean, consistency(model, x[test]), rate]
        found[name] = [*[100 * v for v in numbers], error.worst]
    return found, str(guard), seconds


PAGE = """# A frozen model of upright digits

`python recipes/frozen_digits.py {command}`, torch {torch}, Python {python}, CPU.

| C4 | upright | mean over C4 | consistency | identity rate | largest error |
|---|--:|--:|--:|--:|--:|
{table}

Per cent, mean and standard deviation over {seeds} seeds. The prior took at most {seconds:.0f} s to
fit. The guard says: {guard}
"""


def main() -> int:
    """The command line; 1 where the prior loses more than two points."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--out", type=Path, help="write the page here")
    parser.add_argument("--data", type=Path, help="a folder with MNIST's t10k files")
    options = parser.parse_args()
    runs = [study(seed, options.steps, options.data) for seed in range(options.seeds)]
    lines = []
    for name in runs[0][0]:
        columns = list(zip(*[run[0][name] for run in runs], strict=True))
        cells = ["–" if c[0] != c[0] else _spread(c) for c in columns[:4]]
        lines.append(f"| {name} | {' | '.join(cells)} | {max(columns[4]):.0e} |")
    page = PAGE.format(
        seeds=options.seeds,
        command=f"--seeds {options.seeds}" + (" --data FOLDER" if options.data else ""),
        torch=torch.__version__.split("+")[0],
        python=platform.python_version(),
        table="\n".join(lines),
        seconds=max(run[2] for run in runs),
        guard=runs[0][1],
    )
    print(page)
    if options.out:
        options.out.write_text(page)
    lost = mean(run[0]["plain"][0] - run[0]["upright prior"][1] for run in runs)
    return int(lost > 2)


def _spread(values: tuple[float, ...]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


if __name__ == "__main__":
    sys.exit(main())
