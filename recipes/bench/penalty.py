"""What soft symmetry costs: a decay, the penalty as a loss, and one sampled element, per step.

    python recipes/bench/penalty.py --threads 1 --out penalty.md

In shares of one forward and backward pass of the plain model; all take turns within each round,
process time, medians of the rounds' ratios and ratios of minima. C4 on random weights: trivial
hidden channels (kernels wider than a pixel, position tables), or regular ones (every convolution,
linear layer and normalisation). The optimiser does nothing: what is timed is its hook.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from statistics import median

import timm
import torch
from torch.nn.functional import cross_entropy

import equiwrap as ew
from equiwrap.penalty import sampled_penalty

MODELS = {"resnet50": {}, "vit_small_patch16_224": {"img_size": 64}}
GOALS = {  # decay / step, sampled / decay
    ("resnet50", "trivial"): (0.06, 12),
    ("resnet50", "regular"): (0.18, None),
    ("vit_small_patch16_224", "trivial"): (0.005, 100),
    ("vit_small_patch16_224", "regular"): (0.04, None),
}


class Idle(torch.optim.Optimizer):
    """An optimiser whose step is empty."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-3})

    def step(self, closure=None):
        return None


def turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, after two rounds of warming up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 2):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if i >= 2:
                found[name].append(time.process_time() - start)
    return found


def measured(name: str, channels: str, rounds: int) -> list[str]:
    """The lines of one model."""
    torch.manual_seed(0)
    plain = timm.create_model(name, **MODELS[name])
    example = torch.randn(2, 3, 64, 64)
    wanted = {"method": "penalize", "hidden": channels, "example": example, "penalty": 1e-2}
    model = ew.equivariantize(plain, "C4", "b c h w -> b k", **wanted)
    x, y = torch.randn(16, 3, 64, 64), torch.randint(0, 1000, (16,))
    optimizers = {k: Idle(model.parameters()) for k in (1, 4)}
    for k, optimizer in optimizers.items():
        ew.EquivarianceDecay(model, optimizer, 1e-2, every=k)

    def step(sampled: bool = False) -> None:
        out = model(x)
        loss = cross_entropy(out, y)
        if sampled:
            loss = loss + sampled_penalty(model, "C4", x, output=out)
        loss.backward()

    def four() -> None:
        for _ in range(4):
            optimizers[4].step()

    found = turns(
        {
            "step": step,
            "sampled": lambda: step(True),
            "decay": optimizers[1].step,
            "four": four,
            "loss": lambda: model.equiwrap.penalty().backward(),
        },
        rounds,
    )
    whole = found["step"]
    extra = [s - t for s, t in zip(found["sampled"], whole, strict=True)]
    costs = {
        "decay": found["decay"],
        "decay, every=4": [t / 4 for t in found["four"]],
        "loss": found["loss"],
        "sampled": extra,
    }
    size = sum(prod(t.shape) for t in model.equiwrap.targets) / 1e6
    goal, times = GOALS[name, channels]
    lines = []
    for what, seconds in costs.items():
        shares = [s / t for s, t in zip(seconds, whole, strict=True)]
        gains = [s / t for s, t in zip(extra, seconds, strict=True)]
        wanted = f"≤ {goal:.1%}" if what == "decay" else ""
        wanted += f", ≥ {times}×" if what == "decay" and times else ""
        lines.append(
            f"| {name} | {channels} | {size:.1f} | {what} | {median(seconds) * 1e3:.1f} | "
            f"{median(shares):.2%} | {min(seconds) / min(whole):.2%} | "
            f"{median(gains):.0f}× | {wanted} |"
        )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    page = [
        "| model | channels | weights (M) | what | ms | of a step, median | of minima | "
        "cheaper than sampled | goal |",
        "|---|---|--:|---|--:|--:|--:|--:|---|",
    ]
    for name, channels in GOALS:
        page += measured(name, channels, chosen.rounds)
    where = f"torch {torch.__version__}, {chosen.threads} thread, {platform.machine()}"
    page += ["", f"Batches of 16 at 64 × 64, float32, {chosen.rounds} rounds; {where}."]
    print("\n".join(page))
    if chosen.out:
        chosen.out.write_text("\n".join([*page, ""]))


if __name__ == "__main__":
    main()
