"""The inputs of an audit: a tensor, several, or a loader, with targets if it has them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import EquiwrapError, SignatureError, article
from ..signature import Signature

__all__ = ["Examples", "read_examples"]

LIMIT = 256  # inputs that are kept of a loader


@dataclass(frozen=True)
class Examples:
    """Batches of inputs, and their targets where there are any."""

    batches: tuple[tuple[Any, ...], ...]
    targets: tuple[Any, ...]
    axes: tuple[int, ...] = ()  # where the batch is; in front where nothing is said

    def along(self, signature: Any, group: Any) -> Examples:
        """The same with the batch where the signature has its b."""
        with suppress(EquiwrapError):  # said later, in the place of the signature
            if isinstance(signature, str) and group != "auto":
                signature = Signature.parse(signature, group)
            if isinstance(signature, Signature):
                return replace(self, axes=tuple(kind.batch or 0 for _, kind in signature.inputs))
        return self

    def _axis(self, i: int) -> int:
        return self.axes[i] if i < len(self.axes) else 0

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
                torch.cat([b[i] for b in self.batches], self._axis(i))
                if isinstance(x, Tensor)
                else x
                for i, x in enumerate(self.first)
            )
        except (RuntimeError, TypeError):
            return self.first

    def few(self, count: int) -> tuple[Any, ...]:
        """The first `count` inputs of the first batch."""
        found: list[Any] = []
        size: int | None = None
        for i, x in enumerate(self.first):
            at = self._axis(i)
            if isinstance(x, Tensor) and x.dim() > at:
                size = x.shape[at] if size is None else size
                x = x.narrow(at, 0, min(count, size)) if x.shape[at] == size else x
            found.append(x)
        return tuple(found)

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
            f"An audit runs on inputs, and {article(given)} was given: a tensor, a tuple "
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
        if not parts:
            raise SignatureError("A batch of the example is empty: each holds an input at least.")
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
