"""The demo's figure: accuracy by rotation, what the model is shown, particles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from . import digits, particles
from .table import Block

__all__ = ["draw"]

_COLOURS = {
    digits.PLAIN: "#8a8f98",
    digits.AVERAGE: "#d9822b",
    digits.KEY: "#7fb3d5",
    digits.PRIOR: "#1f5f99",
}
_TURNS = ("0°", "90°", "180°", "270°")


def draw(images: digits.Outcome, clouds: Block, out: Path) -> None:
    """Three panels, written to `out`; the folder is made if need be."""
    figure = Figure(figsize=(11.5, 3.7), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subfigures(1, 3, width_ratios=(4.2, 3.3, 4.0), wspace=0.04)
    left, middle, right = panels
    _accuracies(left.subplots(), images)
    _pictures(middle, images)
    _errors(right.subplots(), clouds)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, pil_kwargs={"optimize": True})


def _accuracies(axes: Any, images: digits.Outcome) -> None:
    width = 0.2
    for i, (name, accuracy) in enumerate(images.accuracy.items()):
        at = [turn + (i - 1.5) * width for turn in range(4)]
        axes.bar(at, (100 * accuracy).tolist(), 0.92 * width, label=name, color=_COLOURS[name])
    axes.set_xticks(range(4), _TURNS)
    axes.set(xlabel="test digits turned by", ylabel="accuracy (%)", ylim=(0, 128))
    axes.set_yticks(range(0, 101, 20))
    axes.set_title("Digits: one upright model, four ways", fontsize=10.5)
    axes.legend(ncols=2, loc="upper center", fontsize=8, frameon=False)
    _plain_frame(axes)


def _pictures(panel: Any, images: digits.Outcome) -> None:
    rows = {"as it comes": digits.PLAIN, "no prior": digits.KEY, "upright prior": digits.PRIOR}
    grid = panel.subplots(3, 4)
    for axes_row, (label, name) in zip(grid, rows.items(), strict=True):
        shown = zip(axes_row, images.pictures[name], images.read[name], strict=True)
        for axes, picture, said in shown:
            axes.imshow(picture.numpy(), cmap="gray_r")
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"read as {int(said)}", fontsize=8, labelpad=2)
            for spine in axes.spines.values():
                spine.set_color(_COLOURS[name])
                spine.set_linewidth(1.5)
        axes_row[0].set_ylabel(label, fontsize=8.5, color=_COLOURS[name], weight="bold")
    for axes, turn in zip(grid[0], _TURNS, strict=True):
        axes.set_title(turn, fontsize=9)
    panel.suptitle("What the model is shown of one digit", fontsize=10.5)


def _errors(axes: Any, clouds: Block) -> None:
    width = 0.42
    names = {particles.PLAIN: "plain", particles.AFTER: "wrapped\nafter training"}
    names[particles.THROUGHOUT] = "wrapped,\nthen trained"
    sets = (("test set", "here", "#7fb3d5", -0.5), ("moved by E(3)", "moved", "#1f5f99", 0.5))
    for label, field, colour, side in sets:
        at = [i + side * width for i in range(len(names))]
        heights = [getattr(clouds[name], field) for name in names]
        bars = axes.bar(at, heights, 0.92 * width, label=label, color=colour)
        axes.bar_label(bars, fmt="%.3f", fontsize=7.5, padding=2)
    axes.set_xticks(range(len(names)), list(names.values()), fontsize=8.5)
    axes.set(ylabel="mean squared error", ylim=(0, 1.3 * max(r.moved for r in clouds.rows)))
    axes.set_title("Charged particles (simulated)", fontsize=10.5)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    _plain_frame(axes)


def _plain_frame(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
