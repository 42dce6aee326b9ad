"""The demo's table: a row a model, a block a task; and how the cost of a row is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Block", "Row", "render", "seconds"]


@dataclass(frozen=True)
class Row:
    """One model: its figure on the test set, on moved copies, its error, and seconds a batch."""

    name: str
    here: float
    moved: float
    error: float
    seconds: float


@dataclass(frozen=True)
class Block:
    """The rows of one task under its own title; `here` and `moved` name the two figures.

    The cost is printed as a multiple of the first row's.
    """

    title: str
    here: str
    moved: str
    form: str
    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def cells(self) -> list[tuple[str, ...]]:
        """The heading, then the rows, as text."""
        first, form = self.rows[0].seconds, self.form
        body = [
            (
                r.name,
                f"{r.here:{form}}",
                f"{r.moved:{form}}",
                f"{r.error:.1e}",
                f"{r.seconds / first:.1f} ×",
            )
            for r in self.rows
        ]
        return [("", self.here, self.moved, "relative error", "cost"), *body]


def render(blocks: Sequence[Block]) -> str:
    """All blocks under each other, in columns of one width."""
    cells = [row for block in blocks for row in block.cells()]
    first, *rest = (max(len(row[i]) for row in cells) for i in range(len(cells[0])))
    wide = first + sum(width + 3 for width in rest)
    rule = "─" * max(wide, *(len(block.title) for block in blocks))
    lines = []
    for block in blocks:
        head, *body = (
            row[0].ljust(first)
            + "".join("   " + text.rjust(w) for text, w in zip(row[1:], rest, strict=True))
            for row in block.cells()
        )
        lines += [rule, block.title, head, rule, *body]
    return "\n".join([*lines, rule])


def seconds(calls: Sequence[Callable[[], object]], rounds: int = 15) -> list[float]:
    """*median_r t(call)*: the calls take turns, so that what else runs slows all of them alike."""
    times: list[list[float]] = [[] for _ in calls]
    with torch.no_grad():
        for _ in range(rounds + 1):  # the first round warms up
            for call, spent in zip(calls, times, strict=True):
                start = time.perf_counter()
                call()
                spent.append(time.perf_counter() - start)
    return [statistics.median(spent[1:]) for spent in times]
