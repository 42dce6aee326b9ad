"""Bounds on carried errors that hold for the values met: products, attention, normalisation."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .lipschitz import Met, rule

__all__: list[str] = []


@rule("mul imul multiply rmul div truediv", local=True)
def _product(met: Met) -> float:
    """*|ab − a'b'| ≤ |a|∞ |Δb| + |b'|∞ |Δa|*; by numbers it is no local rule, and as good."""
    a, b = met.args[:2]
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        number, x = (b, a) if isinstance(a, Tensor) else (a, b)
        divides = "div" in met.name
        return met.error(x) * abs(1 / number if divides else number)
    if "div" in met.name:
        if met.error(b):
            return math.inf
        return _spread(met, a) * float((1 / b).abs().max())
    return _spread(met, a) * float(b.abs().max()) + _spread(met, b) * float(a.abs().max())


def _spread(met: Met, x: Tensor) -> float:
    return met.error(x) * math.sqrt(met.result.numel() / max(x.numel(), 1))


@rule("matmul bmm mm", local=True)
def _matmul(met: Met) -> float:
    a, b = met.args[:2]
    return met.error(a) * _largest(b) + met.error(b) * _largest(a)


def _largest(x: Tensor) -> float:
    """The largest Frobenius norm of a matrix."""
    return float(x.detach().double().flatten(-2).norm(dim=-1).max())


@rule("scaled_dot_product_attention", local=True)
def _attention(met: Met) -> float:
    """Scores, softmax (of constant 1) and values, each by the product rule."""
    q, k, v = met.args[:3]
    scale = met.kwargs.get("scale") or q.shape[-1] ** -0.5
    mask = met.arg(3, "attn_mask")
    scores = scale * (met.error(q) * _largest(k) + met.error(k) * _largest(q)) + met.error(mask)
    return scores * _largest(v) + met.error(v) * math.sqrt(q.shape[-2])


@rule("layernorm layer_norm layernorm2d rmsnorm rms_norm", local=True)
def _layer_norm(met: Met) -> float:
    """*|u/|u| − v/|v|| ≤ 2 |u − v| / (|u| + |v|)* on (u, √(d ε)), u centred: its smallest here."""
    of: Any = met.module
    x = met.args[0].detach().double()
    gain = of.weight if of is not None else met.arg(2, "weight")
    shape = of.normalized_shape if of is not None else met.arg(1, "normalized_shape")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if of is not None and "2d" in type(of).__name__.lower():
        x = x.movedim(1, -1)
    eps = (of.eps if of is not None else met.arg(4, "eps", 1e-5)) or 1e-6
    rows = x.flatten(x.dim() - len(shape))
    if "rms" not in met.name.lower() and "RMS" not in type(of).__name__:
        rows = rows - rows.mean(-1, keepdim=True)
    small = float((rows.square().sum(-1) + rows.shape[-1] * eps).min().sqrt())
    top = float(gain.detach().abs().max()) if gain is not None else 1.0
    return met.error(met.args[0]) * math.sqrt(rows.shape[-1]) * top / small
