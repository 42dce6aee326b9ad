"""Rules for what computes: pointwise maps, normalisation, contractions, attention, reductions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .constants import constant, run_constant
from .kinds import Atom, Axis, Kind, Untyped, free
from .regroup import whole_grid
from .rules import (
    Call,
    Const,
    counts,
    dims_of,
    fitted,
    idle,
    join,
    layer,
    length,
    operation,
    rests,
    vectors,
)

__all__: list[str] = []

_UNARY = """relu relu_ gelu silu silu_ mish sigmoid tanh elu elu_ selu celu leaky_relu leaky_relu_
hardswish hardswish_ hardsigmoid hardsigmoid_ hardtanh hardtanh_ relu6 softplus exp log log1p sqrt
rsqrt square abs neg reciprocal clone contiguous detach dropout dropout1d dropout2d dropout3d
alpha_dropout float double half bfloat16 to type type_as sin cos erf sign floor ceil round clamp
clamp_ clamp_min nan_to_num logsigmoid softsign expm1 requires_grad_ cuda cpu softshrink hardshrink
tanhshrink sigmoid_ tanh_ mish_ softmax log_softmax normalize native_dropout feature_dropout"""
_BINARY = """add add_ sub sub_ mul mul_ div div_ true_divide pow maximum minimum where lerp addcmul
__radd__ __rsub__ __rmul__ __rtruediv__ __rdiv__ rsub atan2 fmod remainder eq ne lt le gt ge
masked_fill masked_fill_ logical_and logical_or logical_not bitwise_and bitwise_or prelu __and__
__or__ floor_divide multiply subtract divide"""


_LINEAR = """neg clone contiguous detach dropout float double half bfloat16 to type type_as
requires_grad_ cuda cpu Identity Dropout"""
_PRODUCTS = ("mul", "rmul", "multiply", "div", "divide", "true_divide", "addcmul")


@operation(*_UNARY.split())
def pointwise(call: Call) -> Any:
    """σ(x), entry by entry (softmax and normalisation along whole axes are alike).

    Raises:
        Untyped: σ is not linear, and the entries are components of vectors.
    """
    kind = call.kind()
    if vectors(kind) and call.name in ("square", "abs", "pow"):
        call.loose = True  # a sum over the components may follow
    elif vectors(kind) and call.name not in _LINEAR:
        raise Untyped(f"applies {call.name} to the components of vectors, one by one")
    return kind


@operation(*_BINARY.split())
def broadcast(call: Call) -> Any:
    """Entry by entry over several tensors."""
    values = [*call.args, *call.kwargs.values()]
    found = join(call, [v for v in values if isinstance(v, (Kind, Const, Untyped))])
    many = sum(isinstance(v, Kind) and vectors(v) for v in values)
    if vectors(found) and (call.name == "pow" or (many > 1 and call.name.strip("_") in _PRODUCTS)):
        call.loose = True
    return found


@operation("batch_norm", "instance_norm", "group_norm")
def normalise(call: Call) -> Any:
    """Statistics over whole grids, parameters over channels, which rest.

    Raises:
        Untyped: the channels move.
    """
    kind = call.kind()
    if not rests(kind.axes[1]):
        raise Untyped("normalises with parameters along an axis that the group moves")
    return kind


@operation("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Any:
    """Over the last axes; its parameters must be invariant there."""
    kind = call.kind()
    for at, name in ((2, "weight"), (3, "bias")):
        table = call.arg(at, name)
        if isinstance(table, Const):
            call.demand(table, fitted(table.value.shape, kind))
    return kind


@operation("linear")
def linear(call: Call) -> Any:
    """*x Wᵀ + b* on the last axis. Where it moves, the weight is invariant along it.

    A layer from pixels to as many pixels keeps their action; one to other entries lets them rest,
    and the next layer back to as many pixels restores it (the token mixing of an MLP-mixer).

    Raises:
        Untyped: the layer mixes vectors, or its weight depends on the input.
    """
    kind, weight, bias = call.kind(), call.arg(1, "weight"), call.arg(2, "bias")
    last, size = kind.axes[-1], call.shape[-1]
    if isinstance(weight, Kind):
        raise Untyped("multiplies by a weight that depends on the input")
    was = last[0][0].was if idle(last) and len(last) == 1 else ()
    if idle(last) and not (was and length(was) == size):
        return Kind((*kind.axes[:-1], free(size)))
    atoms = [atom.name for block in last for atom in block]
    if counts(last) or "v" in atoms or not isinstance(weight, Const):
        raise Untyped(
            "a linear layer mixes the components of vectors",
            "average the model (method='average'), or use layers of a vector network",
            "flatten",
        )
    if not was:
        mixed = length(last) == size and all(atom.moved for block in last for atom in block)
        was = last if mixed else ((Atom("", size, was=last),),)
    call.demand(weight, Kind((was, last)))
    if isinstance(bias, Const):
        call.demand(bias, Kind((was,)))
    return Kind((*kind.axes[:-1], was))


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
        Untyped: the summed letters move differently, or a table takes part.
    """
    text, operands = call.args[0], call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    left, _, right = text.replace(" ", "").partition("->")
    if "." in text or not right:
        raise Untyped("is an einsum with an ellipsis")
    axes: dict[str, Axis] = {}
    for letters, kind in zip(left.split(","), operands, strict=True):
        if isinstance(kind, Untyped):
            raise kind
        if not isinstance(kind, Kind):
            raise Untyped("contracts with a constant")
        for letter, axis in zip(letters, kind.axes, strict=True):
            if letter in axes and not _same_axis(axes[letter], axis) and length(axis) > 1:
                raise Untyped("contracts two axes that the group moves differently")
            axes[letter] = axes.get(letter, axis)
    return Kind(tuple(axes[letter] for letter in right))


@operation("scaled_dot_product_attention")
def attention(call: Call) -> Any:
    """softmax(q kᵀ + mask) v: the tokens of q, the features of v.

    Raises:
        Untyped: keys and values move differently, or the mask is causal.
    """
    q, k, v = (call.kind(i, n) for i, n in enumerate(("query", "key", "value")))
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
    q, k = call.kind(0, "query"), call.kind(1, "key")
    if not rests(q.axes[-1]) or not rests(k.axes[-1]):
        raise Untyped("attends over features that the group moves")
    if isinstance(call.arg(5, "attn_mask"), (Kind, Const)):
        raise Untyped("has an attention mask that is not followed")
    return q, Untyped("attention weights are not followed")


@operation("mean", "sum", "amax", "amin", "max", "min", "norm", "logsumexp", "prod", "var", "std")
def reduce(call: Call) -> Any:
    """Over whole axes: they are gone, or rest with one entry.

    Raises:
        Untyped: samples or blocks are mixed.
    """
    kind = call.kind()
    if len(call.args) > 1 and isinstance(call.args[1], Kind):
        return broadcast(call)
    place = 2 if call.name == "norm" else 1
    dims = call.arg(place, "dim", call.kwargs.get("axis"))
    keep = call.kwargs.get("keepdim", call.args[place + 1] if len(call.args) > place + 1 else False)
    gone = dims_of(kind, dims)
    if any(len(kind.axes[d]) > 1 for d in gone) and call.name not in ("mean", "sum", "amax"):
        raise Untyped("reduces over a joined axis")
    whole_grid(Kind(tuple(kind.axes[d] for d in gone)))
    if any(counts(kind.axes[d]) for d in gone):
        raise Untyped("mixes the samples of the batch")
    axes = [free(1) if i in gone else a for i, a in enumerate(kind.axes) if keep or i not in gone]
    found = Kind(tuple(axes))
    parts = call.shape if isinstance(call.shape, (tuple, list)) else ()
    if call.name in ("max", "min") and dims is not None and parts and not isinstance(parts[0], int):
        return found, Untyped("positions of extrema are not followed")
    return found


@layer(nn.Linear)
def linear_layer(call: Call) -> Any:
    """As `linear`."""
    last = call.kind().axes[-1]
    if idle(last) and not (len(last) == 1 and last[0][0].was):
        return linear(call)  # tables of all weights are built only where one is asked for
    call.args = (call.args[0], own(call, "weight"), own(call, "bias"))
    return linear(call)


def own(call: Call, name: str) -> Const | None:
    """A parameter of the layer."""
    value = getattr(call.module, name, None)
    return None if value is None else constant(value, f"{call.path}.{name}")


@layer(nn.LayerNorm, nn.RMSNorm)
def layer_norm_layer(call: Call) -> Any:
    """As `layer_norm`, with the layer's own parameters."""
    kind = call.kind()
    for table in (own(call, "weight"), own(call, "bias")):
        if table is not None:
            call.demand(table, fitted(table.value.shape, kind))
    return kind


@layer(
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)
def norm_layer(call: Call) -> Any:
    """As `normalise`."""
    return normalise(call)


_POINTWISE = (
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU, nn.CELU, nn.PReLU),
    *(nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ReLU6, nn.Softplus, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Softmax, nn.LogSoftmax, nn.Softsign),
)


@layer(*_POINTWISE)
def pointwise_layer(call: Call) -> Any:
    """As `pointwise`."""
    return pointwise(call)


@operation(
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full"
)
def uniform(call: Call) -> Any:
    """The same number everywhere."""
    return Const(torch.zeros(tuple(call.shape)))


def guess(call: Call) -> Any:
    """An operation without a rule: a result of the shape of a typed argument may move like it.

    Raises:
        Untyped: no argument has that shape.
    """
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, Untyped):
            raise value
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, Kind) and call.shape is not None and value.shape == tuple(call.shape):
            return value
    raise Untyped(f"has no rule for {call.name}", "average around it (at=…), or write a rule")
