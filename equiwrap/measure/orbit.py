"""Orbit accuracy: how a classifier does on every turned copy of a test set, and what that means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..groups import Group, parse_group
from ..signature import TensorType

__all__ = ["OrbitAccuracy", "orbit_accuracy"]

DROP = 0.1  # a loss of so much on turned inputs means that the model has not learned them


@dataclass(frozen=True)
class OrbitAccuracy:
    """`accuracies[i]` on inputs moved by element i, the identity first; prints with the advice."""

    group: str
    accuracies: tuple[float, ...]

    @property
    def upright(self) -> float:
        """Accuracy on the inputs as they come."""
        return self.accuracies[0]

    @property
    def mean(self) -> float:
        """Accuracy over the whole orbit."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def ruined(self) -> bool:
        """True where an average would show the model inputs that it has not learned."""
        return self.upright - self.mean > DROP

    def __str__(self) -> str:
        each = "/".join(f"{100 * a:.1f}" for a in self.accuracies)
        if not self.ruined:
            return f"Orbit accuracy under {self.group} {each} %: averaging shows it nothing new."
        return (
            f"Orbit accuracy under {self.group} {each} %: this model has not learned moved inputs, "
            "and averaging it as it is would ruin it. Fit an upright prior (calibrate=images, "
            "unlabelled), or train the wrapped model."
        )


def orbit_accuracy(
    model: Any,
    group: str | Group,
    inputs: Tensor,
    labels: Tensor,
    *,
    signature: str = "b c h w",
    batch: int = 256,
) -> OrbitAccuracy:
    """*acc(g) = mean over x of [argmax f(g x) = label]*, for every element of a finite group.

    `inputs[n, …]` of the type `signature`, `labels[n]`; the model gives `logits[b, k]`. Put the
    model in eval mode first. Costs |G| passes over the data.

    Raises:
        GroupError: the group is infinite.
        SignatureError: the inputs do not fit the signature.
    """
    group = parse_group(group)
    kind = TensorType.parse(signature, group)
    front = kind.to_front(kind.check(inputs, "the input"))
    found = []
    with torch.no_grad():
        for g in group.elements(inputs.device):
            right = 0
            for start in range(0, len(front), batch):
                part = front[start : start + batch]
                logits = model(kind.from_front(kind.act(g.unsqueeze(0), part, 1)))
                right += int((logits.argmax(-1) == labels[start : start + batch]).sum())
            found.append(right / max(len(front), 1))
    return OrbitAccuracy(str(group), tuple(found))
