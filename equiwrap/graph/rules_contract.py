"""Rules for contractions of two tensors: products, sums over letters, attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .constants import run_constant
from .kinds import Axis, Kind, Untyped, free
from .rules import Call, Const, counts, join, layer, length, operation, rests
from .rules_maps import linear

__all__: list[str] = []


@operation("matmul", "bmm", "mm", "__matmul__", "__rmatmul__")
def matmul(call: Call) -> Any:
    """Σ_j a[…, i, j] b[…, j, k].

    Raises:
        Untyped: the contracted axes move differently.
    """
    a, b = call.kind(0), call.arg(1, "other")
    if isinstance(b, Const) and b.value.dim() == 2:
        call.args, call.kwargs = (a, run_constant("t", Tensor.t, (b,), {})), {}
        return linear(call)
    b = call.kind(1, "mat2" if "mat2" in call.kwargs else "other")
    if not _same_axis(a.axes[-1], b.axes[-2] if len(b.axes) > 1 else b.axes[-1]):
        raise Untyped("contracts two axes that the group moves differently")
    lead = join(call, [Kind(a.axes[:-2]), Kind(b.axes[:-2])]).axes if len(a.axes) > 2 else ()
    return Kind((*lead, a.axes[-2], b.axes[-1]))


def _same_axis(a: Axis, b: Axis) -> bool:
    return a == b or (rests(a) and rests(b) and length(a) == length(b))


@operation("einsum")
def einsum(call: Call) -> Any:
    """Letters that are summed must move alike.

    Raises:
        Untyped: the summed letters move differently.
    """
    text, operands = call.args[0], call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    left, _, right = text.replace(" ", "").partition("->")
    if "." in text or not right:
        raise Untyped("is an einsum with an ellipsis")
    axes: dict[str, Axis] = {}
    terms = list(zip(left.split(","), operands, strict=True))
    for letters, kind in terms:
        if isinstance(kind, Untyped):
            raise kind
        for letter, axis in zip(letters, kind.axes if isinstance(kind, Kind) else (), strict=False):
            if letter in axes and not _same_axis(axes[letter], axis) and length(axis) > 1:
                raise Untyped("contracts two axes that the group moves differently")
            axes[letter] = axes.get(letter, axis)
    for letters, const in terms:
        if isinstance(const, Const):
            sizes = dict(zip(letters, const.value.shape, strict=True))
            new = [letter for letter in sizes if letter not in axes]
            for letter in new:
                made = len(new) == 1 and letter in right
                axes[letter] = call.fresh(const if made else None, sizes[letter])
            call.demand(const, Kind(tuple(axes[letter] for letter in letters)))
    return Kind(tuple(axes[letter] for letter in right))


@operation("scaled_dot_product_attention")
def attention(call: Call) -> Any:
    """softmax(q kᵀ + mask) v: the tokens of q, the features of v.

    Raises:
        Untyped: keys and values move differently, or the mask is causal.
    """
    k, v = call.kind(1, "key"), call.kind(2, "value")
    q = _asking(call, k, 0)
    if not _same_axis(k.axes[-2], v.axes[-2]) or not _same_axis(q.axes[-1], k.axes[-1]):
        raise Untyped("attends over axes that the group moves differently")
    if call.arg(5, "is_causal", False):
        raise Untyped("masks causally, in an order that the group changes")
    lead = join(call, [Kind(q.axes[:-2]), Kind(k.axes[:-2])]).axes
    mask = call.arg(3, "attn_mask")
    if isinstance(mask, (Kind, Const, Untyped)):
        join(call, [Kind((*lead, q.axes[-2], k.axes[-2])), mask])
    return Kind((*lead, q.axes[-2], v.axes[-1]))


@layer(nn.MultiheadAttention)
def attention_layer(call: Call) -> Any:
    """Tokens on axis 1 (0 if not batch first), features rest; the weights are not followed.

    Raises:
        Untyped: features move, or there is an attention mask.
    """
    k = call.kind(1, "key")
    q = _asking(call, k, 0 if call.module is not None and call.module.batch_first else 1)
    if not rests(q.axes[-1]) or not rests(k.axes[-1]):
        raise Untyped("attends over features that the group moves")
    if isinstance(call.arg(5, "attn_mask"), (Kind, Const)):
        raise Untyped("has an attention mask that is not followed")
    return q, Untyped("attention weights are not followed")


def _asking(call: Call, key: Kind, samples: int) -> Kind:
    """The queries; parameters are the same ones for every sample, along this axis of the keys."""
    query = call.arg(0, "query")
    if not isinstance(query, Const):
        return call.kind(0, "query")
    axes = [free(n) for n in query.value.shape]
    if len(axes) == len(key.axes) > 2:
        axes[samples] = key.axes[samples]
    return Kind(tuple(axes))


@layer(nn.RNNBase)
def recurrent_layer(call: Call) -> Any:
    """In the order of the steps, on features that rest; the weights are not followed.

    Raises:
        Untyped: steps or features move.
    """
    kind = call.kind()
    if kind.moves:
        raise Untyped("runs along an axis that the group moves, or on features that it moves")
    batch = next((axis for axis in kind.axes if counts(axis)), free(1))
    out, states = call.shape
    state = Kind((*[free(n) for n in (states if isinstance(states[0], int) else states[0])],))
    state = Kind((*state.axes[:-2], batch, state.axes[-1])) if len(kind.axes) == 3 else state
    return Kind((*kind.axes[:-1], free(out[-1]))), (
        state if isinstance(states[0], int) else (state, state)
    )
