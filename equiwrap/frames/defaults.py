"""Frames by name, and which one is taken where none is named."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..errors import GroupError, SignatureError, article
from ..groups import (
    Euclidean,
    Group,
    Linear,
    Lorentz,
    Orthogonal,
    Permutations,
    Product,
    Scale,
    Shifts,
    Unitary,
)
from ..signature import Signature, TensorType
from .base import Frame
from .whole import check_compact

__all__ = ["defaults", "frame_for", "names"]

Inputs = tuple[TensorType, ...]

_NAMES = {  # name → class in this package, imported when it is asked for
    "whole": "Whole",
    "haar": "Haar",
    "key": "Key",
    "shift": "Shift",
    "axes": "Axes",
    "pca": "PCA",
    "linear": "Whitened",
    "lorentz": "Rest",
    "unitary": "ComplexAxes",
    "size": "Size",
    "sorted": "Sorted",
    "labelled": "Labelled",
    "confidence": "Confidence",
    "weighted": "Weighted",
    "separated": "Separated",
    "joint": "Joint",
    "partial": "Partial",
}

# the first row that fits is taken: (name, when, its condition in words)
_DEFAULTS: tuple[tuple[str, Callable[[Group, Inputs], bool], str], ...] = (
    ("shift", lambda group, types: isinstance(group, Shifts), "T(2) on periodic grids"),
    (
        "key",
        lambda group, types: _on_grid(types) and group.order is not None,
        "finite groups on pixel and voxel grids",
    ),
    (
        "labelled",
        lambda group, types: (
            isinstance(group, Permutations) and any(len(t.rows) > 1 for t in types)
        ),
        "S(n) on graphs, inputs with two axes n",
    ),
    ("sorted", lambda group, types: isinstance(group, Permutations), "S(n) on sets"),
    ("whole", lambda group, types: group.order is not None, "finite groups on anything else"),
    (
        "axes",
        lambda group, types: not _on_grid(types) and isinstance(group, (Orthogonal, Euclidean)),
        "O, SO, E, SE on point clouds",
    ),
    ("linear", lambda group, types: isinstance(group, Linear), "GL, SL, Aff on point clouds"),
    ("lorentz", lambda group, types: isinstance(group, Lorentz), "Lorentz groups on vectors"),
    ("unitary", lambda group, types: isinstance(group, Unitary), "U, SU on complex clouds"),
    ("size", lambda group, types: isinstance(group, Scale), "R+ on anything with a unit"),
    (
        "joint",
        lambda group, types: isinstance(group, Product) and not _on_grid(types),
        "products: a frame for each factor, S(n) last",
    ),
    ("haar", lambda group, types: group.compact, "other compact groups; exact in the limit only"),
)


def _on_grid(types: Inputs) -> bool:
    return any(kind.grid for kind in types)


def names() -> tuple[str, ...]:
    """The names that `frame=` takes."""
    return tuple(_NAMES)


def defaults() -> str:
    """The table behind `frame="auto"`, as text."""
    return "\n".join(f"{name:10} {words}" for name, _, words in _DEFAULTS)


def frame_for(frame: str | Frame, signature: Signature, **options: Any) -> Frame:
    """A name (or "auto") and its options, or a frame as it is → a frame.

    Raises:
        GroupError: there is no such frame, or none for this group.
        SignatureError: options were given beside a frame object, or do not fit the frame.
    """
    if isinstance(frame, Frame):
        if options:
            raise SignatureError(
                f"{', '.join(options)} came beside a frame object: give options to the object "
                f"itself, as in ew.frames.{type(frame).__name__}({next(iter(options))}=…)."
            )
        return frame
    types = tuple(kind for _, kind in signature.inputs)
    if not isinstance(frame, str):
        raise GroupError(
            f"A frame is a name ({', '.join(names())}) or a value of ew.frames, and "
            f"{article(frame)} was given."
        )
    name = _default(signature.group, types) if frame == "auto" else frame
    if name == "weighted" and isinstance(signature.group, Permutations):
        name = "separated"  # the weighted frame of S(n)
    if name not in _NAMES:
        raise GroupError(f"There is no frame {name!r}: the names are {', '.join(names())}.")
    if name == "haar":
        check_compact(signature.group)
    try:
        if name == "joint":
            return _joint(signature.group, types, options)
        return _class(name)(**options)
    except TypeError:
        raise SignatureError(
            f"frame={name!r} does not take {', '.join(options)}: see help(ew.frames."
            f"{_NAMES[name]})."
        ) from None


def _class(name: str) -> Callable[..., Frame]:
    found: Callable[..., Frame] = getattr(import_module(__package__ or ""), _NAMES[name])
    return found


def _default(group: Group, types: Inputs) -> str:
    """The name of the frame that `"auto"` stands for.

    Raises:
        GroupError: there is none.
    """
    for name, fits, _ in _DEFAULTS:
        if fits(group, types):
            return name
    raise GroupError(f"No frame is known for {group}: name one of {list(names())}.")


def _joint(group: Group, types: Inputs, options: dict[str, Any]) -> Frame:
    """A frame for each factor but S(n); options other than those of every frame go to the parts.

    Raises:
        GroupError: the group is no product.
    """
    if not isinstance(group, Product):
        raise GroupError(f'frame="joint" is for products such as S(n) x O(3), not for {group}.')
    common = {
        k: v
        for k, v in options.items()
        if k in ("stochastic", "chunk", "detach_frame", "generator")
    }
    own = {k: v for k, v in options.items() if k not in common}
    parts = [
        _class(_default(f, tuple(TensorType(t.pattern, f) for t in types)))(**own)
        for f in group.factors
        if not isinstance(f, Permutations)
    ]
    return _class("joint")(*parts, **common)
