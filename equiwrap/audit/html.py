"""A report as one page that asks nothing of the network: tables, and charts drawn as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from .charts import charts, colour, safe
from .report import STATUS, Layer, Remedy, Report
from .text import (
    cost,
    data_lines,
    facts,
    finite,
    grouped,
    measure_of,
    measured,
    number,
    percent,
    verdict,
    worst,
)

__all__ = ["fragment", "page"]

_STYLE = """
.ew{--ink:#1c2127;--soft:#5f6b7c;--line:#dfe3e8;--card:#f6f7f9;--blue:#1f5f99;color:var(--ink);
 font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:auto;overflow-wrap:anywhere}
.ew h1{font-size:1.35rem;line-height:1.35;margin:.2em 0 .4em}
.ew h2{font-size:1.05rem;margin:1.8em 0 .5em}
.ew p{margin:.3em 0}.ew .card p{margin:0}.ew .soft{color:var(--soft)}
.ew code{font:.9em ui-monospace,monospace}
.ew .card{background:var(--card);border-left:4px solid var(--line);border-radius:4px;
 padding:.5em .9em;margin:.45em 0}.ew .best{border-color:var(--blue)}
.ew .chip{display:inline-block;color:#fff;border-radius:9px;padding:0 .6em;font-size:.8em;
 white-space:nowrap}
.ew .wide{white-space:nowrap}
.ew .charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:1em}
.ew figure{margin:0}.ew figcaption{color:var(--soft);font-size:.85em}
.ew svg{width:100%;height:auto;display:block}.ew svg text{fill:var(--soft);font-size:11.5px}
.ew .axis{stroke:var(--line);fill:none}.ew .curve{stroke:var(--blue);fill:none;stroke-width:2}
.ew .band{fill:var(--blue);opacity:.2}.ew .dot{fill:var(--blue)}
.ew .scroll{overflow-x:auto}.ew table{border-collapse:collapse;width:100%;font-size:.86em}
.ew th,.ew td{text-align:left;padding:.28em .6em;border-bottom:1px solid var(--line);
 vertical-align:top}.ew th{color:var(--soft);white-space:nowrap;cursor:pointer}
.ew .n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.ew .path{font-family:ui-monospace,monospace;min-width:13em}.ew .why{min-width:16em}
.ew .bar{display:inline-block;height:.75em;border-radius:2px}
.ew .less{opacity:.45}.ew .track{min-width:70px;width:90px}
@media(prefers-color-scheme:dark){.ew{--ink:#e6e9ee;--soft:#a3adba;--line:#3a424d;--card:#22272e;
 --blue:#6cb0ea}}
@media(max-width:640px){.ew{font-size:14px}.ew h1{font-size:1.15rem}.ew .wide{display:none}}
"""
_PAGE = "body{margin:0;padding:1.2em;background:#fff}@media(prefers-color-scheme:dark){"
_PAGE += "body{background:#171b21}}"

# a click on a heading sorts by it; a second click turns the order around
_SORT = """
document.querySelectorAll('.ew th').forEach(h=>h.onclick=()=>{
 const body=h.closest('table').tBodies[0],i=h.cellIndex,s=h.dataset.s=h.dataset.s=='1'?'-1':'1';
 const key=r=>{const d=r.cells[i].dataset.v;return d===undefined?r.cells[i].textContent:-d};
 [...body.rows].sort((a,b)=>{const x=key(a),y=key(b);return s*(x<y?-1:x>y?1:0)})
  .forEach(r=>body.append(r))})
"""


def page(report: Report) -> str:
    """A whole document, light or dark as the reader's system is."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{safe(report.model)} under {safe(report.group)}</title>"
        f"<style>{_PAGE}</style></head>\n<body>{fragment(report)}</body></html>\n"
    )


def fragment(report: Report) -> str:
    """The page without its frame, for notebooks."""
    head, _, why = verdict(report).partition(". ")
    sections = (
        ("Groups, least broken first", [_ranking(report)] if report.ranking else []),
        ("What breaks it", [_finding(*item) for item in grouped(report).items()]),
        ("Where", charts(report)),
        ("What to do", [_remedy(remedy) for remedy in report.remedies]),
        ("Data", [f"<p>{safe(line)}</p>" for line in data_lines(report)]),
        ("Operations", [_table(report)] if report.layers else []),
        ("Notes", [f"<p>{safe(note)}</p>" for note in report.notes]),
    )
    body = "\n".join(f"<h2>{title}</h2>\n" + "\n".join(parts) for title, parts in sections if parts)
    return (
        f'<div class="ew"><style>{_STYLE}</style>\n<h1>{safe(head)}</h1>'
        f'<p>{safe(why)}</p><p class="soft">{safe(facts(report))}</p>\n{body}\n'
        f"<script>{_SORT}</script></div>"
    )


# -- sections --------------------------------------------------------------------------------------


def _ranking(report: Report) -> str:
    rows = (
        f'<tr><td>{safe(name)}</td><td class="n">{measured(size, half)}</td></tr>'
        for name, size, half in report.ranking
    )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _finding(what: tuple[str, str, str], names: Sequence[str]) -> str:
    kind, reason, fix = map(safe, what)
    where = ", ".join(f"<code>{safe(name)}</code>" for name in names)
    advice = f"<p>→ {fix}</p>" if fix else ""
    return f'<div class="card">{where} <span class="soft">({kind})</span>: {reason}{advice}</div>'


def _remedy(remedy: Remedy) -> str:
    best = remedy.recommended
    mark = ' <b class="soft">recommended</b>' if best else ""
    return (
        f'<div class="card{" best" * best}"><b>{safe(remedy.name)}</b>{mark}<br>'
        f'<code>{safe(remedy.call)}</code><br><span class="soft">{cost(remedy)}.</span> '
        f"{safe(remedy.why)}</div>"
    )


# heading and class of each column
_COLUMNS = (
    ("runs", "n wide"),
    ("operation", "path"),
    ("kind", "wide"),
    ("type", "wide"),
    ("error", "n"),
    ("own", "n wide"),
    ("share", "n"),
    ("", "track"),
    ("status", ""),
    ("why", "why"),
)


def _table(report: Report) -> str:
    of, rows = measure_of(report)[1], worst(report)
    largest = max(abs(finite(of(layer))) for layer in rows) or 1.0
    place = {id(layer): i for i, layer in enumerate(report.layers, 1)}
    top = "".join(f'<th class="{kind}" title="sort">{head}</th>' for head, kind in _COLUMNS)
    body = "\n".join(_line(layer, place[id(layer)], finite(of(layer)), largest) for layer in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table>'
        "</div>"
    )


def _line(layer: Layer, place: int, x: float, largest: float) -> str:
    """One row; cells that hold numbers carry what they are sorted by, the largest first."""
    why = " ".join(part for part in (layer.reason, layer.fix and f"→ {layer.fix}") if part)
    paint = f"background:{colour(layer.status)}"
    bar = (
        f'<span class="bar{" less" * (x < 0)}" style="width:{100 * abs(x) / largest:.0f}%;{paint}">'
    )
    chip = f'<span class="chip" style="{paint}" title="{safe(STATUS.get(layer.status, ""))}">'
    cells: tuple[tuple[str, float | None], ...] = (
        (str(place), -place),
        (safe(layer.name), None),
        (safe(layer.operation), None),
        (safe(layer.type), None),
        (number(layer.error), finite(layer.error)),
        (number(layer.own), finite(layer.own)),
        (percent(layer.share), abs(finite(layer.share))),
        (f"{bar}</span>", abs(x)),
        (f"{chip}{safe(layer.status)}</span>", None),
        (safe(why), None),
    )
    row = ""
    for (text, value), (_, kind) in zip(cells, _COLUMNS, strict=True):
        key = "" if value is None else f' data-v="{value:g}"'
        row += f'<td class="{kind}"{key}>{text}</td>'
    return f"<tr>{row}</tr>"
