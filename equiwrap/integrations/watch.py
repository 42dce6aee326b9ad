"""What is measured on held-out data while a model trains, without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SignatureError
from ..graph.twin import held_random
from ..groups import Group, parse_group
from ..measure import ErrorEstimate
from ..measure.data import DataError, data_error
from ..measure.error import defects
from ..signature import Signature
from .ranks import digest, joiner

__all__ = ["Watch", "quiet"]


@contextmanager
def quiet(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, without gradients; flags and random states come back as they were."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with held_random(), torch.no_grad():
            model.eval()
            yield model
    finally:
        for module, mode in modes:
            module.training = mode


class Watch:
    """*The error and α* of one model on `holdout`*: a tensor, a tuple (inputs…, target), a loader.

    The error is that of the first batch, α* of all of them. What comes behind as many tensors as
    the signature has inputs is the target. Processes with different batches are pooled; processes
    with the same batch count once.
    """

    def __init__(
        self,
        model: nn.Module,
        group: str | Group | None,
        signature: str | Signature | None,
        holdout: Any,
    ) -> None:
        handle = getattr(model, "equiwrap", None)
        self.model, self.holdout = model, holdout
        self.group = group if group is not None or handle is None else handle.signature.group
        own = signature or getattr(handle, "signature", None)
        if (
            own is not None
            and group is not None
            and str(parse_group(group)) != str(getattr(own, "group", ""))
        ):
            own = str(own)  # another group than the model's: the same patterns under it
        if isinstance(own, str):
            own = Signature.parse(own, self.group or "C4")
        self.signature: Signature | None = own
        self.labelled: bool | None = None  # known once a batch was seen

    # -- the data ---------------------------------------------------------------------------------

    def first(self) -> tuple[tuple[Any, ...], Any]:
        """(inputs, target or None) of the first batch, on the device of the model.

        Raises:
            SignatureError: the loader is empty, or its batches cannot be read.
        """
        with held_random():  # a loader draws its seed
            for batch in self._batches():
                return self._split(batch)
        raise SignatureError("holdout= is a loader without batches: give one that has some.")

    def _batches(self) -> Any:
        one = isinstance(self.holdout, Tensor) or (
            isinstance(self.holdout, (tuple, list))
            and any(isinstance(part, Tensor) for part in self.holdout)
        )
        return [self.holdout] if one else self.holdout

    def _split(self, batch: Any) -> tuple[tuple[Any, ...], Any]:
        count = len(self.signature.inputs) if self.signature is not None else 1
        row = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if row and isinstance(row[0], (tuple, list)):
            row = (*row[0], *row[1:])
        wrong = isinstance(batch, Mapping) or not row or not isinstance(row[0], Tensor)
        if wrong or len(row) > count + 1:
            raise SignatureError(
                f"holdout= gives inputs, or inputs and then a target, and a batch of it is a "
                f"{type(batch).__name__} of {len(batch) if hasattr(batch, '__len__') else 1}, "
                f"where the model has {count} input(s): give a tensor, a tuple (x, y), or a loader "
                "of such tuples."
            )
        if row[0].dim() and not len(row[0]):
            raise SignatureError("holdout= has an empty batch in front: give inputs to measure on.")
        like = next((p for p in self.model.parameters() if p.is_floating_point()), row[0])
        moved = [_like(x, like) for x in row]
        self.labelled = len(row) == count + 1
        return tuple(moved[:count]), moved[count] if self.labelled else None

    # -- the numbers ------------------------------------------------------------------------------

    def error(self) -> ErrorEstimate:
        """The relative error as the model is now, in eval mode."""
        inputs, _ = self.first()
        with quiet(self.model):
            found = defects(self.model, self.group, *inputs, signature=self.signature)
        join = joiner(digest(inputs))
        square, norm, worst = join(found.square), join(found.norm), join(found.worst)
        return replace(found, square=square, norm=norm, worst=worst).estimate()

    def data(self) -> DataError | None:
        """α* and what goes with it, None where the holdout has no targets."""
        inputs, target = self.first()
        if target is None:
            return None
        with quiet(self.model):
            return data_error(
                self.model,
                self.group,
                ((*x, y) for x, y in map(self._split, self._batches())),
                signature=self.signature,
                join=joiner(digest(inputs)),
            )


def _like(x: Any, like: Tensor) -> Any:
    """On the device of the model, and in its dtype where both are real."""
    if not isinstance(x, Tensor):
        return x
    real = x.is_floating_point() and like.is_floating_point()
    return x.to(like.device, like.dtype if real else x.dtype)
