r"""Soft symmetry against plain, augmented, sample-based, hard and RPP-style training.

    python recipes/soft_symmetry.py --task all --seeds 3 --json docs/assets/soft_symmetry.json
    python recipes/soft_symmetry.py --table --json docs/assets/soft_symmetry.json \
        --figure docs/assets/soft_symmetry.svg

One net, one number of steps, four strengths to choose from on validation data, for every method.
Tasks: a controlled breaking of C4 in five sizes, the modified inertia tensor under O(3), digits on
65 × 65 pixels of which two classes break C4. Results go into the file task by task, so that tasks
may be run one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean

import study
import torch
from soft import run, tasks
from study import Row

SIZES = (0.0, 0.1, 0.2, 0.4, 0.8)


def makers(task: str, sizes: list[float], quick: bool) -> list[Callable[[int], tasks.Task]]:
    """Seed → task, of each one asked for."""
    few = {"n": 60, "steps": 20} if quick else {}
    found: list[Callable[[int], tasks.Task]] = []
    if task in ("sweep", "all"):
        found += [partial(tasks.sweep, eps=eps, **few) for eps in sizes]
    if task in ("inertia", "all"):
        found.append(partial(tasks.inertia, **few))
    if task in ("digits", "all"):
        found.append(partial(tasks.digits, **few))
    return found


def tables(held: list[Row]) -> str:
    """Markdown: what is known beside each other, then task by task."""
    known = any(found["asymmetry"] is not None for found in held)
    glances = [run.glance(held, key) for key in ("test", "mee")] if known else []
    return "\n".join([*glances, *map(run.table, held)])


def figure(held: list[Row], path: Path) -> None:
    """Test error and MEE along the sweep, mean over seeds; without one, the first task."""
    swept = sorted((f for f in held if f["task"].startswith("sweep")), key=lambda f: f["asymmetry"])
    if not swept:
        with study.drawn(path, (6, 3)) as ax:
            study.dots(ax, {m: run.values(held[0], m, "test") for m in held[0]["ms"]})
            ax.set(xlabel=f"test, {held[0]['unit']}", title=held[0]["task"])
        return
    sizes = [found["asymmetry"] for found in swept]
    with study.drawn(path, (9, 3.2), ncols=2) as axes:
        for method in swept[0]["ms"]:
            for ax, key in zip(axes, ("test", "mee"), strict=True):
                ax.plot(
                    sizes, [mean(run.values(f, method, key)) for f in swept], ".-", label=method
                )
        axes[0].set(xlabel="DEE of the data", ylabel="test error", yscale="log")
        axes[1].plot(sizes, sizes, "k:", lw=1, label="MEE = DEE")
        axes[1].set(xlabel="DEE of the data", ylabel="MEE")
        axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1.03))


def main(given: list[str] | None = None) -> list[Row]:
    """The command line."""
    asked = study.asked(
        __doc__,
        given,
        seeds=3,
        quick="20 steps, two strengths: a rehearsal",
        task={"default": "all", "choices": ["sweep", "inertia", "digits", "all"]},
        eps={"type": float, "nargs": "+", "default": SIZES, "help": "of the sweep"},
        threads={"type": int, "default": 1},
    )
    torch.set_num_threads(asked.threads)
    held = study.read(asked.json)
    for make in [] if asked.table else makers(asked.task, asked.eps, asked.quick):
        grid = slice(1, 3) if asked.quick else slice(None)
        new = run.study(make, asked.seeds, grid=grid, rounds=5 if asked.quick else 40)
        held = [old for old in held if old["task"] != new["task"]] + [new]
        study.write(asked.json, held)
    study.shown(asked, held, tables, figure)
    return held


if __name__ == "__main__":
    main()
