"""The wrapped model itself chooses: the orientation in which it is surest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GroupError, SignatureError
from ..groups import Group
from ..signature import TensorType
from .base import Frame, GroupMeasure, TypedInput
from .keys import check_ties, choose

__all__ = ["Confidence"]


class Confidence(Frame):
    """*μ_x uniform on {g : m(f(g⁻¹x)) is largest}, m the margin of the best logit over the next.*

    `x[b, …] → elements[b, 1, m, m]` for finite groups and a model whose first output is
    `logits[b, k]`, k ≥ 2, of its first input alone. Margins of logits do not saturate as
    probabilities do, so that ties are rare. Costs |G| calls more than one.

    Exact, like every energy. Not accurate: a classifier is often surest about orientations that it
    has never met; the upright prior (`calibrate=`) is what a frozen model needs.
    Degenerate: ties are averaged over. Error: 0 off ties for lattice groups.
    """

    def __init__(self, *, ties: str = "average", **options: Any) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.ties = ties
        self.__dict__["ask"] = None

    def bind(self, forward: Callable[..., Any]) -> None:
        """Take the forward that is asked; it is not registered, so that no key moves."""
        self.__dict__["ask"] = forward

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ask": None}

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return {"kind": inputs[0].type, "x": inputs[0].value}

    def forward(self, group: Group, kind: TensorType, x: Tensor) -> GroupMeasure:
        """`x[b, …]` in front order `→ elements[b, 1 or |G|, m, m]`.

        Raises:
            GroupError: the group is infinite, or the frame is not bound to a model.
            SignatureError: the model does not answer with logits.
        """
        if group.order is None or self.__dict__["ask"] is None:
            raise GroupError(
                f'frame="confidence" asks the wrapped model about every element, and {group} is '
                "infinite or no model is wrapped: name a finite group, or bind(forward) first."
            )
        elements = group.elements(x.device)
        with torch.no_grad():
            back = group.inverse(elements).unsqueeze(0)
            orbit = kind.act(back, x.unsqueeze(1), 2).flatten(0, 1)
            y = self.__dict__["ask"](kind.from_front(orbit))
            logits = y[0] if isinstance(y, (tuple, list)) else y
            if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
                raise SignatureError(
                    'frame="confidence" reads logits [b, k] with k ≥ 2 off the model, and found '
                    f"{getattr(logits, 'shape', type(logits).__name__)}: use another frame."
                )
            top = logits.double().topk(2, -1).values
            score = (top[:, 0] - top[:, 1]).reshape(len(x), group.order)
            size = logits.double().abs().amax(-1).reshape(score.shape).amax(-1)
            scale = torch.finfo(logits.dtype).eps ** 0.5 * size
        return choose(elements, score, scale, self.ties)

    def calls(self, group: Group) -> int:
        return (group.order or 0) + 1

    def describe(self, group: Group) -> str:
        return f"confidence: {group.order} calls to choose, one to answer; exact, seldom right"
