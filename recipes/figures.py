"""The figures of the page Concepts: what a frame, a projection and a jump look like.

python recipes/figures.py --out docs/assets
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib import pyplot
from sklearn.datasets import load_digits
from torch import nn

import equiwrap as ew
from equiwrap.groups import parse_group
from equiwrap.reynolds import Kernels

BLUE, RED, GREY = "#2a7d9d", "#d64550", "#8a8f98"


def one_equation(path: Path) -> None:
    """An image under four turns: the whole group, a key, and what the model sees of either."""
    image = torch.tensor(load_digits().images[7]).float()
    seen: list[torch.Tensor] = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.extend(x[:, 0])
            return x.mean((1, 2, 3))[:, None]

    _, axes = pyplot.subplots(3, 4, figsize=(5.2, 4.2))
    turns = [image.rot90(k, (0, 1)) for k in range(4)]
    rows = [("input", turns)]
    for name in ("whole", "key"):
        model = ew.equivariantize(Recorder(), "C4", "b c h w -> b k", frame=name)
        shown = []
        for turn in turns:
            seen.clear()
            model(turn[None, None])
            shown.append(torch.cat([torch.cat(seen[:2], 1), torch.cat(seen[2:], 1)])
                         if len(seen) == 4 else seen[0])  # fmt: skip
        rows.append((f'frame="{name}"', shown))
    for row, (name, images) in zip(axes, rows, strict=True):
        for ax, picture in zip(row, images, strict=True):
            ax.imshow(picture, cmap="Greys")
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(name)
    pyplot.suptitle("What the model is shown, for an image in four poses", fontsize=10)
    _save(path / "concepts_frames.svg")


def projection(path: Path) -> None:
    """W = PW + R of a kernel under C4."""
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(1, 1, 5, 5, generator=draw, dtype=torch.float64)
    kept = Kernels(parse_group("C4"), (1, 1, 5, 5))(weight)
    _, axes = pyplot.subplots(1, 3, figsize=(5.2, 2))
    parts = (("W", weight), ("PW", kept), ("R = W − PW", weight - kept))
    top = float(weight.abs().max())
    for ax, (name, part) in zip(axes, parts, strict=True):
        ax.imshow(part[0, 0], cmap="RdBu", vmin=-top, vmax=top)
        ax.set_title(f"{name},  |·| = {float(part.norm()):.2f}", fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    _save(path / "concepts_projection.svg")


def jumps(path: Path) -> None:
    """A random network of a cloud inside of two frames, along a segment of clouds."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).double()
    first, second = torch.randn(2, 4, 2, dtype=torch.float64)
    t = torch.linspace(0, 1, 1000, dtype=torch.float64)[:, None, None]
    clouds = first * (1 - t) + second * t
    _, ax = pyplot.subplots(figsize=(5.2, 2.2))
    for frame, colour in (("axes", RED), ("weighted", BLUE)):
        model = ew.equivariantize(net, "SO(2)", "b n v -> b k", frame=frame)
        with torch.no_grad():
            y = model(clouds)[:, 0]
        ax.plot(t[:, 0, 0], y, ".", ms=1.5, color=colour, label=f'frame="{frame}"', rasterized=True)
    with torch.no_grad():
        ax.plot(t[:, 0, 0], net(clouds)[:, 0], color=GREY, lw=0.8, label="plain")
    ax.set(xlabel="along a segment of clouds", ylabel="output")
    ax.legend(fontsize=8, markerscale=5)
    _save(path / "concepts_jumps.svg")


def _save(path: Path) -> None:
    pyplot.tight_layout()
    pyplot.savefig(path, facecolor="white", dpi=150, metadata={"Date": None})
    pyplot.close()
    print(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/assets"))
    asked = parser.parse_args()
    pyplot.rcParams["svg.hashsalt"] = "equiwrap"
    for draw in (one_equation, projection, jumps):
        draw(asked.out)


if __name__ == "__main__":
    main()
