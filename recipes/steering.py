"""Does `steer=True` find the λ that a sweep finds? Data whose symmetry is partial, simulated.

    python recipes/steering.py --json docs/assets/steering.json
    python recipes/steering.py --quick

Linear: y = ⟨W, x⟩ + noise on normal images 7 × 7, W = C4-symmetric + ε · asymmetric, one kernel to
learn: there α* = 1 is where the risk is stationary in λ, up to how far the inputs are from white.
Network: an MLP on two vectors of the plane, y = invariant + ε · asymmetric (`soft.tasks.sweep`).
Full batches, SGD with momentum, the penalty as a gradient (kind="loss"). The sweep trains anew for
every λ and takes the vertex of the parabola through the least validation losses in log λ; the
controller trains once, from λ = 0.01, and moves λ each epoch by α* on the same validation data.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from soft import tasks
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


def train(s: Setting, seed: int, strength: float, steer: bool) -> dict[str, object]:
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


def study(s: Setting, seed: int, said: Callable[[str], None] = print) -> dict[str, object]:
    """Sweep and controller on one seed."""
    grid = [s.lowest * s.ratio**k for k in range(s.count)]
    swept = [(strength, *train(s, seed, strength, False)["losses"]) for strength in grid]
    found = train(s, seed, 0.01, True)
    best = vertex([(strength, val) for strength, val, _ in swept])
    row = {
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
    said(line(row))
    return row


def line(row: dict[str, object]) -> str:
    """One line of the table."""
    return (
        f"| {row['task']} | {row['seed']} | {row['sweep']:.3g} | {row['controller']:.3g} | "
        f"{row['ratio']:.2f} | {100 * row['excess']:+.2f} % | {row['test']:.4f} | "
        f"{row['test of the sweep']:.4f} |"
    )


HEAD = (
    "| task | seed | λ of the sweep | λ of the controller | ratio | validation loss over the "
    "sweep's least | test | test of the sweep |\n|---|--:|--:|--:|--:|--:|--:|--:|"
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed of the first task")
    parser.add_argument("--json", type=Path, help="where the rows go")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [replace(SETTINGS[0], count=8, lowest=0.3)] if asked.quick else SETTINGS
    print(HEAD)
    rows = [study(s, seed) for s in chosen for seed in range(1 if asked.quick else asked.seeds)]
    print("\nWhy: the log of the first line.\n\n| epoch | α* | error | λ |\n|--:|--:|--:|--:|")
    for epoch, alpha, error, strength in rows[0]["log"][:: max(1, len(rows[0]["log"]) // 10)]:
        print(f"| {epoch} | {alpha:.2f} | {error:.3f} | {strength:.3g} |")
    if asked.json:
        asked.json.write_text(json.dumps(rows, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
