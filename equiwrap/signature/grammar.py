"""The grammar: `"pos: b n p, mask: _ -> {energy: b 1, forces: b n v}"` → names, axes and brackets.

    signature := inputs "->" outputs
    inputs    := input ("," input)*          input  := [name ":"] pattern
    outputs   := "..." | pattern ("," pattern)* | "{" name ":" pattern ("," name ":" pattern)* "}"
    pattern   := "_" | axis+ ["|" name]      axis   := name | number | "..." | "(" product ")" | "("
    sum ")" product   := (name | number)+            sum    := product ("+" product)+

Nothing here knows a group: `types.py` gives the names their meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SignatureError

__all__ = ["Axis", "Pattern", "parse_pattern", "split_signature"]

_NAME = r"[A-Za-z][A-Za-z0-9_]*"


@dataclass(frozen=True)
class Axis:
    """One axis as written: a sum of products of names and numbers; mostly one of one."""

    terms: tuple[tuple[str, ...], ...]
    bracketed: bool = False

    @property
    def name(self) -> str | None:
        """The single name of a plain axis, None for a bracket."""
        return None if self.bracketed else self.terms[0][0]

    @property
    def ragged(self) -> bool:
        """True for `(b n)`, the rows of samples of different sizes."""
        return self.terms == (("b", "n"),)

    def __str__(self) -> str:
        body = " + ".join(" ".join(term) for term in self.terms)
        return f"({body})" if self.bracketed else body


@dataclass(frozen=True)
class Pattern:
    """The axes of one tensor; `axes` is None for `_`, an argument passed through untouched.

    `index` names the argument that holds the sample of each row of a ragged `(b n)`.
    """

    axes: tuple[Axis, ...] | None
    index: str | None = None

    def __str__(self) -> str:
        body = "_" if self.axes is None else " ".join(str(axis) for axis in self.axes)
        return f"{body} | {self.index}" if self.index else body


def parse_pattern(text: str) -> Pattern:
    """`"b n (p + v + 1)"` → its axes.

    Raises:
        SignatureError: the text is not a pattern; the message quotes it.
    """
    text = text.strip()
    if text == "_":
        return Pattern(None)
    text, bar, index = (part.strip() for part in text.partition("|"))
    if bar and not (re.fullmatch(_NAME, index) and text.startswith("(b n)")):
        raise SignatureError(
            f"The pattern {text + ' | ' + index!r} cannot be read: the bar names the argument that "
            'holds the graph of each row, as in "(b n) p | batch".'
        )
    tokens = re.findall(rf"\([^()]*\)|{_NAME}|\d+|\.\.\.", text)
    if not tokens or re.sub(r"\s+", "", "".join(tokens)) != re.sub(r"\s+", "", text):
        raise SignatureError(
            f"The pattern {text!r} cannot be read: it is a row of axis names separated by spaces, "
            'as in "b c h w" or "b n (p + v + 1)", or _ for an argument passed through untouched.'
        )
    return Pattern(tuple(_axis(token, text) for token in tokens), index or None)


def _axis(token: str, whole: str) -> Axis:
    if not token.startswith("("):
        return Axis(((token,),))
    terms = tuple(tuple(term.split()) for term in token[1:-1].split("+"))
    names = [name for term in terms for name in term]
    if not all(terms) or not all(re.fullmatch(rf"{_NAME}|\d+", name) for name in names):
        raise SignatureError(
            f"The bracket {token!r} in {whole!r} cannot be read: it holds names (copies on one "
            'axis, "(c v)") or a sum of them ("(p + v + 1)").'
        )
    return Axis(terms, bracketed=True)


def split_signature(
    text: str,
) -> tuple[list[tuple[str | None, str]], list[tuple[str | None, str]], str]:
    """Inputs and outputs as (name, pattern) pairs, and the outputs' form: "one", "tuple" or "dict".

    Raises:
        SignatureError: the arrow is missing, a bracket is open, or names are mixed with none.
    """
    if not isinstance(text, str) or text.count("->") != 1:
        raise SignatureError(
            f'The signature {text!r} needs one arrow between inputs and outputs, as in "b c h w '
            '-> b k" or "b n p, b n v -> b n p".'
        )
    if text.count("(") != text.count(")") or text.count("{") != text.count("}"):
        raise SignatureError(f"The signature {text!r} has a bracket that is not closed.")
    left, right = (side.strip() for side in text.split("->"))
    inputs = [_named(part) for part in _commas(left)]
    if len({name is None for name, _ in inputs}) > 1:
        raise SignatureError(
            f"The inputs of {text!r} are named all or not at all: name each of them."
        )
    if right.startswith("{"):
        outputs = [_named(part) for part in _commas(right.strip("{} "))]
        if any(name is None for name, _ in outputs):
            raise SignatureError(f"Every output between braces needs a name: {right!r} lacks one.")
        return inputs, outputs, "dict"
    outputs = [(None, part) for part in _commas(right)]
    return inputs, outputs, "one" if len(outputs) == 1 else "tuple"


def _commas(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise SignatureError(f"There is an empty pattern in {text!r}: remove the comma beside it.")
    return parts


def _named(text: str) -> tuple[str | None, str]:
    name, colon, pattern = text.rpartition(":")
    if colon and not re.fullmatch(rf"{_NAME}|_{_NAME}", name.strip()):
        raise SignatureError(f"The name {name.strip()!r} in {text!r} is not an argument's name.")
    return (name.strip() if colon else None), pattern.strip()
