"""What can be said about the symmetry of a penalised or projected model, and how surely."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..audit.bound import Bound, bound
from ..audit.layers import layerwise
from ..audit.shares import attribute_defect, outputs_typed
from ..errors import SignatureError, article
from ..graph.propagate import Typing, propagate
from ..graph.twin import held_random, twin_of
from ..measure import Estimate, model_error
from ..penalty.value import Energy, energies

if TYPE_CHECKING:
    from .soft import Soft

__all__ = ["Certificate", "certify"]

INPUTS = 256  # at most so many, for the sampled error
FEW = 4  # for the attribution and the bound
SHOWN = 5


@dataclass(frozen=True)
class Certificate:
    """Four statements, from the cheapest to the surest.

    - `energies`: |W − PW|² / |W|² of each weight: how much of it is not equivariant. No statement
      about the function: a small part can carry all of the error, a large one none.
    - `error`: MEE / rms f on the data, with its interval over inputs.
    - `shares`: the error at one element, split exactly over the operations (they sum to 1).
    - `bound`: products of Lipschitz constants; sound on the inputs it was computed for.
    """

    label: str
    what: str
    energies: tuple[Energy, ...]
    error: Estimate
    shares: tuple[tuple[str, float], ...]
    bound: Bound

    @property
    def ratio(self) -> float:
        """*Σ |W − PW|² / Σ |W|²*."""
        total = sum(e.total for e in self.energies)
        return sum(e.defect for e in self.energies) / total if total else 0.0

    def __str__(self) -> str:
        worst = max(self.energies, key=lambda e: e.ratio, default=None)
        said = f"Σ|W − PW|²/Σ|W|² = {self.ratio:.2e}"
        if worst is not None:
            said += f"; most {worst.path} {worst.ratio:.3f} (random {1 - worst.share:.3f})"
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.shares[:SHOWN])
        rows = [
            ("class", f"{self.label} once every target is projected; {self.what}"),
            ("weights", said),
            ("error", str(self.error)),
            ("shares", parts or "none: the error is zero, or a node has no type"),
            ("bound", str(self.bound)),
        ]
        return "\n".join(f"{head:10} {text}" for head, text in rows)

    def __repr__(self) -> str:
        return str(self)


def certify(handle: Soft, data: Any, *, inputs: int = INPUTS) -> Certificate:
    """The certificate of the model as it runs now, on a tensor, a tuple of inputs or a loader.

    At most `inputs` inputs for the sampled error, four for the shares and the bound, in float64.

    Raises:
        SignatureError: the data hold no inputs.
    """
    with held_random():  # a loader draws its seed
        given = _gathered(data, inputs, len(handle.signature.inputs))
    modes = {m: m.training for m in handle.view.modules()}
    try:
        handle.module.eval()
        with held_random():
            error = model_error(
                handle.module, None, *given, signature=handle.signature, form="relative"
            )
    finally:
        for module, mode in modes.items():
            module.training = mode
    plain = twin_of(handle.fold(), False).double()
    few = tuple(_wide(x[:FEW]) if isinstance(x, Tensor) and x.dim() else x for x in given)
    double = tuple(torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x for x in few)
    typing = propagate(plain, handle.signature, double, {}, hidden=handle.hidden)
    b = handle.softness if handle.config.method == "project" else 1.0
    what = "as trained" if handle.config.method == "penalize" else f"softness {b:g}"
    return Certificate(
        handle.label,
        what,
        tuple(energies(plain, handle.targets)),
        error,
        _shares(plain, typing, few),
        bound(plain, typing, few, {}),
    )


def _gathered(data: Any, count: int, wanted: int) -> tuple[Any, ...]:
    """The first inputs of a tensor, a tuple, or the batches of a loader (targets behind them).

    Raises:
        SignatureError: there are none.
    """
    if isinstance(data, Tensor):
        data = (data,)
    if isinstance(data, tuple):
        return tuple(x[:count] if isinstance(x, Tensor) and x.dim() else x for x in data)
    rows: list[tuple[Any, ...]] = []
    if isinstance(data, Iterable) and not isinstance(data, Mapping):
        seen = 0
        for batch in itertools.islice(data, count):
            row = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            rows.append(row[:wanted])
            seen += len(row[0])
            if seen >= count:
                break
    if not rows or not all(isinstance(x, Tensor) for row in rows for x in row):
        raise SignatureError(
            f"certificate takes inputs (a tensor, a tuple of them, or a loader), and "
            f"{article(data)} without any was given."
        )
    return tuple(torch.cat(column)[:count] for column in zip(*rows, strict=True))


def _wide(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _shares(plain: Any, typing: Typing, few: tuple[Any, ...]) -> tuple[tuple[str, float], ...]:
    """The exact split of the defect at the first element, the largest first."""
    if not outputs_typed(typing):
        return ()
    g = typing.group.elements()[1]
    rows = layerwise(plain, typing, g, few, {})
    chosen = [k for k, row in rows.items() if row.own is not None and row.own > 1e-12]
    if not chosen:
        return ()
    shares, rest, _ = attribute_defect(plain, typing, g, few, {}, chosen)
    named: dict[str, float] = {}
    for key, share in shares.items():
        name = typing.sites[key].name
        named[name] = named.get(name, 0.0) + share
    found = sorted(named.items(), key=lambda pair: -abs(pair[1]))
    return (*found, ("behind all of them", rest)) if abs(rest) > 1e-9 else tuple(found)
