"""Soft symmetry against plain, augmented, sample-based, hard and RPP-style training.

    python recipes/soft_symmetry.py --task all --seeds 3 --json docs/assets/soft_symmetry.json
    python recipes/soft_symmetry.py --table --json docs/assets/soft_symmetry.json

One net, one number of steps, four strengths to choose from on validation data, for every method.
Tasks: a controlled breaking of C4 in five sizes, the modified inertia tensor under O(3), digits on
65 × 65 pixels of which two classes break C4. Results go into the file task by task, so that tasks
may be run one at a time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from soft import run, tasks

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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="all", choices=["sweep", "inertia", "digits", "all"])
    parser.add_argument("--eps", type=float, nargs="+", default=SIZES, help="of the sweep")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="20 steps, two strengths: a rehearsal")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="read and written: results by task")
    parser.add_argument("--table", action="store_true", help="print the file's tables, run nothing")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    held = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    for make in [] if asked.table else makers(asked.task, asked.eps, asked.quick):
        start = time.perf_counter()
        grid = slice(1, 3) if asked.quick else slice(None)
        new = run.study(make, asked.seeds, grid=grid, rounds=5 if asked.quick else 40)
        held = [old for old in held if old["task"] != new["task"]] + [new]
        print(run.table(new), f"{time.perf_counter() - start:.0f} s", sep="\n", flush=True)
        if asked.json:
            lines = ",\n".join(json.dumps(found, ensure_ascii=False) for found in held)
            asked.json.write_text(f"[\n{lines}\n]\n")
    if asked.table:
        parts = [run.glance(held, "test"), run.glance(held, "mee"), *map(run.table, held)]
        print("\n".join(parts))


if __name__ == "__main__":
    main()
