"""How elements move the atoms of a tensor that is unflattened into them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..grids import act_on_grid
from ..groups import Elements, Group
from .atoms import Atom, Untyped

__all__ = ["channels", "number_of", "permute", "pixels", "signed", "vectors"]


def signed(group: Group, g: Elements) -> tuple[bool, tuple[bool, bool]]:
    """(exchange h and w?, flip h?, flip w?): what an element does to an image, in this order."""
    return _signed_entries(group, tuple(g.round().int().flatten().tolist()))  # type: ignore[union-attr]


@functools.lru_cache(maxsize=256)
def _signed_entries(group: Group, entries: tuple[int, ...]) -> tuple[bool, tuple[bool, bool]]:
    probe = torch.arange(4.0).reshape(1, 2, 2)
    moved = act_on_grid(group, torch.tensor(entries, dtype=torch.float32).reshape(2, 2), probe)[0]
    for swap, fh, fw in itertools.product((False, True), repeat=3):
        image = probe[0].T if swap else probe[0]
        dims = [d for d, f in ((0, fh), (1, fw)) if f]
        if torch.equal(image.flip(dims), moved):
            return swap, (fh, fw)
    raise Untyped("is moved by an element that is no symmetry of the square")


def pixels(x: Tensor, atoms: Sequence[Atom], swap: bool, flips: tuple[bool, bool]) -> Tensor:
    """Heights and widths exchanged, then turned.

    Raises:
        Untyped: they do not correspond, or some pixels are missing.
    """
    if any(atom.was for atom in atoms if atom.moved):
        raise Untyped("keeps some pixels of a grid")
    h = [i for i, a in enumerate(atoms) if a.name == "h"]
    w = [i for i, a in enumerate(atoms) if a.name == "w"]
    if swap:
        if len(h) != len(w) or any(
            replace(atoms[i], name="w") != atoms[j] for i, j in zip(h, w, strict=True)
        ):
            raise Untyped("keeps height and width apart, which the group exchanges")
        order = list(range(x.dim()))
        for i, j in zip(h, w, strict=True):
            order[i], order[j] = j, i
        x = x.permute(order)
    flipped = [*(h if flips[0] else ()), *(w if flips[1] else ())]
    x = x.flip(flipped) if flipped else x
    for i in flipped:  # flip sends i to size − 1 − i; the turn adds the rest
        shift = (atoms[i].turn + 1) % atoms[i].size
        x = x.roll(shift, i) if shift else x
    return x


def permute(x: Tensor, atoms: Sequence[Atom], g: Any) -> Tensor:
    """Rows exchanged."""
    index = g.reshape(-1)
    for i, atom in enumerate(atoms):
        if atom.name == "n":
            x = x.index_select(i, index.to(x.device))
    return x


def vectors(x: Tensor, atoms: Sequence[Atom], group: Group, g: Any) -> Tensor:
    """Vectors by their matrix."""
    matrix = (g[0] if isinstance(g, tuple) else g).reshape(group.dim, group.dim).to(x)
    for i, atom in enumerate(atoms):
        if atom.name == "v":
            x = torch.tensordot(x, matrix, dims=([i], [1])).movedim(-1, i)
    return x


def number_of(group: Group, g: Elements) -> int:
    """The number of an element in the order of `group.elements()`."""
    return int((group.elements() - g.cpu()).abs().flatten(1).sum(1).argmin())  # type: ignore[union-attr]


def channels(x: Tensor, atoms: Sequence[Atom], k: int) -> Tensor:
    """Copies of functions on the group, moved by element k."""
    for i, atom in enumerate(atoms):
        if atom.name == "r":
            index = torch.tensor(atom.images[k], device=x.device).argsort()
            x = x.index_select(i, index)
    return x
