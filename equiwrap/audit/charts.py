"""Charts as inline SVG, small enough to be drawn here: the error along the model, and by angle."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from math import cos, floor, isfinite, log10, radians, sin

from .columns import clean
from .report import Layer, Report
from .text import finite, number

__all__ = ["charts", "colour", "is_polar", "points", "safe"]

_WIDE, _TALL, _LEFT, _BELOW, _ABOVE = 480, 270, 46, 42, 14  # of a chart, in its own units

_COLOURS = {
    "exact": "#2a9d6f",
    "weights": "#d9822b",
    "misaligned": "#d64550",
    "unsound": "#a347ba",
    "untyped": "#8a8f98",
}
_PLANAR = re.compile(r"[CD]_?\d+|(SO|O|SE|E)\(2\)")


def is_polar(report: Report) -> bool:
    """True where the curve is one over the angles of the plane."""
    curve = report.curve
    return bool(curve and curve.unit == "degrees" and _PLANAR.fullmatch(report.group))


def points(report: Report) -> list[tuple[float, float, float, float]]:
    """(x, y, low, high) of the curve; the bounds are y itself where there are none."""
    curve = report.curve
    if curve is None:
        return []
    low, high = curve.low or curve.y, curve.high or curve.y
    rows = zip(curve.x, curve.y, low, high, strict=True)
    return [row for row in rows if all(v is not None and isfinite(v) for v in row)]


def colour(status: str) -> str:
    """That of a status; grey for others."""
    return _COLOURS.get(status, _COLOURS["untyped"])


def safe(text: str) -> str:
    """Escaped, on one line, printable."""
    return escape(clean(text))


def charts(report: Report) -> list[str]:
    """The profile along the model, and the curve; as many as there are numbers for."""
    drawn = []
    if any(layer.error is not None or layer.own is not None for layer in report.layers):
        seen = list(dict.fromkeys(layer.status for layer in report.layers))
        keys = " ".join(
            f'<span class="chip" style="background:{colour(s)}">{safe(s)}</span>' for s in seen
        )
        said = f"Relative error, in running order: accumulated (line), own (bars). {keys}"
        drawn.append(_figure(_profile(report.layers), said))
    if points(report) and report.curve is not None:
        chart = _polar(report) if is_polar(report) else _plane(report)
        drawn.append(_figure(chart, safe(report.curve.label)))
    return [f'<div class="charts">{"".join(drawn)}</div>'] if drawn else []


def _figure(drawing: str, said: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {_WIDE} {_TALL}" role="img">{drawing}</svg>'
        f"<figcaption>{said}</figcaption></figure>"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{safe(text)}</text>'


def _path(rows: Sequence[tuple[float, float]], kind: str, close: bool = False) -> str:
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in rows)
    return f'<path class="{kind}" d="M{steps}{"Z" * close}"/>' if rows else ""


def _dot(x: float, y: float, said: str) -> str:
    title = f"<title>{safe(said)}</title>"
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.6">{title}</circle>'


def _round_up(x: float) -> float:
    """The next of 1, 2, 4, 6, 8 times a power of ten; 1 for what is as good as 0."""
    unit = 10.0 ** floor(log10(x)) if x > 1e-300 else 1.0
    return next((k * unit for k in (1, 2, 4, 6, 8) if x <= k * unit), 10 * unit)


def _height(y: float, top: float) -> float:
    """From an error to a place on the page."""
    return _TALL - _BELOW - (_TALL - _BELOW - _ABOVE) * y / top


def _frame(top: float) -> str:
    """The vertical axis from 0 to `top`, with four lines."""
    parts = []
    for k in range(5):
        y = _height(k / 4 * top, top)
        parts.append(_path([(_LEFT, y), (_WIDE - 6, y)], "axis"))
        parts.append(_text(_LEFT - 5, y + 4, f"{k / 4 * top:.2g}", "end"))
    return "".join(parts)


def _profile(layers: Sequence[Layer]) -> str:
    """Accumulated error as a line, own error as bars, in the order in which operations run."""
    top = _round_up(max(max(finite(layer.error), finite(layer.own)) for layer in layers))
    step = (_WIDE - _LEFT - 6) / len(layers)
    parts, line, stage, free = [_frame(top)], [], "", 0.0
    for i, layer in enumerate(layers):
        x, own = _LEFT + step * (i + 0.5), finite(layer.own)
        said = f"{layer.name}: {number(layer.error)}, own {number(layer.own)} ({layer.status})"
        parts.append(
            f'<rect x="{x - 0.4 * step:.1f}" y="{_height(own, top):.1f}" width="{0.8 * step:.1f}" '
            f'height="{_height(0, top) - _height(own, top):.1f}" fill="{colour(layer.status)}">'
            f"<title>{safe(said)}</title></rect>"
        )
        if layer.error is not None:
            line.append((x, _height(finite(layer.error), top)))
        first = clean(layer.name).split(".")[0][:12]
        fits = free <= x < _WIDE - 6.5 * len(first)
        if first != stage and fits:  # name the stages where there is room
            parts.append(_text(x, _TALL - _BELOW + 16, first, "start"))
            free = x + 6.5 * len(first) + 8
        stage = first
    return "".join([*parts, _path(line, "curve")])


def _plane(report: Report) -> str:
    rows, unit = points(report), report.curve.unit if report.curve else ""
    top = _round_up(max(max(row[1:]) for row in rows))
    start, end = rows[0][0], rows[-1][0]
    span = (end - start) or 1.0
    at = {row[0]: _LEFT + 10 + (_WIDE - _LEFT - 26) * (row[0] - start) / span for row in rows}
    band = [(at[x], _height(high, top)) for x, _, _, high in rows]
    band += [(at[x], _height(low, top)) for x, _, low, _ in rows[::-1]]
    line = [(at[x], _height(y, top)) for x, y, _, _ in rows]
    dots = [_dot(*p, f"{row[0]:g}: {number(row[1])}") for p, row in zip(line, rows, strict=True)]
    ends = (_text(at[x], _TALL - _BELOW + 16, f"{x:g}") for x in (start, end))
    middle = _text(_LEFT + (_WIDE - _LEFT) / 2, _TALL - 8, unit)
    return "".join([
        _frame(top),
        _path(band, "band", True),
        _path(line, "curve"),
        *dots,
        *ends,
        middle,
    ])


def _polar(report: Report) -> str:
    """The error as a radius over the angle, counter-clockwise from the right."""
    rows = points(report)
    top = _round_up(max(max(row[1:]) for row in rows))
    x0, y0, radius = _WIDE / 2, _TALL / 2, _TALL / 2 - 22

    def place(angle: float, r: float) -> tuple[float, float]:
        return (
            x0 + radius * r / top * cos(radians(angle)),
            y0 - radius * r / top * sin(radians(angle)),
        )

    parts = [_path([place(5 * k, top * r / 2) for k in range(72)], "axis", True) for r in (1, 2)]
    for angle in range(0, 360, 45):
        parts.append(_path([(x0, y0), place(angle, top)], "axis"))
        if angle % 90 == 0:
            x, y = place(angle, 1.13 * top)
            parts.append(_text(x, y + 4, f"{angle}°"))
    whole = rows[-1][0] - rows[0][0] >= 270
    outer = [place(x, high) for x, _, _, high in rows]
    inner = [place(x, low) for x, _, low, _ in rows[::-1]]
    line = [place(x, y) for x, y, _, _ in rows]
    parts += [_path(outer + inner, "band", True), _path(line, "curve", whole)]
    parts += [_dot(*p, f"{row[0]:g}°: {number(row[1])}") for p, row in zip(line, rows, strict=True)]
    parts += [_text(*place(22, top * r), f"{top * r:.2g}", "start") for r in (0.5, 1.0)]
    return "".join(parts)
