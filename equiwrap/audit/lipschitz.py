"""How far an operation can carry an error: ‖f(u) − f(v)‖ ≤ Σ_i L_i ‖u_i − v_i‖, in Frobenius norms.

A rule reads the values that an operation met, u and v stacked along the batch, and the bounds on
the errors of its arguments, and returns a bound on that of its result. Rules marked local hold for
these values only (products, attention, normalisation by the value itself); the others hold for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Met", "carried", "rule", "tensors_in"]


@dataclass(frozen=True)
class Met:
    """One operation: its name, its module if it is one, its arguments, their errors, its result."""

    name: str
    module: nn.Module | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    error: Callable[[Any], float]
    result: Any

    def arg(self, at: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        return self.args[at] if len(self.args) > at else self.kwargs.get(name, default)

    def total(self) -> float:
        """The errors of all tensors among the arguments, one beside the other."""
        return sum(self.error(a) for a in tensors_in((self.args, self.kwargs)))


Rule = Callable[[Met], float]
RULES: dict[str, Rule] = {}
LOCAL: set[str] = set()


def carried(met: Met) -> tuple[float, bool] | None:
    """(bound, local?) of one operation; None where there is no rule and some error to carry."""
    if met.total() == 0:
        return 0.0, False
    name = (type(met.module).__name__ if met.module is not None else met.name).strip("_").lower()
    for cls in type(met.module).__mro__ if met.module is not None else ():
        if cls.__name__.lower() in RULES:
            name = cls.__name__.lower()
            break
    found = RULES.get(name)
    try:
        return None if found is None else (found(met), name in LOCAL)
    except (AttributeError, IndexError, TypeError):
        return None  # called in a way that the rule does not read


def rule(names: str, *, local: bool = False) -> Callable[[Rule], Rule]:
    """Enter a rule for operations and classes of these names."""

    def enter(made: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), made))
        if local:
            LOCAL.update(names.split())
        return made

    return enter


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    if isinstance(parts, (tuple, list)) or isinstance(value, dict):
        return [t for part in parts for t in tensors_in(part)]
    return []


# -- constants -------------------------------------------------------------------------------------

_SLOPES = {  # the largest slope of functions of one number
    1.0: """relu relu6 celu tanh softplus hardtanh abs clamp clamp_min
    softsign logsigmoid sin cos softshrink hardshrink""",
    1.129: "gelu",
    1.0999: "silu",
    1.0886: "mish",
    1.5: "hardswish",
    1.7581: "selu",
    0.25: "sigmoid",
    1 / 6: "hardsigmoid",
}
_STILL = """view reshape flatten unflatten permute transpose contiguous clone detach dropout float
identity dropout2d droppath double to type unsqueeze squeeze getitem select narrow split chunk
unbind movedim swapaxes t mT softmax neg zeropad2d getattr roll flip pixelshuffle pixel_shuffle
pixelunshuffle pixel_unshuffle channelshuffle"""


for _slope, _names in _SLOPES.items():
    for _name in _names.split():
        RULES[_name] = lambda met, slope=_slope: slope * met.total()  # type: ignore[misc]
for _name in _STILL.lower().split():
    RULES[_name] = lambda met: met.total()
RULES["log_softmax"] = lambda met: 2 * met.total()


@rule("add iadd sub isub rsub radd")
def _sum(met: Met) -> float:
    """Errors add up; a broadcast operand counts as often as it is used."""
    size = met.result.numel()
    parts = [a for a in tensors_in((met.args, met.kwargs)) if a.numel()]
    most = max(1.0, abs(met.kwargs.get("alpha", 1)))
    return most * sum(met.error(a) * math.sqrt(size / a.numel()) for a in parts)


@rule("elu leakyrelu leaky_relu")
def _bent(met: Met) -> float:
    """The slope below zero may be the larger."""
    of: Any = met.module
    slope = getattr(of, "alpha", None) or getattr(of, "negative_slope", None)
    if of is None:
        slope = met.arg(1, "alpha", met.kwargs.get("negative_slope", 1.0))
    return met.total() * max(1.0, abs(slope or 0.0))


@rule("pad")
def _padded(met: Met) -> float:
    """Zeros carry nothing; any other mode repeats an entry at most 1 + left + right times."""
    if met.arg(2, "mode", "constant") == "constant":
        return met.total()
    sides = met.arg(1, "pad")
    times = [1 + sides[i] + sides[i + 1] for i in range(0, len(sides), 2)]
    return met.total() * math.sqrt(math.prod(times))


@rule("cat concat concatenate stack")
def _joined(met: Met) -> float:
    return math.sqrt(sum(met.error(a) ** 2 for a in tensors_in((met.args, met.kwargs))))


@rule("expand repeat broadcast_to expand_as")
def _repeated(met: Met) -> float:
    return met.total() * math.sqrt(met.result.numel() / max(met.args[0].numel(), 1))


@rule("mean")
def _mean(met: Met) -> float:
    return met.total() * math.sqrt(met.result.numel() / met.args[0].numel())


@rule("sum")
def _summed(met: Met) -> float:
    return met.total() * math.sqrt(met.args[0].numel() / met.result.numel())


@rule("adaptiveavgpool2d adaptive_avg_pool2d adaptivemaxpool2d adaptive_max_pool2d")
def _pooled(met: Met) -> float:
    """Means over h w / (h' w') pixels, where these divide; else as often as a pixel is read."""
    before, after = met.args[0].shape[-2:], met.result.shape[-2:]
    divides = all(n % m == 0 for n, m in zip(before, after, strict=True))
    mean = "avg" in (met.name or "") or "Avg" in type(met.module).__name__
    if divides:
        return met.total() * (math.sqrt(met.result.numel() / met.args[0].numel()) if mean else 1.0)
    times = [math.ceil(m / n) + 1 for n, m in zip(before, after, strict=True)]
    return met.total() * math.sqrt(math.prod(times))


@rule("maxpool2d max_pool2d boolean_dispatch")
def _max_pool(met: Met) -> float:
    return met.total() * math.prod(math.ceil(k / s) for k, s in _windows(met)) ** 0.5


@rule("avgpool2d avg_pool2d")
def _avg_pool(met: Met) -> float:
    """Windows at a border may hold fewer pixels, each of which then counts more."""
    of: Any = met.module
    border = of.padding if of is not None else met.arg(3, "padding", 0)
    ceil = of.ceil_mode if of is not None else met.arg(4, "ceil_mode", False)
    whole = not ceil and border in (0, (0, 0), [0, 0])
    found = 1.0
    for k, s in _windows(met):
        found *= math.ceil(k / s) / (k if whole else 1)
    return met.total() * found**0.5


def _windows(met: Met) -> list[tuple[int, int]]:
    of: Any = met.module
    k = of.kernel_size if of is not None else met.arg(1, "kernel_size")
    s = (of.stride if of is not None else met.arg(2, "stride")) or k
    dilation = getattr(of, "dilation", 1) if of is not None else met.kwargs.get("dilation", 1)
    s = s if dilation in (1, (1, 1)) else 1
    pairs = [(n, n) if isinstance(n, int) else tuple(n) for n in (k, s)]
    return list(zip(*pairs, strict=True))


# -- weights ---------------------------------------------------------------------------------------


@rule("conv2d")
def _conv(met: Met) -> float:
    """*‖conv_W‖ ≤ √(⌈k/s⌉ ⌈k/s⌉) ‖W as a matrix‖₂*, the largest over groups (zero padding)."""
    of: Any = met.module
    weight = of.weight if of is not None else met.arg(1, "weight")
    stride = of.stride if of is not None else met.arg(3, "stride", 1)
    dilation = of.dilation if of is not None else met.arg(5, "dilation", 1)
    groups = of.groups if of is not None else met.arg(6, "groups", 1)
    s, d = ((n, n) if isinstance(n, int) else tuple(n) for n in (stride, dilation))
    times = [math.ceil(k / s[i]) if d[i] == 1 else k for i, k in enumerate(weight.shape[2:])]
    if of is not None and of.padding_mode != "zeros":
        extra = max(of._reversed_padding_repeated_twice)  # of the border, read again
        times = [n * (1 + 2 * extra) for n in times]
    parts = weight.detach().flatten(1).unflatten(0, (groups, -1)).double()
    return met.error(met.args[0]) * math.sqrt(math.prod(times)) * _norm(parts)


@rule("linear")
def _linear(met: Met) -> float:
    weight = met.module.weight if met.module is not None else met.arg(1, "weight")
    return met.error(met.args[0]) * _norm(weight.detach().double().unsqueeze(0))  # type: ignore[union-attr, operator]


def _norm(matrices: Tensor) -> float:
    """The largest singular value among `[g, o, i]`, by the smaller Gram matrix."""
    gram = (
        matrices @ matrices.mT
        if matrices.shape[-2] <= matrices.shape[-1]
        else matrices.mT @ matrices
    )
    return float(torch.linalg.eigvalsh(gram).amax().clamp_min(0).sqrt())


@rule("batchnorm2d batchnorm1d _batchnorm batch_norm")
def _batch_norm(met: Met) -> float:
    of: Any = met.module
    if of is not None:
        var, gain, eps = of.running_var, of.weight, of.eps
    else:
        var, gain = met.arg(2, "running_var"), met.arg(3, "weight")
        eps = met.arg(7, "eps", 1e-5)
    if var is None:
        return math.inf
    scale = (var + eps).rsqrt() * (gain.abs() if gain is not None else 1)
    return met.error(met.args[0]) * float(scale.detach().max())
