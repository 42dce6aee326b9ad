"""Names of groups, read and refused: "C4", "D4", "SO(3)", "SO+(1,3)", "S(n) x O(3)"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from ..errors import GroupError, article
from .base import Group
from .linear import Linear
from .lorentz import Lorentz
from .octahedral import Octahedral
from .orthogonal import Euclidean, Orthogonal
from .permutation import Permutations, Shifts
from .planar import Cyclic, Dihedral
from .product import Product
from .scale import Scale
from .unitary import Unitary

__all__ = ["families", "parse_group"]

# pattern, what to build from its number (if it has one), example
_FAMILIES: tuple[tuple[str, Callable[..., Group], str], ...] = (
    (r"C_?(\d+)", Cyclic, "C4"),
    (r"D_?(\d+)", Dihedral, "D4"),
    (r"SO\((\d+)\)", lambda d: Orthogonal(d, special=True), "SO(3)"),
    (r"O\((\d+)\)", lambda d: Orthogonal(d), "O(3)"),
    (r"SE\((\d+)\)", lambda d: Euclidean(d, special=True), "SE(3)"),
    (r"E\((\d+)\)", lambda d: Euclidean(d), "E(3)"),
    (r"SO\+\(1, ?(\d+)\)", lambda d: Lorentz(d, True, True), "SO+(1,3)"),
    (r"SO\(1, ?(\d+)\)", lambda d: Lorentz(d, True), "SO(1,3)"),
    (r"O\(1, ?(\d+)\)", lambda d: Lorentz(d), "O(1,3)"),
    (r"U\((\d+)\)", lambda d: Unitary(d), "U(3)"),
    (r"SU\((\d+)\)", lambda d: Unitary(d, special=True), "SU(3)"),
    (r"GL\((\d+)\)", lambda d: Linear(d), "GL(3)"),
    (r"SL\((\d+)\)", lambda d: Linear(d, special=True), "SL(3)"),
    (r"Aff\((\d+)\)", lambda d: Linear(d, moves_positions=True), "Aff(3)"),
    (r"S\((\d+)\)", Permutations, "S(5)"),
    (r"S\(n\)", Permutations, "S(n)"),
    (r"T\(2\)", Shifts, "T(2)"),
    (r"R\+", Scale, "R+"),
    (r"O_h", Octahedral, "O_h"),
    (r"O", lambda: Octahedral(special=True), "O"),
)
_SPELLINGS = ["C2", "C4", "C8", "D1", "D2", "D4", "SO(2)", "O(2)", "SO(3)", "O(3)"]
_SPELLINGS += ["SE(2)", "E(2)", "SE(3)", "E(3)", "SO+(1,3)", "SO(1,3)", "O(1,3)", "U(3)", "SU(3)"]
_SPELLINGS += ["GL(3)", "SL(3)", "Aff(3)", "S(n)", "T(2)", "R+", "O_h"]


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
            f"A group was expected, by name or by value, and {article(name)} was given: "
            'write "C4", "SO(3)" or ew.groups.FiniteGroup(...).'
        )
    parts = [part.strip() for part in re.split(r"\s+[x×]\s+", name.strip())]
    groups = [_parse_one(part, name) for part in parts]
    return groups[0] if len(groups) == 1 else Product(tuple(groups))


def _parse_one(part: str, whole: str) -> Group:
    for pattern, build, _ in _FAMILIES:
        match = re.fullmatch(pattern, part)
        if match:
            return build(*map(int, match.groups()))
    upper = {spelling.upper(): spelling for spelling in _SPELLINGS}
    near = difflib.get_close_matches(part.upper(), upper, n=1, cutoff=0.3)
    hint = f" Did you mean {upper[near[0]]!r}?" if near else ""
    raise GroupError(
        f"There is no group {whole!r}. The names are {', '.join(families())} with any number, and "
        'products such as "C4 x C2"; a group of your own is a value, ew.groups.FiniteGroup(name, '
        f"matrices).{hint}"
    )
