"""What the callback costs beside a training step, and what one of its measurements costs.

    python recipes/bench/callback.py --threads 1

Shares of one forward and backward pass (16 images of 64 × 64), process time, interleaved, medians
of the rounds' ratios: four calls of `before_step`, of an optimiser that does nothing, and of
`after_step`, over four steps, without measurements in them (`every=None`), with `penalty=1e-2` and
the callback's own defaults (one application in four steps). A measurement: `measure()` on 16
held-out images under C4 (an evaluation for each element and one), with α* (`data=True`) beside it.
"""

from __future__ import annotations

import argparse
import platform
from statistics import median

import timm
import torch
from penalty import MODELS, Idle, turns
from torch.nn.functional import cross_entropy

import equiwrap as ew

GOALS = {"resnet50": 0.07, "vit_small_patch16_224": 0.01}


def measured(name: str, channels: str, rounds: int) -> str:
    """The line of one model."""
    torch.manual_seed(0)
    plain = timm.create_model(name, **MODELS[name])
    x, y = torch.randn(16, 3, 64, 64), torch.randint(0, 1000, (16,))
    held = torch.randn(16, 3, 64, 64), torch.randint(0, 1000, (16,))
    model = ew.equivariantize(
        plain, "C4", "b c h w -> b k", method="penalize", hidden=channels, example=x[:2]
    )
    optimizer = Idle(model.parameters())
    callback = ew.EquivarianceCallback(model, penalty=1e-2, holdout=held, every=None)

    def step() -> None:
        cross_entropy(model(x), y).backward()

    def four() -> None:
        for _ in range(4):
            callback.before_step(optimizer)
            optimizer.step()
            callback.after_step()

    found = turns(
        {
            "step": step,
            "callback": four,
            "measure": callback.measure,
            "with α*": lambda: callback.measure(data=True),
        },
        rounds,
    )
    assert callback.steps == 4 * (rounds + 2)
    base = found["step"]
    share = median(c / 4 / s for c, s in zip(found["callback"], base, strict=True))
    least = min(found["callback"]) / 4 / min(base)
    one, two = (median(found[k]) / median(base) for k in ("measure", "with α*"))
    return (
        f"| {name} | {channels} | {1000 * median(base):.0f} ms | {100 * share:.2f} % | "
        f"{100 * least:.2f} % | {100 * GOALS[name]:.0f} % | {one:.1f} | {two:.1f} |"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {asked.threads} thread(s), {platform.machine()}\n")
    print(
        "| model | hidden | forward and backward | callback, median | of minima | goal | "
        "a measurement, in steps | with α* |\n|---|---|--:|--:|--:|--:|--:|--:|"
    )
    for name in asked.models:
        for channels in ("trivial", "regular"):
            print(measured(name, channels, asked.rounds), flush=True)


if __name__ == "__main__":
    main()
