"""Types through a network: from the signature's inputs along the recorded graphs, node by node.

    propagate(model, signature, inputs) → Typing

Every node gets a `Kind` or the reason why it has none; every operation that breaks the symmetry
whatever its weights are is named with its fix; every weight that can be projected is named with
how. The rules propose; `snap` decides.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..groups import Group
from ..signature import Signature
from .captured import record
from .hidden import Hidden
from .kinds import Kind, Untyped
from .regroup import whole_grid
from .sites import Site, Typing, generators
from .twin import fresh, twin_of, warmed
from .walker import Walker

__all__ = ["Site", "Typing", "generators", "propagate"]

WALKS = 30


def propagate(
    model: nn.Module,
    signature: Signature,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    hidden: Hidden | str = "trivial",
) -> Typing:
    """The type of every node of a model on this example.

    `hidden`: "trivial" lets channels rest; "regular" tries copies of the regular representation
    (`hidden.py`), and walks again until no layer is in the way of them.

    Raises:
        CaptureError: the model does not run on the example.
    """
    walk = record(model, inputs, kwargs)
    with torch.no_grad():
        warm = warmed(twin_of(model, False), fresh(inputs), fresh(kwargs))
    group = _bound(signature, inputs)
    given = hidden if isinstance(hidden, Hidden) else Hidden(group, hidden)
    for _ in range(WALKS):
        found = Typing(group, signature, walk, given)
        _typed(model, found, warm, inputs, kwargs)
        if not given.settle():
            break
    return found


def _typed(
    model: nn.Module, found: Typing, warm: nn.Module, inputs: tuple[Any, ...], kwargs: Any
) -> None:
    """One walk; outputs that the signature moves otherwise are claimed."""
    signature = found.signature
    values = [_input(kind, x) for (_, kind), x in zip(signature.inputs, inputs, strict=False)]
    values += [_unknown(x) for x in inputs[len(values) :]]
    named = {name: _unknown(x) for name, x in kwargs.items()}
    with torch.no_grad():
        out = Walker(model, found, warm).container("", tuple(values), named)
    found.output = tree_map(_finished, out, is_leaf=lambda part: isinstance(part, Kind))
    leaves = tree_leaves(found.output, is_leaf=lambda part: isinstance(part, (Kind, Untyped)))
    for leaf, (_, kind) in zip(leaves, signature.outputs, strict=False):
        with contextlib.suppress(Untyped, IndexError):  # other axes: `lay_out` says so
            if isinstance(leaf, Kind) and not kind.untouched and signature.form != "infer":
                found.hidden.claim(leaf, Kind.of(kind, leaf.shape))


def _bound(signature: Signature, inputs: tuple[Any, ...]) -> Group:
    """The group for inputs of these sizes: S(n) takes its n from them."""
    sizes: dict[str, int] = {}
    for (_, kind), x in zip(signature.inputs, inputs, strict=False):
        if isinstance(x, Tensor) and not kind.untouched:
            sizes |= kind.sizes(kind.to_front(x))
    return signature.group.at(sizes)


def _input(kind: Any, x: Any) -> Any:
    if not isinstance(x, Tensor) or kind.untouched:
        return _unknown(x)
    try:
        return Kind.of(kind, x.shape)
    except Untyped as why:
        return why


def _finished(kind: Any) -> Any:
    """An output with all its pixels."""
    try:
        return whole_grid(kind) if isinstance(kind, Kind) else kind
    except Untyped as why:
        return why


def _unknown(x: Any) -> Any:
    return Untyped("is an input without a type") if isinstance(x, Tensor) else x
