"""What a frame looks at: the positions, vectors and pixels among the typed inputs of one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import SignatureError
from ..grids import axes_of
from ..groups import Group
from ..representations import Representation, Sum, TensorProduct, letters
from .base import TypedInput

__all__ = ["batch_of", "cloud", "image", "sizes_of"]


def batch_of(inputs: Sequence[TypedInput]) -> tuple[int, torch.device]:
    """Batch size and device of a call."""
    value = inputs[0].value
    return value.shape[0], value.device


def sizes_of(inputs: Sequence[TypedInput]) -> dict[str, int]:
    """The lengths of the plain axes of a call, by name: what S(n) and T(2) are bound by."""
    found: dict[str, int] = {}
    for kind, value in inputs:
        found |= kind.sizes(value)
    return found


def cloud(
    group: Group, inputs: Sequence[TypedInput]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Positions, vectors and axial vectors, each `[b, n, d]`, one for every axis that carries them.

    Raises:
        SignatureError: an input carries none, or only as a tensor of higher rank.
    """
    found: dict[str, list[Tensor]] = {"p": [], "v": [], "a": []}
    for kind, value in inputs:
        moving = [i for i, axis in enumerate(kind.inner) if kind.axis_moves(axis)]
        if len(moving) > 1:
            raise SignatureError(
                f"The input {str(kind)!r} is a tensor of rank {len(moving)}: a frame is computed "
                "from positions and vectors. Give such a tensor by its vectors, or use "
                'frame="haar".'
            )
        for i in moving:
            rep = kind.representation(kind.inner[i], value.shape[i + 1])
            for letter, points in _points(group, rep, value.movedim(i + 1, -1)):
                found[letter].append(points)
    if not any(found.values()):
        raise SignatureError(
            f"No input carries a vector or a position of {group}, so that there is nothing to "
            "compute a frame from: type one with v or p."
        )
    return found["p"], found["v"], found["a"]


def _points(group: Group, rep: Representation, x: Tensor) -> list[tuple[str, Tensor]]:
    """`x[b, *rest, s]`, s carrying `rep` → the letters in it with their `[b, n, d]`.

    Raises:
        SignatureError: the axis carries a tensor of higher rank.
    """
    known = letters(group)
    if isinstance(rep, Sum):
        pieces = x.split([part.size for part in rep.parts], -1)
        pairs = [_points(group, part, piece) for part, piece in zip(rep.parts, pieces, strict=True)]
        return [pair for inner in pairs for pair in inner]
    if isinstance(rep, TensorProduct):
        moving = [i for i, part in enumerate(rep.parts) if part.moves]
        if len(moving) > 1:
            raise SignatureError(f"{rep} is a tensor of higher rank: give it by its vectors.")
        if not moving:
            return []
        x = x.unflatten(-1, [part.size for part in rep.parts])
        at = moving[0] - len(rep.parts)
        return _points(group, rep.parts[moving[0]], x.movedim(at, -1))
    for letter in ("p", "v", "a"):
        if letter in known and rep == known[letter] and rep.size == group.dim:
            return [(letter, x.reshape(x.shape[0], x.shape[1:-1].numel(), x.shape[-1]))]
    return []


def image(inputs: Sequence[TypedInput]) -> list[Tensor]:
    """Every input with a grid, as `[b, c, h, w]`, voxels as `[b, c, d, h, w]`.

    What turns together with the grid (the vectors of a flow field) is read by its length.

    Raises:
        SignatureError: none has one.
    """
    found = []
    for kind, value in inputs:
        if not kind.grid:
            continue
        for i, axis in enumerate(kind.inner):
            if kind.axis_moves(axis):
                value = torch.linalg.vector_norm(value, dim=i + 1, keepdim=True)
        names, grid = [axis.name for axis in kind.inner], axes_of(kind.group)
        last = tuple(range(-len(grid), 0))
        if grid[0] in names:
            at = names.index(grid[0]) + 1
            x = value.movedim(tuple(range(at, at + len(grid))), last)
        else:
            at = next(i + 1 for i, axis in enumerate(kind.inner) if axis.terms == (("h", "w"),))
            side = round(value.shape[at] ** 0.5)
            x = value.movedim(at, -1).unflatten(-1, (side, side))
        found.append(x.reshape(x.shape[0], x.shape[1 : -len(grid)].numel(), *x.shape[-len(grid) :]))
    if not found:
        raise SignatureError(
            "This frame reads a grid of pixels, and no input has the axes h w: type one, or use "
            'frame="whole".'
        )
    return found
