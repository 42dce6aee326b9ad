"""Score-based generation on a symmetric law: augmented, averaged in training, or wrapped after it.

    python recipes/score_models.py --task all --json docs/assets/score_models.json
    python recipes/score_models.py --table --figure docs/assets/score_models.svg --json FILE
    python recipes/score_models.py --quick                  # one seed, few steps, a minute

Both laws are simulated: a mixture of eight Gaussians of the plane that C4 keeps, and one C8 orbit
of a Gaussian in ten dimensions. A network learns the noise ε of x_t = cos(πt/2) x + sin(πt/2) ε
(the score is −ε/σ), a deterministic sampler integrates it. W1 is the exact transport cost between
the samples and as many fresh points of the law, in units of the law, no critic anywhere. The score
error is the mean square of ε(x, t) − E[ε | x_t] on fresh points, with the expectation in closed
form. Results go into the file seed by seed, so that a run that was stopped goes on.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import study
import torch
from data.mixtures import Mixture, law, noisy, schedule
from score_methods import (
    METHODS,
    POST_HOC,
    SIGNATURE,
    TASKS,
    Config,
    sector,
    train,
    turned,
    wrapped,
)
from study import Row, spread
from torch import Tensor, nn
from torch.nn.functional import mse_loss, one_hot

import equiwrap as ew

KEYS = {"W1": "W1", "score": "score error"}
FLOORS = ("the exact score", "fresh points of the law")  # no network; no sampler either


@torch.no_grad()
def generate(model: Any, x: Tensor, jumps: int) -> Tensor:
    """The deterministic sampler (DDIM) from noise `x[b, d]`."""
    times = torch.linspace(0.98, 0.02, jumps + 1)
    for now, after in zip(times, [*times[1:], torch.zeros(())], strict=True):
        (a, s), (b, r) = schedule(now[None]), schedule(after[None])
        noise = model(x, now.expand(len(x)))
        x = b * (x - s * noise) / a + r * noise
    return x


def transport(x: Tensor, y: Tensor) -> float:
    """*W1*: the exact transport cost between two samples, by the network simplex of POT."""
    try:
        import ot
    except ImportError as error:
        raise SystemExit("The exact transport cost is POT's: pip install pot") from error
    cost = torch.cdist(x.double(), y.double()).numpy()
    return float(ot.emd2([], [], cost, numItermax=2_000_000))


def identity(net: nn.Module, problem: Mixture, seed: int, probe: int) -> tuple[float, float]:
    """*(MEE²/d, MSE(f) − MSE(Qf))*: what the average promises, and what it gives.

    The two are measured on different points; those of the second are turned by every element.
    """
    rng, g = torch.Generator().manual_seed(50_000 + seed), problem.group.elements().float()
    x, t = noisy(problem, probe, rng)
    size = ew.measure.model_error(net, problem.group, x, t, signature=SIGNATURE)
    x, t = noisy(problem, probe, rng)
    x, t = turned(g, x), t.repeat(len(g))
    both = (net, wrapped(net, problem.group, "whole"))
    with torch.no_grad():
        one, two = (float(mse_loss(f(x, t), problem.noise(x, t))) for f in both)
    return size.value**2 / x.shape[1], one - two


@torch.no_grad()
def measured(model: Any, problem: Mixture, config: Config, seed: int) -> Row:
    """W1, the score's error, its equivariance error and the imbalance of the sectors."""
    rng, group = torch.Generator().manual_seed(90_000 + seed), problem.group
    x, t = noisy(problem, config.probe, rng)
    costs, made = [], []
    for _ in range(config.pairs):
        start = torch.randn(config.samples, group.dim, generator=rng)
        made.append(generate(model, start, config.jumps))
        costs.append(problem.unit * transport(made[-1], problem.draw(config.samples, rng)))
    share = one_hot(sector(group, torch.cat(made)), len(group.elements())).double().mean(0)
    found = {"W1": mean(costs), "score": float(mse_loss(model(x, t), problem.noise(x, t)))}
    found["imbalance"] = float((share - 1 / len(share)).abs().sum() / 2)
    if isinstance(model, nn.Module):
        error = ew.measure.model_error(model, group, x, t, signature=SIGNATURE, form="relative")
        found["EE"] = error.value
    return found


def seed_of(task: str, config: Config, seed: int) -> Row:
    """One seed: every method on the same points, and those of `POST_HOC` wrapped afterwards."""
    problem, found, promised = law(task), {}, {}
    data = problem.draw(config.points, torch.Generator().manual_seed(1000 + seed))
    for method, (_, frame) in METHODS.items():
        net = train(problem, config, method, data, seed)
        found[method] = measured(wrapped(net, problem.group, frame), problem, config, seed)
        if frame is None:
            promised[method] = identity(net, problem, seed, config.probe)
        if method in POST_HOC:
            after = wrapped(net, problem.group, "whole")
            found[f"{method}, wrapped after"] = measured(after, problem, config, seed)
    found[FLOORS[0]] = measured(problem.noise, problem, config, seed)
    rng = torch.Generator().manual_seed(70_000 + seed)
    pairs = [[problem.draw(config.samples, rng) for _ in "ab"] for _ in range(config.pairs)]
    floor = mean(transport(*pair) for pair in pairs)
    found[FLOORS[1]] = {"W1": problem.unit * floor}
    return {"task": task, "seed": seed, "methods": found, "identity": promised}


# -- printing --------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown: one task, mean ± standard deviation over its seeds."""
    order = len(law(rows[0]["task"]).group.elements())
    lines = [f"### {rows[0]['task']}, seeds {', '.join(str(r['seed']) for r in rows)}", ""]
    lines += ["| method | calls a step | W1 | score error | relative MEE | imbalance |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for method in rows[0]["methods"]:
        how, frame = METHODS.get(method, ("no", None))
        calls = "–" if method in FLOORS else "B"
        calls = f"{order} B" if how in ("all", "each") or frame == "whole" else calls
        found = [values(rows, method, key) for key in ("W1", "score", "EE", "imbalance")]
        cells = [spread(each, ".3g", ".2g") for each in found]
        lines.append(f"| {method} | {calls} | {' | '.join(cells)} |")
    lines += ["", "| ‖f − Qf‖² and the fall of the error | promised | found | worst seed |"]
    lines += ["|---|--:|--:|--:|"]
    for method in rows[0]["identity"]:
        promised, got = zip(*(row["identity"][method] for row in rows), strict=True)
        worst = max(abs(g / p - 1) for p, g in zip(promised, got, strict=True))
        lines.append(f"| {method} | {mean(promised):.3g} | {mean(got):.3g} | {100 * worst:.1f} % |")
    return "\n".join([
        *lines,
        "",
        *(against(rows, other) for other in METHODS if "+" in other or "full" in other),
    ])


def values(rows: list[Row], method: str, key: str) -> list[float]:
    return [row["methods"][method][key] for row in rows if key in row["methods"][method]]


def against(rows: list[Row], other: str) -> str:
    """The averaged score beside another method, seed by seed."""
    said = []
    for key, name in KEYS.items():
        pairs = zip(values(rows, "averaged", key), values(rows, other, key), strict=True)
        gaps = [b - a for a, b in pairs]
        sd = stdev(gaps) if len(gaps) > 2 else 0.0
        t = f" (paired t = {mean(gaps) / sd * len(gaps) ** 0.5:.1f})" if sd else ""
        won = sum(gap > 0 for gap in gaps)
        said.append(f"{name} smaller in {won} of {len(gaps)} seeds, by {mean(gaps):.3g}{t}")
    return f"- averaged beside {other}: {'; '.join(said)}."


def figure(rows: list[Row], path: Path) -> None:
    """A dot a seed, a bar at the mean: W1 and the error of the score, a column a task."""
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    grid = {"nrows": 2, "ncols": len(tasks), "sharey": True, "squeeze": False}
    with study.drawn(path, (4.6 * len(tasks), 5.6), **grid) as axes:
        for column, task in enumerate(tasks):
            held = [row for row in rows if row["task"] == task]
            names = [m for m in held[0]["methods"] if m not in FLOORS]
            for ax, key, said in zip(axes[:, column], KEYS, KEYS.values(), strict=True):
                study.dots(ax, {m: values(held, m, key) for m in names})
                if key == "W1":
                    ax.axvline(mean(values(held, FLOORS[0], key)), color="0.6", ls=":")
                ax.set(xlabel=f"{said}, {task} (simulated)")


def study_of(rows: list[Row]) -> str:
    """Markdown: every task that was run."""
    parts = [[row for row in rows if row["task"] == task] for task in TASKS]
    return "\n\n".join(table(sorted(part, key=lambda r: r["seed"])) for part in parts if part)


def main(given: list[str] | None = None) -> list[Row]:
    asked = study.asked(
        __doc__,
        given,
        seeds=6,
        quick="a tenth of the steps",
        task={"choices": [*TASKS, "all"], "default": "all"},
    )
    done = {(row["task"], row["seed"]) for row in study.read(asked.json)}
    names = TASKS if asked.task == "all" else [asked.task]
    todo = [(task, seed) for task in names for seed in asked.seeds if (task, seed) not in done]

    def timed(item: tuple[str, int]) -> list[Row]:
        task, seed = item
        config, begun = TASKS[task], time.perf_counter()
        if asked.quick:
            config = replace(config, steps=500, decay=0.99, samples=500)
        row = study.short(seed_of(task, config, seed))
        return [row | {"config": asdict(config), "seconds": round(time.perf_counter() - begun)}]

    rows = study.gathered(asked, todo, timed)
    study.shown(asked, rows, study_of, figure)
    return rows


if __name__ == "__main__":
    main()
