"""What recipes share: the command line, the file of results, the bar, `mean ± sd`, the figure.

A recipe makes rows (dicts that JSON holds), a table of them and a figure of them. `--json` keeps
the rows as they come and goes on with those of a file; `--table` runs nothing and prints the file.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

__all__ = [
    "Row",
    "asked",
    "dots",
    "drawn",
    "gathered",
    "progress",
    "read",
    "short",
    "shown",
    "spread",
]

Row = dict[str, Any]


def asked(
    doc: str, given: list[str] | None, *, seeds: int, quick: str, few: int = 1, **more: Row
) -> argparse.Namespace:
    """The options that every recipe has, and `more`; `few` seeds where it is quick. One thread."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    said = f"how many, or which (0,1 or 4,): {seeds}, quick {few}"
    parser.add_argument("--seeds", type=which, metavar="N", help=said)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, help="results: written as they come, gone on with")
    parser.add_argument("--table", action="store_true", help="print the file's table, run nothing")
    parser.add_argument("--figure", type=Path, help="draw it here")
    parser.add_argument("--out", type=Path, help="write what is printed here")
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    found = parser.parse_args(given)
    if found.table and not (found.json and found.json.exists()):
        parser.error("--table prints what a file holds: name it by --json.")
    if found.seeds is None:
        found.seeds = list(range(few if found.quick else seeds))
    words = sys.argv[1:] if given is None else given
    found.command, found.begun = shlex.join([Path(sys.argv[0]).name, *words]), time.perf_counter()
    torch.set_num_threads(1)
    return found


def which(text: str) -> list[int]:
    """`"3"` is 0, 1, 2; `"0,4"` is 0 and 4; `"4,"` is 4 alone."""
    if not all(part.strip().isdigit() for part in text.rstrip(",").split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} was given for numbers, as in 3 or 0,4 or 4,")
    if "," in text:
        return [int(part) for part in text.split(",") if part.strip()]
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} seeds were asked for; seed 0 alone is 0,")
    return list(range(int(text)))


# -- rows ------------------------------------------------------------------------------------------


def read(path: Path | None) -> list[Row]:
    """The rows of a file; none where there is no file."""
    found = json.loads(path.read_text()) if path and path.exists() else []
    return found if isinstance(found, list) else found["rows"]


def write(path: Path | None, rows: Sequence[Row], **about: Any) -> None:
    """A row a line, behind what is said about all of them (a list where nothing is)."""
    if path is None:
        return
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    held = json.loads(path.read_text()) if path.exists() else {}
    said = {} if isinstance(held, list) else held | json.loads(json.dumps(about))
    head = [f"{json.dumps(k)}: {json.dumps(v)}, " for k, v in said.items() if k != "rows"]
    path.write_text(f'{{{"".join(head)}"rows": [\n{lines}\n]}}\n' if head else f"[\n{lines}\n]\n")


def agreed(path: Path | None, **about: Any) -> None:
    """Stops where the rows of a file were made with another budget."""
    held = json.loads(path.read_text()) if path and path.exists() else {}
    for name, wanted in json.loads(json.dumps(about)).items():
        known = held.get(name, {}) if isinstance(held, dict) else {}
        other = {k: known[k] for k in wanted if k in known and known[k] != wanted[k]}
        if other:
            raise SystemExit(f"{path} holds results of {other}: name another file by --json.")


def gathered(
    options: argparse.Namespace,
    todo: Iterable[Any],
    rows_of: Callable[[Any], Iterable[Row]],
    **about: Any,
) -> list[Row]:
    """The rows of the file, then those of each of `todo` as they come (of none by `--table`)."""
    rows = read(options.json)
    if options.table:
        return rows
    agreed(options.json, **about)
    for item in progress(list(todo)):
        for row in rows_of(item):
            rows.append(json.loads(json.dumps(row)))
            write(options.json, rows, **about)
    return rows


def short(item: Any, digits: int = 4) -> Any:
    """So many digits of every number, for a small file."""
    if isinstance(item, dict):
        return {key: short(value, digits) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [short(value, digits) for value in item]
    return float(f"{item:.{digits}g}") if isinstance(item, float) else item


# -- what is seen ----------------------------------------------------------------------------------


def spread(values: Sequence[float], form: str = ".3g", sd: str | None = None) -> str:
    """*mean ± standard deviation*; the mean alone of one value, a dash of none."""
    if not values:
        return "–"
    apart = f" ± {stdev(values):{sd or form}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{apart}"


def progress(items: Sequence[Any], unit: str = "seed", label: str | None = None) -> Iterable[Any]:
    """A bar on stderr where that is a terminal, and tqdm installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, label, unit=unit, disable=None if items else True, leave=label is None)


def shown(
    options: argparse.Namespace,
    rows: Any,
    table: Callable[[Any], str],
    figure: Callable[[Any, Path], None],
) -> None:
    """Prints the table and, where something was run, with what; writes and draws as asked."""
    text = table(rows)
    if not options.table:
        versions = f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}"
        seconds = time.perf_counter() - options.begun
        text += f"\n\n`python recipes/{options.command}`, {versions}, {seconds:.0f} s"
    print(text)
    if options.out:
        options.out.write_text(f"{text}\n")
    if options.figure:
        figure(rows, options.figure)


def dots(ax: Any, values: dict[str, Sequence[float]]) -> None:
    """A line a name, from above: a dot a seed, a bar at the mean."""
    at = range(len(values))
    pairs = [(v, y) for y, each in zip(at, values.values(), strict=True) for v in each]
    ax.plot(*zip(*pairs, strict=True), "o", ms=5, mew=0, alpha=0.7)
    ax.plot([mean(each) for each in values.values()], at, "|", ms=14, color="black")
    ax.set(yticks=at, yticklabels=values)
    ax.set_ylim(len(values) - 0.5, -0.5)


@contextmanager
def drawn(path: Path, size: tuple[float, float], **grid: Any) -> Iterator[Any]:
    """Axes of matplotlib, saved when they are left: text stays text, the ground is white."""
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "equiwrap"}):
        figure, axes = pyplot.subplots(figsize=size, **grid)
        yield axes
        figure.tight_layout()
        dated = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
        figure.savefig(path, facecolor="white", **dated)
        pyplot.close(figure)
