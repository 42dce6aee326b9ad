"""Rules for what computes: pointwise maps, normalisation, contractions, attention, reductions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .constants import constant
from .kinds import Atom, Kind, Untyped, free
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
