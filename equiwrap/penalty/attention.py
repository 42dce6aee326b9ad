"""Attention without its gauge: penalties on Wqᵀ Wk and Wo Wv instead of the four weights."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..errors import SignatureError
from ..reynolds import Projector
from ..reynolds.projector import wide

__all__ = ["circuits", "circuits_penalty"]


def circuits(
    query: Tensor, key: Tensor, value: Tensor, out: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """*M_h = Wq_hᵀ Wk_h, N_h = Wo_h Wv_h*: all that attention without biases sees of its weights.

    `query, key, value[h·e, d], out[d, h·e] → M[h, d, d], N[h, d, d]`, weights as of `nn.Linear`; a
    fused `qkv` gives the first three by `chunk(3)`. Unchanged under Wq, Wk → A Wq, A⁻ᵀ Wk and
    Wv, Wo → A Wv, Wo A⁻¹ in each head.

    Raises:
        SignatureError: the heads do not divide the rows.
    """
    if query.shape[0] % heads or value.shape[0] % heads:
        raise SignatureError(
            f"{heads} heads do not divide {query.shape[0]} rows of queries and {value.shape[0]} of "
            "values: name the heads of this attention, and repeat shared keys and values first."
        )
    q, k, v = (rearrange(w, "(h e) d -> h e d", h=heads) for w in (query, key, value))
    o = rearrange(out, "d (h e) -> h d e", h=heads)
    return q.mT @ k, o @ v


def circuits_penalty(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    heads: int,
    projector: Projector,
    strength: float = 1.0,
) -> Tensor:
    """*λ Σ_h |M_h − PM_h|² + |N_h − PN_h|²*: a scalar in float32 at least, by autograd.

    `projector` is P on d × d matrices under the representation of the residual stream on both
    sides. Equivariance of the circuits is necessary and sufficient for scores and outputs (without
    biases, without a gauge); that of the four weights is only sufficient. O(h d² e) time and h d²
    memory, where the weights are d h e.
    """
    total = torch.zeros((), device=query.device)
    with torch.autocast(query.device.type, enabled=False):
        for circuit in circuits(wide(query), wide(key), wide(value), wide(out), heads):
            for one in circuit:
                total = total + (one - projector(one)).abs().square().sum()
    return strength * total
