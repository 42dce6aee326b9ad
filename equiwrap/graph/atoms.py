"""What types are made of: atoms with a name and a size, blocks of them, and the reason for none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BATCH", "Atom", "Axis", "Block", "Untyped", "free", "letter", "name_of", "size_of"]

MOVED = ("h", "w", "n", "v", "r")
BATCH = "b"


class Untyped(Exception):
    """No type can be given, with the reason; `fix` says what helps, `kind` which family it is.

    `off` is (remainder, stride) of a sampling that is not centred; `lead` the number of parts into
    which an axis of moved channels is cut, each of which may move by itself.
    """

    def __init__(
        self,
        reason: str,
        fix: str = "",
        kind: str = "other",
        off: tuple[int, int] | None = None,
        lead: int = 0,
    ) -> None:
        super().__init__(reason)
        self.reason, self.fix, self.kind, self.off, self.lead = reason, fix, kind, off, lead


@dataclass(frozen=True)
class Atom:
    """`size` entries; a flip of a grid atom sends entry i to (turn − i) mod size.

    `was`: the axis that a linear layer mixed into these entries, which rest (hidden tokens); or
    (step, start) for every step-th pixel, which a flip sends to other ones. `images` of channels r:
    element k sends entry i to images[k][i]. `origin`: the weights that made these channels.
    """

    name: str
    size: int
    turn: int = -1
    was: tuple[Any, ...] = ()
    images: tuple[tuple[int, ...], ...] = ()
    origin: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def centred(self) -> bool:
        """True where a flip reverses the atom as it stands."""
        return self.turn == self.size - 1

    @property
    def moved(self) -> bool:
        """True where the group acts on it."""
        return self.name in MOVED and self.size > 1


Block = tuple[Atom, ...]
Axis = tuple[Block, ...]


def free(size: int) -> Axis:
    """An axis on which nothing happens."""
    return ((Atom("", size),),)


def size_of(block: Block) -> int:
    """The number of entries of a block."""
    return math.prod(atom.size for atom in block)


def letter(name: str, size: int) -> Axis:
    """The axis of a letter of a signature.

    Raises:
        Untyped: the letter is moved in a way that is not followed through a network.
    """
    if name in ("h", "w"):
        return ((Atom(name, size, size - 1),),)
    if name in ("n", "v", BATCH):
        return ((Atom(name, size),),)
    if name in ("p", "a", "d"):
        raise Untyped(f"the letter {name} is not followed through a network")
    return free(size)


def name_of(axis: Axis) -> str:
    """As a signature writes it: `(1 + h w)`."""
    parts = []
    for block in axis:
        names = [a.name or ("1" if a.size == 1 else "c") for a in block]
        parts.append(" ".join(names))
    text = " + ".join(parts)
    return f"({text})" if " " in text else text


def sizes_of(block: Block, total: int) -> list[int]:
    """Sizes on this very tensor: a batch other than the example's changes its atom.

    Raises:
        Untyped: the numbers do not fit.
    """
    sizes = [atom.size for atom in block]
    if math.prod(sizes) != total:
        at = next((i for i, a in enumerate(block) if a.name == BATCH), None)
        rest = math.prod(sizes) // max(sizes[at], 1) if at is not None else 0
        if at is None or not rest or total % rest:
            raise Untyped(f"has {total} entries where the example had {math.prod(sizes)}")
        sizes[at] = total // rest
    return sizes
