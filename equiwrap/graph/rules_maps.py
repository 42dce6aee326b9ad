"""Rules for what computes: pointwise maps, normalisation, contractions, attention, reductions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .constants import constant, whole_constant
from .hidden import channels_of
from .kinds import Atom, Kind, Untyped, free
from .regroup import whole_grid
from .rules import (
    Call,
    Const,
    at_rest,
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
masked_fill masked_fill_ logical_and logical_or logical_not bitwise_and bitwise_or __and__
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
    tables = [call.arg(at, name) for at, name in _NORMALISED[call.name]]
    groups = call.arg(1, "num_groups", 1) if call.name == "group_norm" else 1
    return _normalised(call, tables, groups)


_NORMALISED = {
    "batch_norm": ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias")),
    "instance_norm": ((1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias")),
    "group_norm": ((2, "weight"), (3, "bias")),
}


def _normalised(call: Call, tables: list[Any], groups: int = 1) -> Kind:
    """Statistics and parameters follow the channels; groups are whole fields.

    Raises:
        Untyped: the channels are pixels, or groups cut across fields.
    """
    kind = call.kind()
    channels = kind.axes[1]
    if not all(atom.name == "r" for block in channels for atom in block if atom.moved):
        raise Untyped("normalises with parameters along an axis that the group moves")
    first = channels[0][0]
    if groups > 1 and not rests(channels) and (len(channels) > 1 or first.name):
        raise Untyped("normalises groups of channels, which the group moves", lead=groups)
    if groups > 1 and not rests(channels) and first.size % groups:
        raise Untyped("normalises groups of channels, which the group moves", lead=groups)
    for table in tables:
        if isinstance(table, Const):
            call.demand(table, Kind((channels,)), statistic=True)
    return kind


@operation("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Any:
    """Over the last axes; its parameters must be invariant there."""
    return _scaled(call, call.arg(2, "weight"), call.arg(3, "bias"))


def _scaled(call: Call, *tables: Any) -> Kind:
    kind = call.kind()
    for table in tables:
        if not isinstance(table, Const):
            continue
        outer = kind.axes[: len(kind.axes) - table.value.dim()]
        if table is tables[1] and "v" in {a.name for x in outer for block in x for a in block}:
            raise Untyped("adds a bias to the components of vectors")
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
    fresh = call.fresh(weight if isinstance(weight, Const) else None, size)
    restored = was and length(was) == size
    names = {atom.name for block in last for atom in block if atom.moved}
    tokens = all(atom.name in ("h", "w", "n") for block in last for atom in block)
    mixes = names <= {"r"} or (not rests(fresh) and not tokens)
    if mixes and not restored and not counts(last):
        if isinstance(weight, Const) and not (rests(last) and rests(fresh)):
            call.demand(weight, Kind((fresh, last)))
            if isinstance(bias, Const):
                call.demand(bias, Kind((fresh,)))
        elif not idle(last):
            raise Untyped("multiplies moved channels by something that is no parameter")
        return Kind((*kind.axes[:-1], fresh))
    if counts(last) or "v" in names or not isinstance(weight, Const):
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


@operation("linalg_vector_norm")
@operation("mean", "sum", "amax", "amin", "max", "min", "norm", "logsumexp", "prod", "var", "std")
def reduce(call: Call) -> Any:
    """Over whole axes: they are gone, or rest with one entry.

    Raises:
        Untyped: samples or blocks are mixed.
    """
    kind = call.kind()
    if len(call.args) > 1 and isinstance(call.args[1], Kind):
        return broadcast(call)
    place = 2 if "norm" in call.name else 1
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
    pixels = (len(last) == 1 and last[0][0].was) or any(
        atom.name in ("h", "w", "n") for block in last for atom in block
    )  # labels of all weights are built only where they are asked for
    call.args = (call.args[0], own(call, "weight", labels=pixels), own(call, "bias"))
    return linear(call)


def own(call: Call, name: str, *, labels: Any = True) -> Const | None:
    """A parameter or a statistic of the layer."""
    value, path = getattr(call.module, name, None), f"{call.path}.{name}"
    if isinstance(value, nn.Parameter) and not labels:
        return whole_constant(value, path)
    return None if value is None else constant(value, path)


@layer(nn.LayerNorm, nn.RMSNorm)
def layer_norm_layer(call: Call) -> Any:
    """As `layer_norm`, with the layer's own parameters."""
    return _scaled(call, own(call, "weight"), own(call, "bias"))


@layer(
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)
def norm_layer(call: Call) -> Any:
    """As `normalise`.

    Raises:
        Untyped: neighbouring channels that move are normalised.
    """
    names = ("weight", "bias", "running_mean", "running_var")
    groups = call.module.num_groups if isinstance(call.module, nn.GroupNorm) else 1
    if isinstance(call.module, nn.LocalResponseNorm) and not rests(call.kind().axes[1]):
        raise Untyped("normalises over neighbouring channels, which the group moves")
    return _normalised(call, [own(call, name) for name in names], groups)


_POINTWISE = (
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.ELU, nn.SELU, nn.CELU),
    *(nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ReLU6, nn.Softplus, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Softmax, nn.LogSoftmax, nn.Softsign),
)


@layer(*_POINTWISE)
def pointwise_layer(call: Call) -> Any:
    """As `pointwise`."""
    return pointwise(call)


@operation("prelu")
def prelu(call: Call) -> Any:
    """Slopes along the channels."""
    kind, slopes = call.kind(), call.arg(1, "weight")
    if isinstance(slopes, Const) and slopes.value.numel() > 1:
        call.demand(slopes, Kind((kind.axes[1],)))
    return kind


@layer(nn.PReLU)
def prelu_layer(call: Call) -> Any:
    """As `prelu`."""
    call.args = (call.args[0], own(call, "weight"))
    return prelu(call)


@operation(
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full"
)
def uniform(call: Call) -> Any:
    """The same number everywhere."""
    return Const(torch.zeros(tuple(call.shape)))


def guess(call: Call) -> Any:
    """An operation without a rule: a result of the shape of a typed argument may move like it.

    Raises:
        Untyped: no argument has that shape, or weights without a rule meet moved channels.
    """
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, Untyped):
            raise value
    holds = call.module is not None and any(True for _ in call.module.parameters())
    for value in (*call.args, *call.kwargs.values()):
        if isinstance(value, Kind) and call.shape is not None and value.shape == tuple(call.shape):
            if holds and any(map(channels_of, value.axes)):
                raise Untyped("has weights, between channels that the group moves, without a rule")
            return value
    return at_rest(call, call.shape)
