"""What is refused of a pattern, and of a tensor that does not fit it."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import SignatureError, article
from ..grids import axes_of, check_grid
from ..representations import letters
from .grammar import Axis

if TYPE_CHECKING:
    from .types import TensorType

__all__ = ["check_letters", "check_tensor"]

_RESERVED = {
    "v": "a vector",
    "p": "a position, which translations move",
    "a": "an axial quantity, which only reflections tell from a vector (or, in the plane, a "
    "scalar)",
    "r": "the regular representation of a finite group",
    "h": "a pixel grid",
    "w": "a pixel grid",
}


def check_letters(kind: TensorType) -> None:
    """Nothing, or a sentence about the pattern.

    Raises:
        SignatureError: a letter that the group lacks, a torn grid, a folded batch or rows.
    """
    known = letters(kind.group)
    names = [name for axis in kind.axes for term in axis.terms for name in term]
    grid = axes_of(kind.group)
    for name in names:
        if name in grid:
            continue
        if name in _RESERVED and name not in known:
            have = sorted(known) + ([" ".join(grid)] if grid else [])
            raise SignatureError(
                f"The letter {name} in {str(kind)!r} is {_RESERVED[name]}, and {kind.group} "
                f"declares only {', '.join(have)}: use one of these, or another name for an "
                "axis on which nothing happens."
            )
    if "h" in names and grid and not _grid_is_whole(kind, grid):
        either = "as two axes or as (h w)" if len(grid) == 2 else "as three axes"
        raise SignatureError(
            f"The grid in {str(kind)!r} must be the neighbours {' '.join(grid)}, {either}."
        )
    for axis in kind.axes:
        if (
            not axis.ragged
            and axis.bracketed
            and any(n in known and known[n].permutes for t in axis.terms for n in t)
        ):
            raise SignatureError(
                f"{str(kind)!r} folds the rows n into another axis, and {kind.group} permutes "
                "them: give n an axis of its own."
            )
    if names.count("b") > 1 or names.count("p") > 1:
        raise SignatureError(f"{str(kind)!r} repeats b or p: each stands for one axis at most.")
    for i, axis in enumerate(kind.axes):
        if axis.name == "..." and i:
            raise SignatureError(f"In {str(kind)!r} the ellipsis must lead: it is the batch.")
        folds = axis.bracketed and any("b" in term for term in axis.terms)
        if folds and not (i == 0 and axis.ragged):
            raise SignatureError(
                f"{str(kind)!r} folds the batch into another axis: give b an axis of its own, or "
                'write the rows of graphs of different sizes "(b n) …" first.'
            )


def _grid_is_whole(kind: TensorType, grid: tuple[str, ...]) -> bool:
    flat = [axis for axis in kind.axes if any(set(t) & set(grid) for t in axis.terms)]
    if len(flat) == 1:
        return flat[0].terms == (("h", "w"),) and len(grid) == 2
    names = [axis.name for axis in kind.axes]
    start = names.index(grid[0]) if grid[0] in names else 0
    return names[start : start + len(grid)] == list(grid) and len(flat) == len(grid)


def check_tensor(kind: TensorType, x: object, what: str) -> Tensor:
    """The tensor itself, if it fits.

    Raises:
        SignatureError: not a tensor, a wrong number of axes, an axis of the wrong size, a grid
            that is not square, or numbers that the group cannot move (integers, complex).
    """
    if not isinstance(x, Tensor):
        raise SignatureError(
            f"{what} is typed {str(kind)!r}, so a tensor is expected, and "
            f"{article(x)} was given: type it _ if it is to be passed through."
        )
    ellipsis = len(kind.axes) > 0 and kind.axes[0].name == "..."
    wanted = len(kind.axes) - ellipsis
    if x.ndim < wanted or (x.ndim > wanted and not ellipsis):
        raise SignatureError(
            f"{what} is typed {str(kind)!r}, {wanted} axes, and a tensor of shape "
            f"{list(x.shape)} was given: change the signature or the tensor."
        )
    _check_numbers(kind, x, what)
    sizes = x.shape[x.ndim - len(kind.inner) :] if ellipsis else _drop_batch(kind, x.shape)
    for axis, size in zip(kind.inner, sizes, strict=True):
        _check_axis(kind, axis, size, what)
    _check_square(kind, sizes)
    return x


def _check_numbers(kind: TensorType, x: Tensor, what: str) -> None:
    """Index actions take any dtype; matrices take the numbers they are made of.

    Raises:
        SignatureError: integers, or real numbers where complex ones are needed, or the reverse.
    """
    if not kind.moves or kind.permutes:
        return
    wanted = "complex" if kind.group.complex else "real floating-point"
    if x.is_complex() if kind.group.complex else x.is_floating_point():
        return
    convert = "x.to(torch.complex64)" if kind.group.complex else "x.float()"
    raise SignatureError(
        f"{what} is typed {str(kind)!r}, which {kind.group} moves, so {wanted} "
        f"numbers are needed, and {str(x.dtype).removeprefix('torch.')} was given: "
        f"convert it ({convert}), or use plain axis names if it is invariant."
    )


def _drop_batch(kind: TensorType, shape: torch.Size) -> list[int]:
    return [s for i, s in enumerate(shape) if i != kind.batch]


def _check_axis(kind: TensorType, axis: Axis, size: int, what: str) -> None:
    name = axis.name
    if name is not None and name.isdigit() and int(name) != size:
        raise SignatureError(f"{what}: {str(kind)!r} fixes an axis to {name}, found {size}.")
    known = letters(kind.group)
    fixed = known[name].size if name is not None and name in known else 0
    if fixed != 0 and fixed != size:
        raise SignatureError(
            f"{what} is typed {str(kind)!r}: the axis has {size} entries, {name} needs "
            f"{fixed}: name it k if it is invariant."
        )
    if axis.bracketed and axis.terms != (("h", "w"),):
        kind.representation(axis, size, what)


def _check_square(kind: TensorType, sizes: list[int] | torch.Size) -> None:
    if not kind.grid:
        return
    names = [axis.name for axis in kind.inner]
    if "h" in names:
        check_grid(kind.group, *[sizes[names.index(n)] for n in axes_of(kind.group)])
        return
    flat = next(
        s for a, s in zip(kind.inner, sizes, strict=True) if a.bracketed and "h" in a.terms[0]
    )
    if isqrt(flat) ** 2 != flat:
        raise SignatureError(
            f"(h w) has {flat} entries, which is not a square: write h w as two axes."
        )
