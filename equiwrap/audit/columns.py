"""Text in the columns of a terminal, whatever characters it is made of."""

from __future__ import annotations

import unicodedata

__all__ = ["WIDTH", "clean", "clip", "columns", "paragraph"]

WIDTH = 100


def clean(text: str) -> str:
    """One line of printable characters: what a terminal would obey is replaced."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split()))


def columns(text: str) -> int:
    """Columns of a terminal: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _fits(text: str, width: int) -> int:
    """How many leading characters fit."""
    used = 0
    for i, c in enumerate(text):
        used += columns(c)
        if used > width:
            return i
    return len(text)


def clip(text: str, width: int) -> str:
    """At most `width` columns; the end of a path says more than its start."""
    text = clean(text)
    if columns(text) <= width:
        return text
    kept = _fits(text[::-1], width - 1)
    return "…" + text[len(text) - kept :]


def paragraph(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """The words in lines of at most `WIDTH` columns, indented; longer words are cut."""
    rest = " " * len(first) if rest is None else rest
    lines, line, indent = [], "", first
    for word in clean(text).split(" "):
        while True:
            room = WIDTH - len(indent)
            longer = f"{line} {word}" if line else word
            if columns(longer) <= room:
                line = longer
                break
            if not line:
                at = _fits(word, room)
                line, word = word[:at], word[at:]
            lines.append(indent + line)
            line, indent = "", rest
    return [*lines, indent + line] if line or not lines else lines
