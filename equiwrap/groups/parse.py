"""Names of groups, read and refused: "C4", "D4", "SO(3)", "E(3)", "C4 x C2"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from ..errors import GroupError
from .base import Group
from .orthogonal import Euclidean, Orthogonal
from .planar import Cyclic, Dihedral
from .product import Product

__all__ = ["families", "parse_group"]

# pattern, what to build from its number, example
_FAMILIES: tuple[tuple[str, Callable[[int], Group], str], ...] = (
    (r"C_?(\d+)", Cyclic, "C4"),
    (r"D_?(\d+)", Dihedral, "D4"),
    (r"SO\((\d+)\)", lambda d: Orthogonal(d, special=True), "SO(3)"),
    (r"O\((\d+)\)", lambda d: Orthogonal(d), "O(3)"),
    (r"SE\((\d+)\)", lambda d: Euclidean(d, special=True), "SE(3)"),
    (r"E\((\d+)\)", lambda d: Euclidean(d), "E(3)"),
)
_SPELLINGS = ["C2", "C4", "C8", "D1", "D2", "D4", "SO(2)", "O(2)", "SO(3)", "O(3)"]
_SPELLINGS += ["SE(2)", "E(2)", "SE(3)", "E(3)"]


def families() -> tuple[str, ...]:
    """An example name of every family that `parse_group` reads."""
    return tuple(example for *_, example in _FAMILIES)


def parse_group(name: str | Group) -> Group:
    """`"C4" | "SO(3)" | "C4 x C2" | a Group → Group`; inverse of `str(group)`.

    Raises:
        GroupError: the name is unknown; the message lists the families and the nearest name.
    """
    if isinstance(name, Group):
        return name
    if not isinstance(name, str):
        raise GroupError(
            f"A group was expected, by name or by value, and a {type(name).__name__} was given: "
            'write "C4", "SO(3)" or ew.groups.FiniteGroup(...).'
        )
    parts = [part.strip() for part in re.split(r"\s+[x×]\s+", name.strip())]
    groups = [_parse_one(part, name) for part in parts]
    return groups[0] if len(groups) == 1 else Product(tuple(groups))


def _parse_one(part: str, whole: str) -> Group:
    for pattern, build, _ in _FAMILIES:
        match = re.fullmatch(pattern, part)
        if match:
            return build(int(match.group(1)))
    near = difflib.get_close_matches(part, _SPELLINGS, n=1, cutoff=0.3)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise GroupError(
        f"There is no group {whole!r}. The names are {', '.join(families())} with any number, and "
        'products such as "C4 x C2"; a group of your own is a value, ew.groups.FiniteGroup(name, '
        f"matrices).{hint}"
    )
