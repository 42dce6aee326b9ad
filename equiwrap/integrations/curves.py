"""What a training run leaves: its measured rows as a table, as curves, and as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite, log10
from pathlib import Path
from typing import Any

__all__ = ["Run"]

SHOWN = ("equiv/error", "equiv/ratio", "equiv/strength", "equiv/alpha_star", "equiv/data_error")
BLOCKS = "▁▂▃▄▅▆▇█"
LINES = 12
_WIDE, _TALL, _EDGE = 460, 150, 44

Row = dict[str, float]


@dataclass(frozen=True)
class Run:
    """*The rows of one training*: `step`, `epoch` and the stable names, in order of measurement.

    Prints as a table with one curve a quantity; `save` writes `.json`, `.csv` or `.html`.
    """

    what: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(step, value) where the quantity was measured."""
        return [(r["step"], r[name]) for r in self.rows if name in r and isfinite(r[name])]

    @property
    def names(self) -> list[str]:
        """The quantities that were measured, the layers' last."""
        held = dict.fromkeys(name for row in self.rows for name in row)
        first = [name for name in SHOWN if name in held]
        return first + [n for n in held if n not in (*first, "step", "epoch")]

    def __str__(self) -> str:
        lines = [self.what]
        for name in [n for n in self.names if not n.startswith("equiv/layer/")]:
            values = [y for _, y in self.curve(name)]
            if values:
                ends = f"{values[0]:.3g} → {values[-1]:.3g}"
                lines.append(f"  {name:22} {ends:24} {_spark(values)}")
        layers = [(n, self.curve(n)[-1][1]) for n in self.names if n.startswith("equiv/layer/")]
        for name, value in sorted(layers, key=lambda pair: -pair[1])[:LINES]:
            lines.append(f"  {name:46} {value:.3f}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"what": self.what, "rows": [dict(r) for r in self.rows], "notes": list(self.notes)}

    def save(self, path: str | Path) -> Path:
        """Write the rows (`.json`, `.csv`), or a page with the curves (`.html`).

        Raises:
            ValueError: another suffix.
        """
        place = Path(path)
        writers = {".json": self._json, ".csv": self._csv, ".html": self._html}
        if place.suffix not in writers:
            raise ValueError(
                f"report={str(path)!r} was asked for: a run is written as {', '.join(writers)}."
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        writers[place.suffix](place)
        return place

    def _json(self, place: Path) -> None:
        place.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False), "utf-8")

    def _csv(self, place: Path) -> None:
        with place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", "epoch", *self.names])
            writer.writeheader()
            writer.writerows(self.rows)

    def _html(self, place: Path) -> None:
        drawn = [(n, self.curve(n)) for n in self.names]
        figures = "".join(
            f"<figure><figcaption>{escape(name)}</figcaption>{_drawing(points)}</figure>"
            for name, points in drawn
            if len(points) > 1
        )
        place.write_text(
            '<!doctype html><meta charset="utf-8"><meta name="viewport" '
            'content="width=device-width"><title>equiwrap: a training run</title><style>'
            "body{font:15px system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;"
            "color-scheme:light dark}figure{display:inline-block;width:460px;max-width:100%;"
            "margin:.4em}svg{width:100%}text{font-size:11px;fill:currentColor}"
            "pre{white-space:pre-wrap;overflow-wrap:anywhere}</style>"
            f"<h1>A training run</h1><pre>{escape(str(self))}</pre>{figures}",
            "utf-8",
        )


def _spark(values: Sequence[float]) -> str:
    """One character a measurement, 24 at most."""
    kept = [values[round(i * (len(values) - 1) / 23)] for i in range(24)]
    kept = list(values) if len(values) <= 24 else kept
    low, high = min(kept), max(kept)
    span = (high - low) or 1.0
    return "".join(BLOCKS[min(7, int(8 * (v - low) / span))] for v in kept)


def _drawing(points: Sequence[tuple[float, float]]) -> str:
    """A line of values over steps, logarithmic where they span two decades."""
    values = [y for _, y in points]
    powers = min(values) > 0 and max(values) > 100 * min(values)
    heights = [log10(y) for y in values] if powers else values
    low, high = min(heights), max(heights)
    first, last = points[0][0], points[-1][0]
    spots = [
        (
            _EDGE + (_WIDE - _EDGE - 8) * (x - first) / ((last - first) or 1),
            8 + (_TALL - 28) * (1 - (h - low) / ((high - low) or 1)),
        )
        for (x, _), h in zip(points, heights, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    marks = [
        (_EDGE - 4, 14, "end", f"{max(values):.3g}"),
        (_EDGE - 4, _TALL - 20, "end", f"{min(values):.3g}"),
        (_EDGE, _TALL - 4, "start", f"step {first:.0f}"),
        (_WIDE - 8, _TALL - 4, "end", f"{last:.0f}"),
    ]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{a}">{t}</text>' for x, y, a, t in marks)
    return (
        f'<svg viewBox="0 0 {_WIDE} {_TALL}" role="img"><polyline points="{line}" fill="none" '
        f'stroke="#2a7d9d" stroke-width="2"/>{texts}</svg>'
    )
