"""The inputs of an audit: a tensor, several, or a loader, with targets if it has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SignatureError

__all__ = ["Examples", "read_examples"]

LIMIT = 256  # inputs that are kept of a loader


@dataclass(frozen=True)
class Examples:
    """Batches of inputs, and their targets where there are any."""

    batches: tuple[tuple[Any, ...], ...]
    targets: tuple[Any, ...]

    @property
    def first(self) -> tuple[Any, ...]:
        """The first batch."""
        return self.batches[0]

    @property
    def pairs(self) -> list[tuple[Any, ...]]:
        """Batches with their targets, as `measure.data_error` reads them."""
        return [(*x, y) for x, y in zip(self.batches, self.targets, strict=True)]

    def joined(self) -> tuple[Any, ...]:
        """All batches as one, where they fit; else the first."""
        try:
            return tuple(
                torch.cat([b[i] for b in self.batches]) if isinstance(x, Tensor) else x
                for i, x in enumerate(self.first)
            )
        except (RuntimeError, TypeError):
            return self.first

    def few(self, count: int) -> tuple[Any, ...]:
        """The first `count` inputs of the first batch."""
        sizes = [x.shape[0] for x in self.first if isinstance(x, Tensor) and x.dim()]
        return tuple(
            x[:count] if isinstance(x, Tensor) and x.dim() and x.shape[0] == sizes[0] else x
            for x in self.first
        )

    def __str__(self) -> str:
        x = next((x for x in self.first if isinstance(x, Tensor)), None)
        if x is None:
            return f"{len(self.batches)} batches"
        total = sum(b[0].shape[0] for b in self.batches if isinstance(b[0], Tensor))
        return f"{total} of shape {'×'.join(map(str, x.shape[1:]))}, {str(x.dtype)[6:]}"


def read_examples(given: Any, targets: Any) -> Examples:
    """A tensor, a tuple of inputs, or an iterable of batches (x, or x with y last).

    `targets` are a tensor that belongs to the one batch, True for a loader whose batches end in
    theirs, or None.

    Raises:
        SignatureError: there is no input, or no target where one was announced.
    """
    if isinstance(given, Tensor):
        given = (given,)
    if isinstance(given, tuple) and all(isinstance(x, Tensor) for x in given) and given:
        labels = (targets,) if isinstance(targets, Tensor) else ()
        return Examples((tuple(given),), labels) if targets is not True else _paired([given], True)
    if not isinstance(given, Iterable):
        raise SignatureError(
            f"An audit runs on inputs, and a {type(given).__name__} was given: a tensor, a tuple "
            "of tensors, or a loader of batches."
        )
    return _paired(given, targets is True)


def _paired(given: Iterable[Any], paired: bool) -> Examples:
    batches: list[tuple[Any, ...]] = []
    labels: list[Any] = []
    count = 0
    for batch in given:
        parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if paired and len(parts) < 2:
            raise SignatureError("targets=True says that batches end in their targets: none does.")
        *inputs, last = parts
        loose = len(parts) == 2 and not paired and _label(last)
        batches.append(tuple(inputs) if paired or loose else parts)
        labels.append(last)
        count += parts[0].shape[0] if isinstance(parts[0], Tensor) else 1
        if count >= LIMIT:
            break
    if not batches:
        raise SignatureError("The loader is empty: an audit needs one batch of inputs at least.")
    return Examples(tuple(batches), tuple(labels) if paired else ())


def _label(last: Any) -> bool:
    """A loader's (x, label) without targets=True: integers, one an input, are no input."""
    return isinstance(last, Tensor) and last.dim() == 1 and not last.is_floating_point()
