"""Frames by name, and which one is taken where none is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import GroupError, SignatureError
from ..groups import Euclidean, Group, Orthogonal
from ..signature import Signature
from .axes import Axes
from .base import Frame
from .keys import Key
from .pca import PCA
from .whole import Haar, Whole

__all__ = ["defaults", "frame_for", "names"]

_NAMES: dict[str, Callable[..., Frame]] = {
    "whole": Whole,
    "haar": Haar,
    "key": Key,
    "axes": Axes,
    "pca": PCA,
}

# the first row that fits is taken: (name, when, its condition in words)
_DEFAULTS: tuple[tuple[str, Callable[[Group, bool], bool], str], ...] = (
    ("key", lambda group, grid: grid and group.order is not None, "finite groups on pixel grids"),
    ("whole", lambda group, grid: group.order is not None, "finite groups on anything else"),
    (
        "axes",
        lambda group, grid: not grid and isinstance(group, (Orthogonal, Euclidean)),
        "O, SO, E, SE on point clouds",
    ),
    ("haar", lambda group, grid: group.compact, "other compact groups; exact in the limit only"),
)


def names() -> tuple[str, ...]:
    """The names that `frame=` takes."""
    return tuple(_NAMES)


def defaults() -> str:
    """The table behind `frame="auto"`, as text."""
    return "\n".join(f"{name:6} {words}" for name, _, words in _DEFAULTS)


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
    grid = any(kind.grid for _, kind in signature.inputs)
    name = frame
    if frame == "auto":
        fitting = [n for n, fits, _ in _DEFAULTS if fits(signature.group, grid)]
        if not fitting:
            raise GroupError(
                f"No frame is known for {signature.group}: name one of {list(names())}."
            )
        name = fitting[0]
    if name not in _NAMES:
        raise GroupError(f"There is no frame {name!r}: the names are {', '.join(names())}.")
    try:
        return _NAMES[name](**options)
    except TypeError:
        raise SignatureError(
            f"frame={name!r} does not take {', '.join(options)}: see help(ew.frames."
            f"{_NAMES[name].__name__})."  # type: ignore[attr-defined]
        ) from None
