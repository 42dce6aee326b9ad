"""Capture over a zoo: what is seen of each model, and that nothing about it moves.

    python recipes/survey_capture.py --out table.md --rows rows.jsonl     # all of it; goes on there
    python recipes/survey_capture.py --only hf --match t5

The zoo is the smallest model of every timm family (as in `survey_timm.py`, with dropout and
stochastic depth at 0.1 where they exist, and three blocks where a `depth` can be given and there
are over twenty million parameters), torchvision's classifiers and segmenters, tiny Hugging
Face configurations and torch_geometric models; weights and statistics are random, nothing is
downloaded. Each model is captured on a batch of two. The installed model and an untouched twin must
then agree bit for bit in outputs, gradients, buffers, attributes and random numbers, in eval, train
and eval again, on batches of 2, 1, 3, in float64 and, where there is one, on the CUDA device; keys,
copies, the model that was captured, and the way back are checked beside. `--limit` seconds a model.
The comparison is `tests/reference_capture.py`, which knows nothing of capture.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from survey_capture_zoo import KINDS, Case
from torch import nn
from torch.utils._pytree import tree_map

from equiwrap.graph import capture, install

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference_capture import differences, note, seeded, snapshot

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
FOREIGN = ("Linear", "Conv1D")  # torch_geometric's and GPT-2's own: containers of one operation
BATCHES = (2, 1, 3)


@dataclass
class Row:
    """What was found for one model; `failed` names the checks that did not hold."""

    kind: str
    model: str
    seen: int = 0
    layers: int = 0
    graphs: int = 0
    containers: int = 0
    calls: int = 0  # of installed containers, on batches of 2, 1, 3 in eval and in train mode
    held: int = 0  # of these, by a plan
    reasons: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


class ExpiredError(BaseException):
    """The time of a model is over; nothing that catches `Exception` catches it."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise after so many seconds of real time."""

    def ring(*_: object) -> None:
        raise ExpiredError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# -- one model -------------------------------------------------------------------------------------


def check(row: Row, case: Case) -> None:
    """Fill a row: capture, then everything that must not differ."""
    seeded(0)
    model, call = case.build()
    model.eval()
    example = call(2)
    before = snapshot(model)
    found = capture(model, *example[0], **example[1])
    _law(row, "capture changed the model", differences(before, snapshot(model)))
    del before
    _count(row, model, found)
    twin = copy.deepcopy(model)
    classes = [type(m) for m in model.modules()]
    undo = found.install(model)
    if list(model.state_dict()) != list(twin.state_dict()):
        row.failed.append("state_dict keys")
    with counted(row):
        for train in (False, True, False):
            twin.train(train)
            model.train(train)
            for b in BATCHES:
                _pair(row, f"{'train' if train else 'eval'}, batch {b}", twin, model, call(b))
    copies = [_copied(twin), _copied(model)]
    if isinstance(copies[0], nn.Module) and isinstance(copies[1], nn.Module):
        _pair(row, "deepcopy", *copies, example)
    elif type(copies[0]) is type(copies[1]):
        row.notes.append(f"deepcopy: {type(copies[0]).__name__}, as the plain model")
    else:
        row.failed.append(f"deepcopy: {copies[1]}")
    del copies
    if torch.cuda.is_available():
        there = tree_map(lambda v: v.cuda() if isinstance(v, torch.Tensor) else v, example)
        _pair(row, "cuda", twin.cuda(), model.cuda(), there)
        twin.cpu(), model.cpu()
    _pair(row, "float64", twin.double(), model.double(), example, wide=True)
    undo()
    if [type(m) for m in model.modules()] != classes:
        row.failed.append("undo left classes behind")
    _pair(row, "after undo", twin, model, example, wide=True)


@contextmanager
def counted(row: Row) -> Iterator[None]:
    """Count the calls of installed containers, and those that a plan answered."""
    called, fell = install.lookup, install.own_forward

    def lookup(*args: Any) -> Any:
        row.calls, row.held = row.calls + 1, row.held + 1
        return called(*args)

    def own_forward(*args: Any) -> Any:
        row.held -= 1
        return fell(*args)

    install.lookup, install.own_forward = lookup, own_forward
    try:
        yield
    finally:
        install.lookup, install.own_forward = called, fell


def _copied(net: nn.Module) -> nn.Module | Exception:
    try:
        return copy.deepcopy(net)
    except Exception as reason:
        return reason


def _count(row: Row, model: nn.Module, found: Any) -> None:
    """Layers that are nodes, containers that are graphs, and why the others are not."""
    named = dict(model.named_modules())
    own = {n for n, m in named.items() if isinstance(m, LAYERS)}
    other = {n for n, m in named.items() if type(m).__name__ in FOREIGN} - own
    seen = found.visible(LAYERS) & own | {n for n in other if found.tiers.get(n) == "graph"}
    row.layers, row.seen = len(own | other), len(seen)
    row.containers = len(found.tiers)
    row.graphs = sum(tier == "graph" for tier in found.tiers.values())
    row.reasons = dict(Counter(found.reasons.values()))


def _pair(row: Row, what: str, twin: nn.Module, model: nn.Module, call, **options) -> None:
    """One call of both; where the twin does not even repeat itself, the row says so."""
    states = [_copied(twin)] if what.startswith(("cuda", "train")) else []
    states = [net for net in states if isinstance(net, nn.Module)]
    one, two = (note(net, *call, **options) for net in (twin, model))
    found = differences(one, two)
    if not found and "raises" in dict(one) and options.get("inputs", True):
        return _pair(row, what, twin, model, call, inputs=False, **options)
    if found and states and differences(one, note(states[0], *call, **options)):
        return row.notes.append(f"{what}: the plain model does not repeat itself")
    if "raises" in dict(one):
        row.notes.append(f"{what}: {dict(one)['raises'][:80]}, as the plain model")
    return _law(row, what, found)


def _law(row: Row, what: str, found: list[str]) -> None:
    if found:
        row.failed.append(f"{what}: {found[0][:160]} ({len(found)} in all)")


# -- the table -------------------------------------------------------------------------------------

HEAD = (
    "| model | layers seen | containers | calls held | opaque because | checks |\n"
    "|---|--:|--:|--:|---|---|"
)


def line(row: Row) -> str:
    """One row of the table, in Markdown."""
    common = sorted(row.reasons.items(), key=lambda item: -item[1])[:3]
    reasons = "; ".join(f"{why} ({n})" for why, n in common)
    said = "**" + "; ".join(row.failed) + "**" if row.failed else "ok"
    same = dict.fromkeys(n.split(": ")[0] for n in row.notes if n.endswith("as the plain model"))
    other = [words for words in row.notes if not words.endswith("as the plain model")]
    said += f"; raises as the plain model: {', '.join(same)}" if same else ""
    said += "".join(f"; {words}" for words in other)
    share = f"{100 * row.held / max(row.calls, 1):.0f} %"
    seen, graphs = f"{row.seen}/{row.layers}", f"{row.graphs}/{row.containers}"
    cells = [row.model, seen, graphs, share, reasons, said]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def totals(rows: list[Row]) -> str:
    """Sums over some rows, in a sentence."""
    layers, seen = sum(r.layers for r in rows), sum(r.seen for r in rows)
    containers, graphs = sum(r.containers for r in rows), sum(r.graphs for r in rows)
    calls, held = sum(r.calls for r in rows), sum(r.held for r in rows)
    good = sum(not r.failed for r in rows)
    return (
        f"{good} of {len(rows)} models pass every check; {seen} of {layers} linear and "
        f"convolution layers are nodes ({100 * seen / max(layers, 1):.1f} %), {graphs} of "
        f"{containers} containers are graphs ({100 * graphs / max(containers, 1):.1f} %); of their "
        f"{calls} calls {held} ({100 * held / max(calls, 1):.1f} %) ran the graph."
    )


def versions() -> str:
    """The frameworks of the zoo, as installed."""
    names = ("torch", "timm", "torchvision", "transformers", "torch_geometric")
    return ", ".join(f"{name} {metadata.version(name).split('+')[0]}" for name in names)


def document(rows: list[Row]) -> str:
    """The page: how it was made, what came out, a table for each part of the zoo."""
    parts = [
        "# Capture over a zoo",
        f"`python recipes/survey_capture.py`, {versions()}, Python {platform.python_version()}, "
        + ("CPU and CUDA." if torch.cuda.is_available() else "CPU."),
        totals(rows),
    ]
    for kind in KINDS:
        some = [row for row in rows if row.kind == kind]
        if some:
            parts += [f"## {kind}", totals(some), "\n".join([HEAD, *map(line, some)])]
    return "\n\n".join(parts) + "\n"


def survey(cases: list[Case], limit: int, known: dict[tuple[str, str], Row]) -> Iterator[Row]:
    """One row a case; a case that breaks or takes too long gives a row that says so."""
    for i, case in enumerate(cases, 1):
        row = known.get((case.kind, case.name))
        if row is None:
            row, start = Row(case.kind, case.name), time.perf_counter()
            try:
                with at_most(limit):
                    check(row, case)
            except ExpiredError:
                row.failed.append(f"took more than {limit} s")
            except Exception as reason:
                words = " ".join(str(reason).split())[:120]
                row.failed.append(f"{type(reason).__name__}: {words}")
            gc.collect()  # classes of swapped modules are cycles, and hold weights
            row.seconds = round(time.perf_counter() - start, 1)
            print(f"[{i}/{len(cases)}] {row.seconds} s {line(row)}", file=sys.stderr, flush=True)
        yield row


def main() -> int:
    """The command line; 1 where a model fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=KINDS, help="one part of the zoo")
    parser.add_argument("--match", default="", help="only names that contain this")
    parser.add_argument("--limit", type=int, default=300, help="seconds a model")
    parser.add_argument("--rows", type=Path, help="JSON lines: rows in it are not made again")
    parser.add_argument("--out", type=Path, help="write the page here, anew after every model")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.backends.cudnn.deterministic = True
    kinds = [options.only] if options.only else list(KINDS)
    cases = [case for kind in kinds for case in KINDS[kind]() if options.match in case.name]
    known: dict[tuple[str, str], Row] = {}
    if options.rows and options.rows.exists():
        old = [Row(**json.loads(text)) for text in options.rows.read_text().splitlines()]
        known = {(row.kind, row.model): row for row in old}
    rows: list[Row] = []
    for row in survey(cases, options.limit, known):
        rows.append(row)
        if options.rows and (row.kind, row.model) not in known:
            with options.rows.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        if options.out:
            options.out.write_text(document(rows))
    print(document(rows))
    return any(row.failed for row in rows)


if __name__ == "__main__":
    sys.exit(main())
