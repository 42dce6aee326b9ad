"""A report as text: a sentence, then tables, in 100 columns whatever the names are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil, isfinite
from operator import attrgetter

from .columns import WIDTH, clip, columns, paragraph
from .report import STATUS, Layer, Remedy, Report

__all__ = [
    "cost",
    "count",
    "data_lines",
    "facts",
    "finite",
    "grouped",
    "measure_of",
    "measured",
    "number",
    "percent",
    "render",
    "verdict",
    "worst",
]

SMALL = 1e-9  # a share below this is none
ROWS = 15  # layers that the text shows
BAR = 8  # columns of its bars

_WHY = {
    "exact": "Every operation keeps the symmetry.",
    "weights": "Every operation could keep the symmetry; only the weights break it.",
    "misaligned": "A sampling grid breaks the symmetry, whatever the weights are.",
    "unsound": "Operations that should keep the symmetry do not, as the measurement shows.",
    "signature": "The output does not move as the signature says, whatever the operations do.",
    "untyped": "Some operations are not understood: there, the symmetry is measured only.",
}
_DATA = {"model_error": "model error", "data_error": "data error", "alpha": "best dial α*"}


def render(report: Report) -> str:
    """All sections, each only if it has something to say."""
    lines = [*paragraph(verdict(report)), *paragraph(facts(report))]
    for title, section in (
        ("Groups, least broken first", _ranking),
        ("What breaks it", _findings),
        (f"Operations{_shown(report)}", _layers),
        ("What to do", _remedies),
        ("Data", _data),
        ("Notes", _notes),
    ):
        body = section(report)
        lines += ["", title, *body] if body else []
    return "\n".join(lines)


# -- what is said, in text and on the page alike ---------------------------------------------------


def verdict(report: Report) -> str:
    """One sentence on whether, one on why."""
    size, floor = report.error, report.floor
    if report.class_ == "dead":
        return f"{report.model} gives the same for all inputs: no error under {report.group}."
    if size is None or not isfinite(size):
        return (
            f"{report.model} has no finite error under {report.group}: its outputs are not finite."
        )
    if size <= 30 * floor:  # the roundings of a deep model add up
        how = "equivariant to rounding"
    else:
        how = "nearly equivariant" if size < 0.05 else "not equivariant"
    why = _WHY.get(report.class_, "")
    said = f"relative error {measured(size, report.half_width)}"
    said += f", where rounding alone makes {floor:.0e}" if floor else ""
    return f"{report.model} under {report.group} is {how}: {said}. {why}".rstrip()


def facts(report: Report) -> str:
    """Signature, inputs, and how many operations have which status."""
    counts = Counter(layer.status for layer in report.layers)
    order = [s for s in STATUS if s in counts] + [s for s in counts if s not in STATUS]
    parts = [report.signature, report.inputs]
    if counts:
        listed = ", ".join(f"{counts[s]} {s}" for s in order)
        parts.append(f"{count(len(report.layers), 'operation')}: {listed}")
    return " · ".join(part for part in parts if part)


def count(n: int, what: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def finite(x: float | None) -> float:
    """What a bar can draw: 0 for what was not measured, or overflowed."""
    return 0.0 if x is None or not isfinite(x) else x


def number(x: float | None) -> str:
    """Three decimals, or two digits and a power of ten; a dash for what was not measured."""
    if x is None or not isfinite(x):
        return "–"
    if x == 0 or not 0.01 <= abs(x) < 1000:
        return f"{x:.1e}" if x else "0"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:.1f}"


def percent(share: float | None) -> str:
    """A signed share, in per cent."""
    return "–" if share is None or not isfinite(share) else f"{100 * share:+.1f}%"


def cost(remedy: Remedy) -> str:
    """`1.05 × a forward, exact`."""
    return f"{remedy.cost:.3g} × a forward, {'exact' if remedy.exact else 'not exact'}"


def measured(x: float | None, half: float | None) -> str:
    """`0.613 ± 0.021`."""
    return number(x) if half is None else f"{number(x)} ± {number(half)}"


def measure_of(report: Report) -> tuple[str, Callable[[Layer], float | None]]:
    """What layers are compared by: shares if there are any, else own errors, else errors."""
    for name in ("share", "own"):
        if any(getattr(layer, name) is not None for layer in report.layers):
            return name, attrgetter(name)
    return "error", attrgetter("error")


def worst(report: Report, rows: int | None = None) -> list[Layer]:
    """The layers by the size of what they contribute, the largest first; ties as they run.

    Where `rows` bounds them, those that contribute nothing are left out.
    """
    of = measure_of(report)[1]
    found = sorted(report.layers, key=lambda layer: -abs(finite(of(layer))))
    active = [layer for layer in found if abs(finite(of(layer))) > SMALL]
    return found if rows is None else (active or found)[:rows]


def grouped(report: Report) -> dict[tuple[str, str, str], list[str]]:
    """(kind, reason, fix) → the names of the operations that share them."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for found in report.findings:
        groups.setdefault((found.kind, found.reason, found.fix), []).append(found.name)
    return groups


def data_lines(report: Report) -> list[str]:
    """`best dial α* 0.31 (0.22 to 0.40)`, one a quantity."""
    lines = []
    for key, value in (report.data or {}).items():
        value, *ends = value if isinstance(value, (tuple, list)) else (value,)
        bounds = f" ({' to '.join(map(number, ends))})" if ends else ""
        shown = number(value) if isinstance(value, (int, float)) or value is None else str(value)
        lines.append(f"{_DATA.get(key, key)} {shown}{bounds}")
    return lines


# -- the sections ----------------------------------------------------------------------------------


def _ranking(report: Report) -> list[str]:
    return [
        line
        for name, size, half in report.ranking
        for line in paragraph(f"{name}: {measured(size, half)}", "  ")
    ]


def _findings(report: Report) -> list[str]:
    lines = []
    for (kind, reason, fix), names in grouped(report).items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        where = ", ".join(names[:3]) + more
        lines += paragraph(f"{where} ({kind}): {reason}", "  ", "      ")
        lines += paragraph(fix, "      → ", "        ") if fix else []
    return lines


def _remedies(report: Report) -> list[str]:
    lines = []
    for remedy in report.remedies:
        mark = "  ▶ " if remedy.recommended else "    "
        how = f"{cost(remedy)}{', recommended' if remedy.recommended else ''}"
        lines += paragraph(f"{remedy.name} ({how})", mark, "    ")
        lines += paragraph(remedy.call, "        ")
        lines += paragraph(remedy.why, "        ") if remedy.why else []
    return lines


def _data(report: Report) -> list[str]:
    return paragraph(", ".join(data_lines(report)), "  ") if report.data else []


def _notes(report: Report) -> list[str]:
    return [line for note in report.notes for line in paragraph(note, "  – ", "    ")]


def _shown(report: Report) -> str:
    total, rows = len(report.layers), len(worst(report, ROWS))
    return f", the {rows} largest of {total}" if total > rows else ""


def _layers(report: Report) -> list[str]:
    rows = worst(report, ROWS)
    if not rows:
        return []
    of = measure_of(report)[1]
    largest = max(abs(finite(of(layer))) for layer in rows)
    cells = [("operation", "kind", "type", "error", "own", "share", "", "status")]
    cells += [
        (
            layer.name,
            layer.operation,
            layer.type,
            number(layer.error),
            number(layer.own),
            percent(layer.share),
            _bar(of(layer), largest),
            layer.status,
        )
        for layer in rows
    ]
    limits = [WIDTH, 13, 14, 8, 8, 8, BAR, 10]
    table = [[clip(cell, most) for cell, most in zip(row, limits, strict=True)] for row in cells]
    wide = [max(columns(row[i]) for row in table) for i in range(len(limits))]
    wide[0] = min(wide[0], WIDTH - 2 - sum(wide[1:]) - 2 * (len(limits) - 1))
    return ["  " + _row(row, wide) for row in table]


def _row(cells: Sequence[str], wide: Sequence[int]) -> str:
    """Numbers to the right, words to the left."""
    padded = []
    for i, (cell, width) in enumerate(zip(cells, wide, strict=True)):
        text = clip(cell, width)
        space = " " * (width - columns(text))
        padded.append(space + text if i in (3, 4, 5) else text + space)
    return "  ".join(padded).rstrip()


def _bar(x: float | None, largest: float) -> str:
    """Eighths of a column; hatched where a contribution is negative."""
    x = finite(x)
    if not largest:
        return ""
    eighths = abs(x) / largest * 8 * BAR
    if x < 0:
        return "▒" * ceil(eighths / 8)
    full, rest = divmod(round(eighths), 8)
    return "█" * full + " ▏▎▍▌▋▊▉"[rest].strip()
