"""Facts that show only while a plan runs: what a helper or a child returned, how many were found.

`expect(value, …)` is a node of a graph. Where the value is of another kind than on the example, or
another constant, it raises `Changed`, and the container's own forward runs instead. It is only
recorded where nothing was changed before it, so that beginning anew is the same call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from .nested import plain

__all__ = ["Changed", "attempted", "constants_in", "counted", "counts", "expect", "shown"]

_COUNTS = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"}
_COUNTS |= {"repeat_interleave", "where", "getitem"}


class Changed(Exception):
    """A plan does not hold for this call after all."""


def expect(value: Any, *form: Any) -> None:
    """Nothing, where the value has the form that it had on the example.

    Raises:
        Changed: it has another.
    """
    held = value == form[1] if form[0] == "equals" else shown(value) == form
    if not held:
        raise Changed


def attempted(run: Callable[[], Any], otherwise: Callable[[], Any], args: list[Any]) -> Any:
    """`run()`, or `otherwise()` with the random states of before."""
    if torch.compiler.is_compiling():
        return run()
    devices = {leaf.device for leaf in args if isinstance(leaf, Tensor) and leaf.is_cuda}
    states = [(device, torch.cuda.get_rng_state(device)) for device in devices]
    state = torch.get_rng_state()
    try:
        return run()
    except Changed:
        torch.set_rng_state(state)
        for device, there in states:
            torch.cuda.set_rng_state(there, device)
        return otherwise()


def shown(value: Any) -> tuple[Any, ...]:
    """The form of a value: its nesting, where tensors and numbers are, and all constants."""
    kind = type(value).__name__
    if isinstance(value, Tensor):
        return ("Tensor",)
    if type(value) in (tuple, list):
        return (kind, *map(shown, value))
    if type(value) is dict:
        return (kind, *((str(key), shown(part)) for key, part in value.items()))
    if type(value) in (int, float):
        return (kind,)
    return (kind, *_fields(value))


def _fields(value: Any) -> tuple[Any, ...]:
    """A constant; the entries or the attributes of an object, numbers among them."""
    if plain(value):
        return (value,)
    own = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    parts = [(str(k), v if plain(v) else shown(v)) for k, v in own.items()]
    return tuple(parts)


def constants_in(value: Any) -> bool:
    """True where a value holds a constant (None, a flag, a text)."""
    if isinstance(value, dict):
        return any(map(constants_in, value.values()))
    if isinstance(value, (tuple, list)):
        return any(map(constants_in, value))
    return not isinstance(value, Tensor) and type(value) not in (int, float)


def counted(node: fx.Node, examples: dict[fx.Node, Any], loose: set[fx.Node]) -> bool:
    """True where the sizes of a node may depend on data: it comes from a count, or from `loose`."""
    seen, stack = {node}, [node]
    while stack:
        here = stack.pop()
        if here in loose or counts(here, examples):
            return True
        for before in here.all_input_nodes:
            if before not in seen:
                seen.add(before)
                stack.append(before)
    return False


def counts(node: fx.Node, examples: dict[fx.Node, Any]) -> bool:
    """True for an operation whose result has as many entries as data decide."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op not in ("call_function", "call_method") or name not in _COUNTS:
        return False
    if name == "where":
        return len(node.args) == 1
    return name != "getitem" or any(_is_mask(examples.get(n)) for n in node.all_input_nodes[1:])


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)
