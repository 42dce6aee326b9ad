"""What is penalised: a tensor of the model by its path, with its projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from ..errors import CaptureError
from ..reynolds import Projector

__all__ = ["Strength", "Target", "checked", "inner", "live", "read", "strength_at", "targets_of"]

Strength = float | Mapping[str, float]  # one number, or one for each path

_INSIDE = {  # torch's classes around a model, and where they keep it
    "AveragedModel": "module",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


@dataclass(frozen=True)
class Target:
    """*R = W − PW* of the tensor at `path`: a parameter, or a buffer that training estimates.

    `scale_free`: a normalisation follows, so that only |R|/|W| means anything.
    """

    path: str
    projector: Projector
    shape: tuple[int, ...]
    scale_free: bool = False

    @property
    def share(self) -> float:
        """*dim im P / dim*: the part of the energy of a random weight that is equivariant."""
        return self.projector.rank / prod(self.shape)


def inner(model: Any) -> Any:
    """The model inside DDP, torch.compile, an average of weights; itself where nothing is around.

    Raises:
        CaptureError: FSDP of the first generation is around it.
    """
    around = [cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("torch.")]
    if "FullyShardedDataParallel" in around:
        raise CaptureError(
            "The model is inside FullyShardedDataParallel, which keeps weights as flat pieces "
            "without their shape: shard it by torch.distributed.fsdp.fully_shard(model) instead."
        )
    name = next((_INSIDE[cls] for cls in around if cls in _INSIDE), None)
    return model if name is None else inner(getattr(model, name))


def read(model: nn.Module, path: str) -> Tensor:
    """The parameter or buffer at a path."""
    parent, _, name = path.rpartition(".")
    return getattr(model.get_submodule(parent) if parent else model, name)


def live(model: nn.Module, targets: Sequence[Target]) -> list[tuple[Target, Tensor]]:
    """(target, tensor) as the model holds them now; a shared tensor once, under its first path.

    Raises:
        CaptureError: a tensor has another shape than it was typed with.
    """
    found: dict[int, tuple[Target, Tensor]] = {}
    model = inner(model)
    for target in targets:
        tensor = read(model, target.path)
        if tensor.shape != target.shape:
            raise CaptureError(
                f"{target.path} was typed with the shape {list(target.shape)} and has "
                f"{list(tensor.shape)} now: equivariantize again after changing a layer."
            )
        found.setdefault(id(tensor), (target, tensor))
    return list(found.values())


def targets_of(model: Any) -> Sequence[Target]:
    """The targets of `equivariantize(..., method="penalize")`, in DDP or compiled too.

    Raises:
        AttributeError: the model is not equivariantized, or not by a method with targets.
    """
    model = inner(model)
    found = getattr(getattr(type(model), "equiwrap", None), "targets", None)
    if found is None:
        raise AttributeError(
            f"{type(model).__name__} has no targets to penalise: make it one with "
            'ew.equivariantize(model, group, method="penalize"), or pass targets=.'
        )
    return found


def strength_at(strength: Strength, path: str) -> float:
    """λ of one target; a path that a mapping leaves out has 0."""
    return strength if isinstance(strength, (int, float)) else strength.get(path, 0.0)


def checked(strength: Strength, name: str = "strength") -> Strength:
    """The strength itself.

    Raises:
        ValueError: a negative or undefined number.
    """
    numbers = strength.values() if isinstance(strength, Mapping) else [strength]
    if wrong := [n for n in numbers if not (isinstance(n, (int, float)) and n >= 0)]:
        raise ValueError(
            f"{name}={wrong[0]!r} was asked for, and a strength is a number, at least 0: "
            "a negative one would drive the weights away from the symmetry."
        )
    return strength
