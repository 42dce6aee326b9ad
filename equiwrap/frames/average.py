"""The one equation: ⟨f⟩(x) = Σ_k w_k(x) ρ_out(g_k) f(ρ_in(g_k)⁻¹ x).

`average` states it; `Canonicalize` and `Restore` are its two halves as modules. Frames are folded
into the batch axis: the model sees `[b·k, …]` once, or in chunks. Where samples have different
numbers of elements (`measure.ragged`), only the elements that count are folded, so a batch with one
symmetric sample costs that sample's orbit and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SignatureError, article
from ..signature import TensorType
from .base import GroupMeasure, TypedInput

__all__ = ["average", "mask_among", "read_inputs"]


def average(
    frame: Callable[..., GroupMeasure],
    canonicalize: Callable[..., Any],
    model: Callable[..., Any],
    restore: Callable[..., Any],
    *inputs: Any,
) -> Any:
    """*⟨f⟩(x) = Σ_k w_k(x) ρ_out(g_k) f(ρ_in(g_k)⁻¹ x), μ_x = Σ_k w_k(x) δ_{g_k(x)}.*

    Equivariant for any f when μ_{hx} = h_* μ_x, and equal to f when f already is. Everything that
    equiwrap calls averaging, sampling or canonicalisation runs these four lines.
    """
    measure = frame(*inputs)
    canonical = canonicalize(measure, *inputs)
    outputs = model(canonical)
    return restore(outputs, canonical)


def mask_among(
    mask: str | None, names: Iterable[str], inputs: Sequence[Any], rest: Mapping[str, Any]
) -> Tensor | None:
    """The mask of one call as booleans, typed ("mask: b n") or passed through; None without one.

    Raises:
        SignatureError: the argument is no mask.
    """
    if mask is None:
        return None
    found = rest[mask] if mask in rest else dict(zip(names, inputs, strict=True)).get(mask)
    if found is None:
        return None
    if not isinstance(found, Tensor) or found.ndim != 2:
        shown = list(found.shape) if isinstance(found, Tensor) else article(found)
        raise SignatureError(
            f"mask={mask!r} names the argument that marks real points, [b, n], and {shown} came."
        )
    real = found.is_floating_point() and not torch.compiler.is_compiling()
    if real and bool(((found != 0) & (found != 1)).any()):
        raise SignatureError(
            f"mask={mask!r} marks real points by 1 and padding by 0, and other numbers came (a "
            "mask that is added to scores?): give mask == 0, or booleans."
        )
    return found.bool()


def read_inputs(types: Mapping[str, TensorType], inputs: Sequence[Any]) -> list[TypedInput]:
    """The typed inputs of one call, checked, with the batch in front.

    Raises:
        SignatureError: a tensor that does not fit its pattern, or batches that differ.
    """
    pairs = [(n, t, x) for (n, t), x in zip(types.items(), inputs, strict=True)]
    found = [TypedInput(t, t.to_front(t.check(x, f"The input {n}"))) for n, t, x in pairs]
    sizes = {
        n: x.value.shape[0]
        for (n, t, _), x in zip(pairs, found, strict=True)
        if t.batch is not None
    }
    if len(set(sizes.values())) > 1:
        raise SignatureError(f"The inputs disagree about the batch size: {sizes}.")
    return [x for x in found if x.type.batch is not None]
