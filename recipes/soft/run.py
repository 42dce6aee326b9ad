"""Train, choose by validation, measure, time in turns, and print."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from math import isfinite
from statistics import mean, median

import torch
from study import Row, progress, spread
from study import short as rounded
from torch import nn

from equiwrap.measure import data_error, model_error

from .methods import METHODS, Trainer
from .tasks import Task


def begun(task: Task, method: str, strength: float, seed: int) -> Trainer:
    """A net from the seed, and what trains it."""
    torch.manual_seed(seed)
    net = task.net()
    return METHODS[method][0](task, net, task.find(net, task.train[0]), strength)


def fitted(task: Task, method: str, strength: float, seed: int) -> nn.Module:
    """The net after all steps: the learning rate goes to zero as a cosine."""
    trainer = begun(task, method, strength, seed)
    x, y = task.train
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(trainer.optimizer, task.steps)
    for _ in range(task.steps):
        pick = torch.randperm(len(x))[: task.batch]
        trainer.step(x[pick], y[pick])
        schedule.step()
    return trainer.net.eval()


@torch.no_grad()
def judged(task: Task, net: nn.Module) -> tuple[float, float]:
    """What the strength is chosen by: the error on validation data, and the loss where it ties."""
    x, y = task.val
    out = net(x)
    return task.error(out, y), float(task.loss(out, y))


def tuned(task: Task, method: str, seed: int, grid: Sequence[float]) -> Row:
    """The best of the grid on validation data, measured on test data."""
    nets = [(fitted(task, method, strength, seed), strength) for strength in grid]
    net, strength = min(nets, key=lambda pair: judged(task, pair[0]))
    x, y = task.test
    with torch.no_grad():
        test = task.error(net(x), y)
    size = model_error(net, task.group, x, signature=task.signature)
    dial = data_error(net, task.group, task.test, signature=task.signature).dial
    return {
        "method": method,
        "seed": seed,
        "strength": strength,
        "test": short(test),
        "mee": [short(v) for v in (size.value, size.low, size.high)],
        "alpha": None if size.exact else [short(v) for v in (dial.value, dial.low, dial.high)],
    }


def short(value: float) -> float | None:
    """Four digits, for a small file; none of what is no number."""
    return rounded(value) if isfinite(value) else None


def timed(task: Task, chosen: dict[str, float], rounds: int) -> dict[str, float | None]:
    """Milliseconds of a step by method: all take turns on one batch, the median of the rounds."""
    trainers = {m: begun(task, m, strength, 0) for m, strength in chosen.items()}
    x, y = (part[: task.batch] for part in task.train)
    found: dict[str, list[float]] = {m: [] for m in chosen}
    for i in range(rounds + 3):
        for method, trainer in trainers.items():
            start = time.process_time()
            trainer.step(x, y)
            if i >= 3:
                found[method].append(1e3 * (time.process_time() - start))
    return {m: short(median(each)) for m, each in found.items()}


def study(
    make: Callable[[int], Task],
    seeds: Sequence[int],
    methods: Sequence[str] | None = None,
    grid: slice = slice(None),
    rounds: int = 40,
) -> Row:
    """All methods on one task, each seed with data and a start of its own."""
    names = list(methods or METHODS)
    tasks = [make(seed) for seed in seeds]
    todo = [(*pair, method) for pair in zip(tasks, seeds, strict=True) for method in names]
    runs = [
        tuned(task, method, seed, METHODS[method][1][grid])
        for task, seed, method in progress(todo, "method", tasks[0].name)
    ]
    chosen = {r["method"]: r["strength"] for r in runs}
    first = tasks[0]
    size = sum(p.numel() for p in copy.deepcopy(first.net()).parameters())
    dees = [t.asymmetry for t in tasks if t.asymmetry is not None]
    return {
        "task": first.name,
        "unit": "% wrong" if first.labels else "squared error",
        "budget": f"{size} weights, {first.steps} steps of {first.batch}, "
        f"{'/'.join(str(len(part[0])) for part in (first.train, first.val, first.test))} examples",
        "asymmetry": short(mean(dees)) if dees else None,
        "ms": timed(first, chosen, rounds),
        "runs": runs,
    }


# -- printing --------------------------------------------------------------------------------------


def table(found: Row) -> str:
    """Markdown: a row a method."""
    dee = found["asymmetry"]
    said = f"The data break the symmetry by DEE = {dee:.3g}: " if dee is not None else ""
    lines = [
        f"### {found['task']}",
        "",
        f"{said}{found['budget']}.",
        "",
        f"| method | strength | test, {found['unit']} | decay ahead | MEE | α* | ms a step |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for method, ms in found["ms"].items():
        runs = [r for r in found["runs"] if r["method"] == method]
        strengths = sorted({r["strength"] for r in runs})
        dials = [r["alpha"] for r in runs if r["alpha"]]
        lines.append(
            f"| {method} | {', '.join(f'{s:g}' for s in strengths)} | "
            f"{spread([r['test'] for r in runs], '.3g', '.2g')} | {ahead(found, method)} | "
            f"{hull([r['mee'] for r in runs])} | "
            f"{hull(dials) if dials else '–'} | {ms:.2g} |"
        )
    return "\n".join([*lines, ""])


def ahead(found: Row, method: str) -> str:
    """In how many seeds the decay has the smaller error: the seeds are pairs, of data and start."""
    tests = [
        {r["seed"]: r["test"] for r in found["runs"] if r["method"] == m} for m in ("decay", method)
    ]
    if method == "decay" or not tests[0]:
        return "–"
    return f"{sum(tests[0][seed] < test for seed, test in tests[1].items())} of {len(tests[1])}"


def values(found: Row, method: str, key: str) -> list[float]:
    """The test errors (`test`) or the model errors (`mee`) of one method, by seed."""
    held = [r[key] for r in found["runs"] if r["method"] == method]
    return [v[0] for v in held] if key == "mee" else held


def hull(intervals: Sequence[Sequence[float]]) -> str:
    """The mean over seeds, and the hull of the seeds' 95 % intervals."""
    middle, low, high = zip(*intervals, strict=True)
    return f"{mean(middle):.2g} [{min(low):.2g}, {max(high):.2g}]"


def glance(held: Sequence[Row], key: str) -> str:
    """Markdown: all tasks with a known asymmetry beside each other, one number of each method."""
    known = [found for found in held if found["asymmetry"] is not None]
    title = {"test": "Test error, mean over seeds", "mee": "MEE, mean over seeds"}[key]
    lines = [
        f"| {title} | {' | '.join(found['task'] for found in known)} |",
        f"|---|{'--:|' * len(known)}",
    ]
    if key == "mee":
        cells = [f"{found['asymmetry']:.3g}" for found in known]
        lines.append(f"| the data (DEE) | {' | '.join(cells)} |")
    for method in known[0]["ms"] if known else ():
        cells = [f"{mean(values(found, method, key)):.2g}" for found in known]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
