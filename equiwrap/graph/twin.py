"""Copies to experiment on: of a model, of inputs, of every random state."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..signature.hooks import drop_hooks

__all__ = ["fresh", "held_random", "twin_of", "warmed"]


def twin_of(model: nn.Module, training: bool | None = None) -> nn.Module:
    """A deep copy without the user's hooks, in the given mode (None: as it is).

    A model that is in train mode keeps the flags of its parts (frozen normalisation, …).
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in _held(module.__dict__, 3):  # weight_norm's results, caches of tables
            if not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    twin = copy.deepcopy(model, memo)
    drop_hooks(twin)
    if training is not None and (training != twin.training or not training):
        twin.train(training)
    return twin


def _held(value: Any, depth: int) -> Iterator[Tensor]:
    """Tensors in attributes, and in the dicts and lists among them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)) and depth:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _held(part, depth - 1)


def fresh(inputs: Any) -> Any:
    """Inputs that a forward may write on: tensors cloned, equal objects staying equal."""
    seen: dict[int, Any] = {}

    def clone(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return _copied(leaf)
        if id(leaf) not in seen:
            seen[id(leaf)] = leaf.detach().clone().requires_grad_(leaf.requires_grad)
        return seen[id(leaf)]

    return tree_map(clone, inputs)


def _copied(leaf: Any) -> Any:
    try:
        return copy.deepcopy(leaf)
    except Exception:
        return leaf


def warmed(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """The model after one forward, where modules hold empty dicts: caches that it fills."""
    caches = (v for m in model.modules() for k, v in vars(m).items() if k[0] != "_")
    if any(isinstance(value, dict) and not value for value in caches):
        with torch.no_grad(), held_random(), contextlib.suppress(Exception):
            model(*inputs, **kwargs)
    return model


@contextmanager
def held_random() -> Iterator[None]:
    """Python's, numpy's and torch's random states come back as they were."""
    numpy = sys.modules.get("numpy")
    before = random.getstate(), numpy.random.get_state() if numpy else None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(before[0])
            if numpy:
                numpy.random.set_state(before[1])


def seed_all(seed: int) -> None:
    """One seed for every generator."""
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
