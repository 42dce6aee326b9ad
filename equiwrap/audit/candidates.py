"""Which group to audit, and whether the inputs fit it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError, EquiwrapError, SignatureError
from ..groups import Group, parse_group
from ..measure import equivariance_error
from ..measure.acting import signature_for
from ..signature import Signature
from .examples import Examples

__all__ = ["check_example", "first_line", "ranked"]

IMAGES = ("C2", "C4", "D2", "D4", "T(2)")
CLOUDS = ("SO(3)", "O(3)", "SO(2)", "O(2)")
SAMPLES = 64


def check_example(
    twin: nn.Module, group: Group, signature: Any, one: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Nothing, or a sentence.

    Raises:
        SignatureError: the inputs do not fit the signature.
        CaptureError: the model does not run on them.
    """
    image = isinstance(one[0], Tensor) and one[0].dim() == 4
    if not isinstance(signature, Signature) and (signature is not None or image):
        bound = Signature.parse("b c h w -> ..." if signature is None else signature, group)
        for (_, kind), x in zip(bound.inputs, one, strict=False):
            if not kind.untouched:
                kind.check(x, "the input")
    if any(isinstance(x, Tensor) and not x.numel() for x in one):
        raise SignatureError("The example is empty: an audit needs one input at least.")
    try:
        with torch.no_grad():
            twin(*one, **kwargs)
    except Exception as error:
        raise CaptureError(
            f"{type(twin).__name__} does not run on the example ({type(error).__name__}: "
            f"{first_line(error)}): give one that it takes."
        ) from error


def ranked(
    twin: nn.Module, examples: Examples, signature: Any, seed: int, kwargs: dict[str, Any]
) -> tuple[tuple[str, float | None, float | None], ...]:
    """Candidate groups by their error, the smallest first; of equal errors the largest group.

    Raises:
        SignatureError: none of them fits the inputs.
    """
    images = isinstance(examples.first[0], Tensor) and examples.first[0].dim() == 4
    found = []
    for name in IMAGES if images else CLOUDS:
        try:
            bound = signature_for(twin, parse_group(name), signature, examples.few(SAMPLES))
            error = equivariance_error(
                twin, bound.group, *examples.few(SAMPLES), signature=bound, seed=seed, **kwargs
            )
        except (EquiwrapError, RuntimeError, ValueError):
            continue
        found.append((name, error.value, error.half_width, error.floor))
    if not found:
        raise SignatureError(
            "No candidate group fits these inputs: name the group, and the signature beside it."
        )
    order = {n: i for i, n in enumerate((*IMAGES, *CLOUDS))}
    found.sort(key=lambda row: (max(row[1], 10 * row[3]), -order[row[0]]))
    return tuple((name, value, half) for name, value, half, _ in found)


def first_line(error: Exception) -> str:
    """The first line of a message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
