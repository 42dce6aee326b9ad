"""`python -m equiwrap demo`: two small models, wrapped; a table and a figure of what changed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from . import digits, particles
from .figure import draw
from .table import Block, render

__all__ = ["FULL", "QUICK", "Budget", "run"]


@dataclass(frozen=True)
class Budget:
    """How much is spent: epochs and prior steps on digits, samples and steps on particles."""

    epochs: int
    fit: int
    samples: int
    steps: int


FULL = Budget(epochs=6, fit=200, samples=3000, steps=2000)
QUICK = Budget(epochs=3, fit=60, samples=500, steps=150)


def run(out: Path, *, seed: int = 0, quick: bool = False) -> tuple[digits.Outcome, Block]:
    """Train, wrap, measure; print the table and what it says; write the figure to `out`."""
    start = time.perf_counter()
    budget = QUICK if quick else FULL
    images = images_part(budget, seed)
    clouds = particles_part(budget, seed)
    draw(images, clouds, out)
    print(render([images.block, clouds]))
    print(verdict(images.block, clouds))
    print(f"Figure: {out}   ({time.perf_counter() - start:.0f} s, seed {seed})")
    return images, clouds


def images_part(budget: Budget, seed: int) -> digits.Outcome:
    """The digits; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        data = digits.load(seed)
        return digits.compare(
            digits.train(digits.classifier(), data, budget.epochs), data, budget.fit
        )


def particles_part(budget: Budget, seed: int) -> Block:
    """The particles, on one thread: their tensors are too small to share between two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return particles.compare(seed, budget.samples, budget.steps)
    finally:
        torch.set_num_threads(threads)


def verdict(images: Block, clouds: Block) -> str:
    """What the numbers of this run say, in sentences."""
    plain, average = images[digits.PLAIN], images[digits.AVERAGE]
    prior, cloud = images[digits.PRIOR], clouds[particles.PLAIN]
    effect = "hurts" if average.here < plain.here else "did not hurt"
    after = clouds[particles.AFTER]
    overhead = 1e3 * (after.seconds - cloud.seconds)
    return (
        f"Averaging a model that has only seen upright images {effect}: upright accuracy goes from "
        f"{plain.here:.1%} to {average.here:.1%}\n(over four turns: {plain.moved:.1%} to "
        f"{average.moved:.1%}); shown the pose it knows (upright prior, fitted "
        f"without labels) it keeps {prior.here:.1%}, and has it at every quarter turn.\n"
        f"The particles have no preferred pose or place, but the plain network's error goes from "
        f"{cloud.here:.4f} to {cloud.moved:.4f} when they are moved;\n"
        f"wrapped, it is the same on both to rounding ({after.here:.4f} and {after.moved:.4f}).\n"
        f"The frame takes {overhead:.1f} ms a batch of 200, beside {1e3 * cloud.seconds:.1f} ms "
        "for this very small network."
    )
