"""Does `steer=True` find the λ that a sweep finds? Data whose symmetry is partial, simulated.

    python recipes/steering.py --json docs/assets/steering.json --figure docs/assets/steering.svg
    python recipes/steering.py --quick

Linear: y = ⟨W, x⟩ + noise on normal images 7 × 7, W = C4-symmetric + ε · asymmetric, one kernel to
learn: there α* = 1 is where the risk is stationary in λ, up to how far the inputs are from white.
Network: an MLP on two vectors of the plane, y = invariant + ε · asymmetric (`soft.tasks.sweep`).
Full batches, SGD with momentum, the penalty as a gradient (kind="loss"). The sweep trains anew for
every λ and takes the vertex of the parabola through the least validation losses in log λ; the
controller trains once, from λ = 0.01, and moves λ each epoch by α* on the same validation data.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import study
import torch
from soft import tasks
from study import Row, spread
from torch import Tensor, nn

import equiwrap as ew
from equiwrap.penalty import AlphaController

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Setting:
    """One task: its data, its net and its budget."""

    name: str
    n: int
    eps: float
    noise: float
    rate: float
    lowest: float  # of the sweep
    ratio: float
    count: int
    epochs: int
    settled: int  # epochs after which a training with a fixed λ has converged
    steps: int = 50  # an epoch

    def data(self, seed: int) -> tuple[Pair, Pair, Pair]:
        """To train, to validate, to test (without noise)."""
        return linear(self, seed) if self.name.startswith("linear") else network(self, seed)


SETTINGS = (
    Setting("linear, n = 1000", 1000, 0.3, 2.0, 0.1, 0.1, 1.35, 14, 60, 8),
    Setting("linear, n = 200", 200, 0.3, 1.0, 0.1, 0.1, 1.35, 14, 60, 8),
    Setting("network, n = 200", 200, 0.3, 0.1, 0.02, 0.0064, 2.0, 8, 40, 40),
)


def linear(s: Setting, seed: int) -> tuple[Pair, Pair, Pair]:
    """Normal images and the products with a kernel that is C4-symmetric but for ε."""
    draw = torch.Generator().manual_seed(seed)
    given = torch.randn(7, 7, generator=draw, dtype=torch.float64)
    even = torch.stack([torch.rot90(given, k, (0, 1)) for k in range(4)]).mean(0)
    kernel = even / even.norm() + s.eps * (given - even) / (given - even).norm()

    def part(count: int, noise: float) -> Pair:
        x = torch.randn(count, 1, 7, 7, generator=draw, dtype=torch.float64)
        y = (x[:, 0] * kernel).sum((1, 2))
        return x, (y + noise * torch.randn(count, generator=draw, dtype=torch.float64))[:, None]

    return part(s.n, s.noise), part(2 * s.n, s.noise), part(20000, 0.0)


def network(s: Setting, seed: int) -> tuple[Pair, Pair, Pair]:
    """Two vectors of the plane."""
    task = tasks.sweep(seed, s.eps, s.n)
    return task.train, task.val, task.test


def model_of(s: Setting, seed: int, x: Tensor) -> nn.Module:
    """The net of a task, penalised."""
    torch.manual_seed(seed)
    if s.name.startswith("linear"):
        net = nn.Sequential(nn.Conv2d(1, 1, 7, bias=False), nn.Flatten()).double()
        asked = ("b c h w -> b k", "trivial")
    else:
        net, asked = tasks.sweep(seed, s.eps, s.n).net(), ("b (2 v) -> b 1", "regular")
    return ew.equivariantize(net, "C4", asked[0], method="penalize", hidden=asked[1], example=x[:4])


def train(s: Setting, seed: int, strength: float, steer: bool) -> dict[str, Any]:
    """One training: λ at its end, the losses, and the log."""
    trained, held, tested = s.data(seed)
    model = model_of(s, seed, held[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=s.rate, momentum=0.9)
    callback = ew.EquivarianceCallback(
        model,
        "C4",
        penalty=strength,
        kind="loss",
        steer=AlphaController(rate=1.0) if steer else False,
        every=None,
        holdout=held if steer else None,
    )
    for _ in range(s.epochs if steer else s.settled):
        for _ in range(s.steps):
            optimizer.zero_grad()
            (model(trained[0]) - trained[1]).square().mean().backward()
            callback.before_step(optimizer)
            optimizer.step()
            callback.after_step()
        callback.after_epoch()
    with torch.no_grad():
        losses = [float((model(x) - y).square().mean()) for x, y in (held, tested)]
    log = [
        [row["epoch"], row["equiv/alpha_star"], row["equiv/error"], row["equiv/strength"]]
        for row in callback.history
    ]
    return {"strength": float(callback.pull.strength), "losses": losses, "log": log}


def vertex(points: list[tuple[float, float]]) -> float:
    """λ of least loss: the parabola through the best point and its neighbours, in log λ."""
    best = min(range(len(points)), key=lambda i: points[i][1])
    if best in (0, len(points) - 1):
        return points[best][0]
    (a, left), (b, low), (c, right) = points[best - 1 : best + 2]
    a, b, c = math.log(a), math.log(b), math.log(c)
    return math.exp(b + (c - a) / 4 * (left - right) / (left - 2 * low + right))


def compared(s: Setting, seed: int) -> Row:
    """Sweep and controller on one seed."""
    grid = [s.lowest * s.ratio**k for k in range(s.count)]
    at = study.progress(grid, "training", f"{s.name}, seed {seed}")
    swept = [(strength, *train(s, seed, strength, False)["losses"]) for strength in at]
    found = train(s, seed, 0.01, True)
    best = vertex([(strength, val) for strength, val, _ in swept])
    return {
        "task": s.name,
        "seed": seed,
        "sweep": best,
        "controller": found["strength"],
        "ratio": found["strength"] / best,
        "excess": found["losses"][0] / min(val for _, val, _ in swept) - 1,
        "test": found["losses"][1],
        "test of the sweep": min(swept, key=lambda point: point[1])[2],
        "log": found["log"],
        "setting": asdict(s),
    }


# -- printing --------------------------------------------------------------------------------------

HEAD = (
    "| task | seed | λ of the sweep | λ of the controller | ratio | validation loss over the "
    "sweep's least | test | test of the sweep |\n|---|--:|--:|--:|--:|--:|--:|--:|"
)
WHOLE = (
    "| task, mean ± sd | log2 of the ratio | validation loss over the sweep's least, % | test "
    "| test of the sweep |\n|---|--:|--:|--:|--:|"
)


def line(row: Row) -> str:
    """One line of the table."""
    return (
        f"| {row['task']} | {row['seed']} | {row['sweep']:.3g} | {row['controller']:.3g} | "
        f"{row['ratio']:.2f} | {100 * row['excess']:+.2f} % | {row['test']:.4f} | "
        f"{row['test of the sweep']:.4f} |"
    )


def table(rows: list[Row]) -> str:
    """Every seed; mean and deviation over seeds; the log of the first."""
    lines = [HEAD, *map(line, rows), "", WHOLE]
    for task in dict.fromkeys(row["task"] for row in rows):
        held = [row for row in rows if row["task"] == task]
        cells = [
            spread([math.log2(row["ratio"]) for row in held], ".2f"),
            spread([100 * row["excess"] for row in held], ".2f"),
            *(spread([row[key] for row in held], ".4f") for key in ("test", "test of the sweep")),
        ]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    lines += ["", "Why: the log of the first line.", "", "| epoch | α* | error | λ |"]
    lines.append("|--:|--:|--:|--:|")
    for epoch, alpha, error, strength in rows[0]["log"][:: max(1, len(rows[0]["log"]) // 10)]:
        lines.append(f"| {epoch} | {alpha:.2f} | {error:.3f} | {strength:.3g} |")
    return "\n".join(lines)


def figure(rows: list[Row], path: Path) -> None:
    """λ of the controller against that of the sweep; α* by epoch on the first task."""
    with study.drawn(path, (8, 3.2), ncols=2) as (left, right):
        for task in dict.fromkeys(row["task"] for row in rows):
            held = [row for row in rows if row["task"] == task]
            left.loglog(
                [row["sweep"] for row in held], [row["controller"] for row in held], "o", label=task
            )
        ends = [min(row["sweep"] for row in rows), max(row["sweep"] for row in rows)]
        left.plot(ends, ends, "k:", lw=1)
        left.set(xlabel="λ of the sweep", ylabel="λ of the controller")
        left.legend(fontsize=8)
        for row in rows:
            if row["task"] == rows[0]["task"]:
                epoch, alpha = list(zip(*row["log"], strict=True))[:2]
                right.plot(epoch, alpha, label=f"seed {row['seed']}")
        right.axhline(1, color="k", ls=":", lw=1)
        right.set(xlabel="epoch", ylabel="α* on the holdout")
        right.set_title(rows[0]["task"], fontsize=10)
        right.legend(fontsize=8)


def main(given: list[str] | None = None) -> list[Row]:
    """The command line."""
    asked = study.asked(__doc__, given, seeds=3, quick="eight λ of the first task")
    chosen = [replace(SETTINGS[0], count=8, lowest=0.3)] if asked.quick else SETTINGS
    done = {(row["task"], row["seed"]) for row in study.read(asked.json)}
    todo = [(s, seed) for s in chosen for seed in asked.seeds if (s.name, seed) not in done]
    rows = study.gathered(asked, todo, lambda item: [compared(*item)])
    study.shown(asked, rows, table, figure)
    return rows


if __name__ == "__main__":
    main()
