"""Five charged particles: equivariant by architecture, by augmentation, and by four frames.

    python recipes/nbody.py --json docs/assets/nbody.json --figure docs/assets/nbody.svg
    python recipes/nbody.py --quick                     # one seed, few simulations, few epochs
    python recipes/nbody.py --published --device cuda   # 3000 simulations, 2000 to test
    python recipes/nbody.py --table --json docs/assets/nbody.json

The particles are simulated (`recipes/data/nbody.py`): from positions, velocities and charges at one
time the positions are asked for one unit of time later. A message-passing network on absolute
coordinates knows nothing of E(3) but what its data, or the frame around it, tell it. Beside it
stands a small equivariant network (EGNN, Satorras et al. 2021, written from its equations). All
have the same simulations, batches, steps and learning rate; "then averaged" is the network of the
line above it, averaged over the eight signs of its principal axes after training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import study
import torch
from data.nbody import Particles, trajectories
from nbody_models import EGNN, Absolute
from study import Row, spread
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import equiwrap as ew

SIGNATURE = "b n p, b n v, b n 1 -> b n p"


@dataclass(frozen=True)
class Config:
    """Sizes and budget, the same for every method."""

    train: int = 1000
    test: int = 1000
    epochs: int = 100
    batch: int = 100
    rate: float = 3e-3
    width: int = 48
    rounds: int = 4
    points: tuple[int, ...] = (10, 20, 50, 100)  # epochs of the learning curve
    some: int = 100  # test simulations of the learning curve


PUBLISHED = Config(train=3000, test=2000, width=64, some=2000)
FRAMES: dict[str, Callable[[], Any]] = {
    "one frame (axes)": lambda: "axes",
    "eight frames (pca)": lambda: "pca",
    "one of eight (pca, stochastic)": lambda: ew.frames.PCA(stochastic=True, chunk=8),
    "weighted, stochastic": lambda: ew.frames.Weighted(stochastic=True, chunk=8),
}
THEN = "{}, then averaged"
LEARNT = ("plain", "O(3) augmentation", "E(3) augmentation")
METHODS = ("x + v", *LEARNT, *FRAMES, "EGNN")


def framed(net: nn.Module, frame: Any) -> nn.Module:
    return ew.equivariantize(net, "E(3)", SIGNATURE, frame=frame)


def built(method: str, config: Config) -> nn.Module:
    """The same network for all but one."""
    if method == "EGNN":
        return EGNN(config.width, config.rounds)
    net = Absolute(config.width, config.rounds)
    return framed(net, FRAMES[method]()) if method in FRAMES else net


def augmented(batch: Particles, method: str, rng: torch.Generator) -> Particles:
    """Every simulation turned, perhaps mirrored; under E(3) shifted by N(0, 1) as well."""
    if "augmentation" not in method:
        return batch
    turn = ew.groups.parse_group("O(3)").sample(len(batch), generator=rng).to(batch.x)
    shift = torch.randn(len(batch), 3, generator=rng).to(batch.x) * method.startswith("E")
    return batch.moved(turn, shift)


def train(method: str, data: Particles, test: Particles, config: Config, seed: int) -> Any:
    """Adam, mean squared error, the rate falling to zero as a cosine; and the learning curve."""
    torch.manual_seed(seed)
    model, rng = built(method, config).to(data.x.device), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), config.rate, weight_decay=1e-12)
    steps = config.epochs * (len(data) // config.batch)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve = {}
    for epoch in study.progress(range(config.epochs), "epoch", method):
        model.train()
        for pick in torch.randperm(len(data), generator=rng).split(config.batch):
            batch = augmented(data[pick], method, rng)
            loss = mse_loss(model(batch.x, batch.v, batch.q), batch.target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
        if epoch + 1 in config.points:
            curve[epoch + 1] = error(model, test[: config.some])
    return model.eval(), curve


def error(model: nn.Module, data: Particles) -> float:
    """Mean squared error a coordinate, in eval mode."""
    return float(mse_loss(answer(model, data), data.target))


@torch.no_grad()
def answer(model: nn.Module, data: Particles) -> Tensor:
    model.eval()
    parts = [data[i : i + 250] for i in range(0, len(data), 250)]
    return torch.cat([model(p.x, p.v, p.q) for p in parts])


def measured(model: nn.Module, test: Particles, config: Config) -> Row:
    """Test error, and how far the trained model is from turns, shifts and other orders.

    *max |f(gx) − g f(x)| / max |g f(x) − its mean over particles|* in float32; the change of the
    error by a shift of (10, 10, 10) in float32, and in float64 for the same weights.
    """
    some = test[: config.some]
    one = torch.eye(3).to(test.x)[None]
    far = torch.full((1, 3), 10.0).to(test.x)
    turn = ew.groups.parse_group("O(3)").sample(
        len(some), generator=torch.Generator().manual_seed(1)
    )
    near = torch.randn(len(some), 3, generator=torch.Generator().manual_seed(2)).to(test.x)
    y = answer(model, some)
    found: Row = {"mse": error(model, test), "mse_some": error(model, some)}
    moves = {"turned": (turn.to(test.x), 0 * near), "shifted": (one, near)}
    for name, (r, t) in moves.items():
        right = replace(some, target=y).moved(r, t).target
        found[name] = relative(answer(model, some.moved(r, t)), right)
    order = torch.randperm(some.x.shape[1], generator=torch.Generator().manual_seed(3))
    mixed = Particles(some.x[:, order], some.v[:, order], some.q[:, order], some.target[:, order])
    found["permuted"] = relative(answer(model, mixed), y[:, order])
    found["far"] = error(model, some.moved(one, far))
    fine, exact = deepcopy(model).double(), some.to(torch.float64)
    here = error(fine, exact)
    return found | {"shift64": abs(error(fine, exact.moved(one.double(), far.double())) / here - 1)}


def relative(y: Tensor, right: Tensor) -> float:
    return float((y - right).abs().max() / (right - right.mean(1, keepdim=True)).abs().max())


def seed_of(config: Config, seed: int, wanted: list[str], device: str) -> Any:
    """Rows of one seed, one method after another: the seed draws the simulations and the start."""
    data = trajectories(config.train + config.test, 43 + seed).to(device)
    test, data = data[: config.test], data[config.test :]
    for method in wanted:
        about = {"seed": seed, "method": method}
        if method == METHODS[0]:  # nothing is learnt
            yield about | {"mse": float(mse_loss(test.x + test.v, test.target))}
            continue
        begun = time.process_time()
        model, curve = train(method, data, test, config, seed)
        spent = time.process_time() - begun
        yield about | measured(model, test, config) | {"curve": curve, "seconds": spent}
        if method in LEARNT:
            after = framed(model, "pca")
            yield about | {"method": THEN.format(method)} | measured(after, test, config)
        if method == "EGNN":
            same = relative(answer(framed(model, "axes"), test), answer(model, test))
            yield about | {"method": "⟨EGNN⟩ − EGNN", "same": same}


# -- printing --------------------------------------------------------------------------------------

COLUMNS = {
    "mse": "test MSE",
    "turned": "turned, relative",
    "shifted": "shifted by N(0, 1)",
    "permuted": "permuted",
    "far": "MSE × by a shift of (10, 10, 10)",
    "shift64": "change by it, float64",
    "seconds": "s to train",
}


def table(rows: list[Row]) -> str:
    """Markdown: mean ± standard deviation over seeds; of the departures the largest."""
    names = [name for m in METHODS for name in (m, THEN.format(m))]
    parts = []
    for size in dict.fromkeys(r["train"] for r in rows):
        lines = [f"| {size} simulations | {' | '.join(COLUMNS.values())} |"]
        lines.append(f"|---|{'--:|' * len(COLUMNS)}")
        for name in names:
            held = [r for r in rows if (r["train"], r["method"]) == (size, name)]
            if held:
                lines.append(f"| {name} | {' | '.join(cell(held, c) for c in COLUMNS)} |")
        same = [r["same"] for r in rows if r["train"] == size and "same" in r]
        parts += ["\n".join(lines), f"⟨EGNN⟩ − EGNN: {max(same, default=0):.0e} of EGNN's span."]
        parts.append(curves([r for r in rows if r["train"] == size]))
    return "\n\n".join(parts)


def cell(held: list[Row], column: str) -> str:
    found = [r[column] for r in held if column in r]
    if column == "far" or not found:
        return f"{mean(r['far'] / r['mse_some'] for r in held):.4g}" if found else ""
    if column in ("turned", "shifted", "permuted", "shift64"):
        return f"{max(found):.0e}"
    return spread(found, ".0f" if column == "seconds" else ".4f")


def learnt(rows: list[Row]) -> list[Row]:
    """Those with a learning curve, in the order of the methods."""
    return sorted((r for r in rows if r.get("curve")), key=lambda r: METHODS.index(r["method"]))


def curves(rows: list[Row]) -> str:
    """The learning curve: mean over seeds of the error on the first test simulations."""
    held = learnt(rows)
    points = sorted({int(p) for r in held for p in r["curve"]})
    lines = [f"| MSE at epoch | {' | '.join(map(str, points))} |", f"|---|{'--:|' * len(points)}"]
    for method in dict.fromkeys(r["method"] for r in held):
        each = [r["curve"] for r in held if r["method"] == method]
        means = [f"{mean(c[str(p)] for c in each):.4f}" for p in points]
        lines.append(f"| {method} | {' | '.join(means)} |")
    return "\n".join(lines)


def figure(rows: list[Row], path: Path) -> None:
    """Learning curves: the mean over seeds, and their range."""
    size = min(r["train"] for r in rows)
    held = learnt([r for r in rows if r["train"] == size])
    with study.drawn(path, (7.4, 4)) as ax:
        for method in dict.fromkeys(r["method"] for r in held):
            each = [r["curve"] for r in held if r["method"] == method]
            at = sorted(map(int, each[0]))
            found = [[c[str(p)] for c in each] for p in at]
            dashes = "--" if method in LEARNT else "-"
            (line,) = ax.plot(at, list(map(mean, found)), dashes, marker="o", ms=3, label=method)
            low, high = list(map(min, found)), list(map(max, found))
            ax.fill_between(at, low, high, alpha=0.08, color=line.get_color())
        ax.set(yscale="log", xlabel="epoch", ylabel="MSE on test simulations")
        ax.set_title(f"Charged particles (simulated), {size} training simulations", fontsize=10)
        ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def main(given: list[str] | None = None) -> list[Row]:
    asked = study.asked(
        __doc__,
        given,
        seeds=3,
        quick="few simulations, few epochs",
        methods={"default": ";".join(METHODS), "help": "separated by semicolons"},
        published={"action": "store_true", "help": "sizes of the published protocol"},
        epochs={"type": int, "default": 100},
        device={"default": "cpu"},
    )
    config = replace(PUBLISHED if asked.published else Config(), epochs=asked.epochs)
    if asked.quick:
        config = replace(config, train=300, test=200, epochs=20, width=32, rounds=2)
    done = {(row["train"], row["seed"], row["method"]) for row in study.read(asked.json)}

    def rows_of(seed: int) -> Any:
        every = asked.methods.split(";")
        wanted = [m for m in every if (config.train, seed, m) not in done]
        for row in seed_of(config, seed, wanted, asked.device) if wanted else ():
            yield {"train": config.train, **row}

    about = {"published" if asked.published else "config": asdict(config)}
    rows = study.gathered(asked, asked.seeds, rows_of, **about)
    study.shown(asked, rows, table, figure)
    return rows


if __name__ == "__main__":
    main()
