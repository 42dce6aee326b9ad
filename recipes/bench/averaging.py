"""What averaging costs: times of wrapped models over plain ones, and of frames over a Python loop.

    python recipes/bench/averaging.py --threads 1 --out bench.md
    python recipes/bench/averaging.py --device cuda --compile

Candidates and baseline take turns, and medians are compared, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

import equiwrap as ew

TESTS = Path(__file__).parents[2] / "tests"


@dataclass
class Line:
    """One comparison; `goal` bounds the ratio from above, or the speed-up from below."""

    what: str
    seconds: float
    baseline: float
    goal: float
    speedup: bool = False

    @property
    def ratio(self) -> float:
        """Candidate over baseline, or baseline over candidate for a speed-up."""
        return self.baseline / self.seconds if self.speedup else self.seconds / self.baseline

    def __str__(self) -> str:
        met = self.ratio >= self.goal if self.speedup else self.ratio <= self.goal
        sign = "≥" if self.speedup else "≤"
        return (
            f"| {self.what} | {self.baseline * 1e3:.2f} | {self.seconds * 1e3:.2f} | "
            f"{self.ratio:.{0 if self.speedup else 2}f} | {sign} {self.goal:g} | "
            f"{'yes' if met else '**no**'} |"
        )


def interleaved(calls: list[Callable[[], object]], rounds: int, device: str) -> list[float]:
    """Median seconds of each call, one call of each a round, after three rounds of warming up."""
    found: list[list[float]] = [[] for _ in calls]
    with torch.no_grad():
        for i in range(rounds + 3):
            for call, times in zip(calls, found, strict=True):
                settle(device)
                start = time.perf_counter()
                call()
                settle(device)
                if i >= 3:
                    times.append(time.perf_counter() - start)
    return [median(times) for times in found]


def settle(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def images(device: str, rounds: int) -> Iterator[Line]:
    """A resnet18 of timm at 64 × 64: keys, and the whole group folded into the batch."""
    import timm

    net = timm.create_model("resnet18", num_classes=10).eval().to(device)
    options = [("C4", "key", 1.05), ("D4", "key", 1.08), ("C4", "whole", 3.2)]
    models = [ew.equivariantize(net, g, "b c h w -> b k", frame=f) for g, f, _ in options]
    for batch in (8, 16, 32):
        x = torch.randn(batch, 3, 64, 64, device=device)
        orbit = torch.randn(4 * batch, 3, 64, 64, device=device)
        calls = [lambda m=m, x=x: m(x) for m in [net, *models]]
        plain, *times, four = interleaved([*calls, lambda x=orbit: net(x)], rounds, device)
        for (group, frame, goal), seconds in zip(options, times, strict=True):
            yield Line(f"resnet18, batch {batch}: {frame} {group}", seconds, plain, goal)
        what = f"resnet18, batch {batch}: whole C4 over the plain model on {4 * batch} images"
        yield Line(what, times[-1], four, 1.05)


def frames(device: str, rounds: int, compiled: bool) -> Iterator[Line]:
    """The frame of 1024 clouds of 64 points under O(3), against one cloud at a time."""
    sys.path.insert(0, str(TESTS))
    from reference_axes import axes_loop

    group = ew.groups.parse_group("O(3)")
    x = torch.randn(1024, 64, 3, device=device)
    some = x[:16].cpu()  # the slow road has an even pace: 16 clouds of 1024 are enough
    frame = ew.frames.Axes()
    calls = [lambda: frame(group, x), lambda: axes_loop(some, group)]
    eager, loop = interleaved(calls, rounds, device)
    loop *= len(x) / len(some)
    yield Line("axes O(3), 1024 clouds of 64: eager over the loop", eager, loop, 50, True)
    if compiled:
        fast = torch.compile(lambda points: frame(group, points), fullgraph=True)
        (seconds,) = interleaved([lambda: fast(x)], rounds, device)
        yield Line("the same, compiled", seconds, loop, 200, True)


class Points(nn.Module):
    """A permutation-equivariant network: features of points, their maximum, and both together."""

    def __init__(self) -> None:
        super().__init__()
        self.local = _mlp(3, 64, 128, 256)
        self.joint = _mlp(512, 256, 128, 3)

    def forward(self, points: Tensor) -> Tensor:
        """`points[b, n, 3] → [b, n, 3]`."""
        own = self.local(points)
        pooled = own.amax(1, keepdim=True).expand_as(own)
        return self.joint(torch.cat([own, pooled], -1))


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def clouds(device: str, rounds: int) -> Iterator[Line]:
    """32 clouds of 256 points, vectors in and out."""
    net = Points().eval().to(device)
    x = torch.randn(32, 256, 3, device=device)
    for name, letter in (("O(3)", "v"), ("E(3)", "p")):
        model = ew.equivariantize(net, name, f"b n {letter} -> b n {letter}")
        plain, seconds = interleaved([lambda: net(x), lambda m=model: m(x)], rounds, device)
        yield Line(f"point network, 32 clouds of 256: axes {name}", seconds, plain, 1.3)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, help="threads of torch; use 1 on a busy machine")
    parser.add_argument("--compile", action="store_true", help="also the compiled frame (inductor)")
    parser.add_argument("--out", type=Path, help="write the page here")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, torch threads: {torch.get_num_threads()}"
    )
    page = [
        "# Benchmarks",
        "",
        f"`python recipes/bench/averaging.py`, {name}, torch {torch.__version__.split('+')[0]}, "
        f"Python {platform.python_version()}; medians of {options.rounds} interleaved rounds.",
        "",
        "| what | baseline (ms) | equiwrap (ms) | ratio | goal | met |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for part in (
        images(device, options.rounds),
        frames(device, options.rounds, options.compile),
        clouds(device, options.rounds),
    ):
        for line in part:
            print(line, file=sys.stderr, flush=True)
            page.append(str(line))
    text = "\n".join([*page, ""])
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
