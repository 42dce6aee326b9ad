"""Hidden channels at rest, regular by fiat, or matched to data: the error right after a hard snap.

    python recipes/matched_fields.py --json matched.json         # some minutes on one core
    python recipes/matched_fields.py --quick                     # one seed, small, a minute
    python recipes/matched_fields.py --anneal 400                # and trained on, towards exactness

A plain network of three convolutions learns one step of u_t = 0.15 Δu − 0.8 |∇u|² + 0.3 sin 2u on
11 × 11 pixels, with its inputs turned at random: it becomes equivariant as a function, in channels
that nobody ordered. Then all weights are projected at once. The error is nMSE on fresh data, mean
and standard deviation over seeds. *Distance* is |f_P(x) − f(x)|² / |f(x)|² on the data, beside the
same search on shuffled channels; the same figures for the network before training are its null.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import study
import torch
import torch.nn.functional as F
from study import Row, spread
from torch import Tensor, nn

import equiwrap as ew
from equiwrap.graph.matching import match
from equiwrap.groups import parse_group
from equiwrap.signature import Signature

GRID = "b c h w -> b c h w"
MODES = ("trivial", "regular", "matched")
SIDE = 11


def step(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """*u and one step from it*: smooth periodic fields of unit variance."""
    u = torch.randn(count, 1, SIDE, SIDE, generator=draw)
    blur = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).view(1, 1, 3, 3) / 16
    for _ in range(2):
        u = F.conv2d(F.pad(u, (1, 1, 1, 1), mode="circular"), blur)
    u = u / u.std()
    p = F.pad(u, (1, 1, 1, 1), mode="circular")
    right, left, down, up = p[..., 1:-1, 2:], p[..., 1:-1, :-2], p[..., 2:, 1:-1], p[..., :-2, 1:-1]
    slope = ((right - left) / 2).square() + ((down - up) / 2).square()
    return u, 0.15 * (right + left + down + up - 4 * u) - 0.8 * slope + 0.3 * torch.sin(2 * u)


def network(width: int) -> nn.Sequential:
    """1 → width → width → 1, periodic."""
    sizes = [(1, width), (width, width), (width, 1)]
    convs = [nn.Conv2d(i, o, 3, padding=1, padding_mode="circular") for i, o in sizes]
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])


def train(net: nn.Module, x: Tensor, y: Tensor, steps: int, draw: torch.Generator) -> None:
    """AdamW on inputs turned at random, the rate falling to zero."""
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.0, steps)
    for _ in range(steps):
        i = torch.randint(len(x), (32,), generator=draw)
        k = int(torch.randint(4, (1,), generator=draw))
        loss = F.mse_loss(net(x[i].rot90(k, (-2, -1))), y[i].rot90(k, (-2, -1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def error(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """*E (f − y)² / var y*."""
    with torch.no_grad():
        return float(F.mse_loss(net(x), y) / y.var())


def project(net: nn.Module, hidden: str, x: Tensor) -> nn.Module:
    """The network on its projected weights."""
    more = {"calibrate": x} if hidden == "matched" else {}
    return ew.equivariantize(
        net, "C4", GRID, method="project", hidden=hidden, example=x[:2], **more
    )


def anneal(net: nn.Module, hidden: str, data: tuple[Tensor, ...], steps: int) -> float:
    """The error of the exact network after training while the softness falls from 1 to 0."""
    x, y, there, wanted = data
    soft = project(net, hidden, x)
    optimizer = torch.optim.AdamW(soft.parameters(), 1e-3)
    draw = torch.Generator().manual_seed(0)
    for n in range(steps):
        soft.equiwrap.set_softness(max(0.0, 1 - 2 * n / steps) ** 2)
        i = torch.randint(len(x), (32,), generator=draw)
        loss = F.mse_loss(soft(x[i]), y[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return error(soft.equiwrap.fold(0.0), there, wanted)


def run(seed: int, args: argparse.Namespace) -> Row:
    """One seed: every column."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    x, y = step(256, draw)
    there, wanted = step(256, draw)
    net = network(args.width)
    signature = Signature.parse(GRID, parse_group("C4"))
    row: Row = {"seed": seed}
    for name in ("untrained", "trained"):
        if name == "trained":
            train(net, x, y, args.steps, draw)
        found = match(net, signature, x)[1]
        row |= {f"{name} {key}": value for key, value in found.distances}
        row[f"{name} accepted"] = float(found.accepted)
    row["before"] = error(net, there, wanted)
    row["MEE"] = float(ew.measure.equivariance_error(net, "C4", there, signature=signature))
    for hidden in MODES:
        exact = project(net, hidden, x)
        row[hidden] = error(exact, there, wanted)
        row[f"{hidden} MEE"] = float(exact.equiwrap.errors(there))
    row["ratio"] = min(row["trivial"], row["regular"]) / row["matched"]
    for hidden in MODES if args.anneal else ():
        kept = {key: value.clone() for key, value in net.state_dict().items()}
        row[f"{hidden} annealed"] = anneal(net, hidden, (x, y, there, wanted), args.anneal)
        net.load_state_dict(kept)
    return study.short(row, 5)


def table(rows: list[Row]) -> str:
    """Every column with its mean, deviation and values."""
    lines = ["| | mean ± sd | by seed |", "|---|--:|---|"]
    for key in [key for key in rows[0] if key != "seed"]:
        values = [row[key] for row in rows]
        each = " · ".join(f"{value:.3g}" for value in values)
        lines.append(f"| {key} | {spread(values, '.3g', '.2g')} | {each} |")
    return "\n".join(lines)


def figure(rows: list[Row], path: Path) -> None:
    """The errors before, right after the snap, and after annealing, a dot a seed."""
    names = ["before", *MODES, *(f"{mode} annealed" for mode in MODES)]
    with study.drawn(path, (6, 2.8)) as ax:
        study.dots(ax, {n: [row[n] for row in rows] for n in names if n in rows[0]})
        ax.set(xscale="log", xlabel="nMSE on fresh data (simulated)")


def main(given: list[str] | None = None) -> list[Row]:
    asked = study.asked(
        __doc__,
        given,
        seeds=5,
        quick="width 16, 300 steps",
        width={"type": int, "default": 32},
        steps={"type": int, "default": 1500},
        anneal={"type": int, "default": 0},
    )
    if asked.quick:
        asked.width, asked.steps = 16, 300
    done = {row["seed"] for row in study.read(asked.json)}
    todo = [seed for seed in asked.seeds if seed not in done]
    config = {key: getattr(asked, key) for key in ("width", "steps", "anneal")}
    rows = study.gathered(asked, todo, lambda seed: [run(seed, asked)], config=config)
    study.shown(asked, rows, table, figure)
    return rows


if __name__ == "__main__":
    main()
