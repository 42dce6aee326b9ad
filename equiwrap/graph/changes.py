"""What a forward may change besides tensors: attributes of its module, random states."""

from __future__ import annotations

import random
import sys
from typing import Any

from torch import nn

from .nested import plain

__all__ = ["attributes_now", "draws_now", "versions_now"]


def draws_now() -> Any:
    """The states of Python's and numpy's generators, which a graph does not draw from."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return random.getstate(), None
    state = numpy.random.get_state()
    return random.getstate(), (state[1].tobytes(), *state[2:])


def versions_now(module: nn.Module) -> list[Any]:
    """Which parameters and buffers there are, and how often each was written."""
    held = [*module.parameters(), *module.buffers()]
    return [(id(v), None if v.is_inference() else v._version) for v in held]


def attributes_now(module: nn.Module) -> dict[str, Any]:
    """What a forward may rebind or let grow, by identity and by length."""
    found: dict[str, Any] = {}
    for name, value in module.__dict__.items():
        if name in ("_parameters", "_buffers", "_modules"):
            found |= {f"{name}.{key}": id(part) for key, part in value.items()}
        else:
            size = len(value) if isinstance(value, (list, dict, set)) else None
            found[name] = (value if plain(value) else id(value), size)
    return found
