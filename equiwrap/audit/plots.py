"""A report as a matplotlib figure: who contributes how much, and the error against the angle."""

from __future__ import annotations

from math import radians
from pathlib import Path
from typing import Any

from .charts import colour, is_polar, points
from .columns import clean
from .report import Report
from .text import finite, measure_of, verdict, worst

__all__ = ["draw"]


def draw(report: Report, path: str | Path | None = None, rows: int = 20) -> Any:
    """Bars of the `rows` largest contributions beside the curve; written to `path` if given.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "report.plot() needs matplotlib, which cannot be imported here. Install it with "
            'pip install "equiwrap[plots]", or write report.save("audit.html").'
        ) from None
    tall = max(3.6, 0.24 * min(rows, len(report.layers)) + 1.4)
    figure = Figure(figsize=(10.5, tall), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2, width_ratios=(3, 2))
    wide = grid[0, :] if report.curve is None else grid[0, 0]
    _bars(figure.add_subplot(wide), report, rows)
    if report.curve is not None:
        polar = is_polar(report)
        axes: Any = figure.add_subplot(grid[0, 1], projection="polar" if polar else None)
        _curve(axes, report, polar)
    figure.suptitle(_plain(verdict(report).split(". ")[0]), fontsize=10, wrap=True)
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return figure


def _plain(text: str) -> str:
    """Dollar signs would start a formula."""
    return clean(text).replace("$", r"\$")


def _bars(axes: Any, report: Report, rows: int) -> None:
    name, of = measure_of(report)
    shown, scale = worst(report, rows)[::-1], 100 if name == "share" else 1
    axes.barh(
        range(len(shown)),
        [scale * (finite(of(layer))) for layer in shown],
        color=[colour(layer.status) for layer in shown],
    )
    axes.set_yticks(range(len(shown)), [_plain(layer.name)[-32:] for layer in shown], fontsize=7.5)
    axes.set_xlabel({"share": "share of the defect (%)"}.get(name, f"relative error ({name})"))
    for status in dict.fromkeys(layer.status for layer in shown):
        axes.bar(0, 0, color=colour(status), label=_plain(status))
    axes.spines[["top", "right"]].set_visible(False)
    if shown:
        axes.legend(fontsize=7.5, frameon=False, loc="lower right")


def _curve(axes: Any, report: Report, polar: bool) -> None:
    rows = points(report)
    rows += rows[:1] * (polar and rows[-1][0] - rows[0][0] >= 270)  # closed
    angles, y, low, high = zip(*rows, strict=True) if rows else ((),) * 4
    x = [radians(angle) for angle in angles] if polar else angles
    axes.plot(x, y, ".-", color="#1f5f99", linewidth=1.4)
    axes.fill_between(x, low, high, color="#1f5f99", alpha=0.2, linewidth=0)
    axes.set_title(_plain(report.curve.label if report.curve else ""), fontsize=9)
    axes.set_ylim(bottom=0)
    if not polar:
        axes.set(xlabel=_plain(report.curve.unit if report.curve else ""), ylabel="relative error")
