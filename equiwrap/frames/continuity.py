"""Is it continuous? The largest steps of a model, or of a frame, along segments of inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import SignatureError
from ..groups import Group, parse_group
from ..representations import letters
from ..signature import Signature, TensorType
from .average import read_inputs
from .base import Frame
from .canonicalize import Canonicalize
from .restore import Restore

__all__ = ["ContinuityReport", "continuity_report"]

SMOOTH = 5.0  # the ratio from which f is as smooth as h can tell
STILL = 32  # steps of fewer roundings are none
FINER, LEVELS, PLACES = 10, 4, 4  # the places of the largest steps are cut into ten, four times
FREE = 4  # length of an axis that nothing else determines
TOGETHER = 256  # inputs a call


@dataclass(frozen=True)
class ContinuityReport:
    """*max |f(x + hδ) − f(x)| along segments, at a step h and at h/10.* Prints as one line.

    `jump` is the largest step that is left when the places of the largest ones are cut into ten,
    four times: a jump stays what it is, a steep place does not. All relative to the largest entry
    of f that was met, whose rounding is `floor`.
    """

    coarse: float
    fine: float
    jump: float
    step: float
    floor: float

    @property
    def ratio(self) -> float:
        """About 10 for a smooth f, about 1 for one that jumps; 10 where nothing moves."""
        return self.coarse / self.fine if not self.coarse <= self.floor else float(FINER)

    @property
    def jumps(self) -> bool:
        """True where a tenth of the largest step at h/10 is left at h/10⁵."""
        return self.jump > max(self.fine / FINER, self.floor)

    @property
    def verdict(self) -> str:
        """In words, and what to do."""
        if self.ratio != self.ratio:
            return "no verdict, since outputs on the way are not finite: look at the inputs"
        if self.coarse <= self.floor:
            return "constant, within rounding"
        if self.jumps:
            return (
                "jumps: where outputs are differentiated or integrated, use a weighted frame "
                "(ew.frames.Weighted() for clouds, Separated() for sets)"
            )
        return "continuous" if self.ratio >= SMOOTH else "continuous, and too steep for h"

    def __str__(self) -> str:
        return (
            f"largest step {self.coarse:.1e} at h = {self.step:.1e}, {self.fine:.1e} at h/10, "
            f"ratio {self.ratio:.1f}, {self.jump:.1e} at h/10⁵: {self.verdict}"
        )


def continuity_report(
    f: Callable[..., Any] | Frame,
    *inputs: Any,
    group: str | Group | None = None,
    signature: str | Signature | None = None,
    steps: int = 100,
    segments: int = 4,
    length: float = 1.0,
    seed: int = 0,
) -> ContinuityReport:
    """*The largest step of f along random segments, at h = 1/steps of their length and at h/10.*

    `continuity_report(model, x)` for a model, wrapped or not; `continuity_report(frame, x,
    group="O(3)", signature="b n v -> b k")` for a frame, behind which a fixed random smooth
    network without symmetry is put. Every input has the batch in front; floating-point inputs move
    together, `segments` times from x to x + length · δ, δ normal and of the size of x, sample by
    sample. Costs 11 · steps · segments evaluations of f on the batch, and some. Modules run in eval
    mode and without gradients. A jump is only seen where a segment crosses it and where it is
    larger than what f varies by in h/10.

    Source: jumps are what Dym, Lawrence, Siegel 2024 show to be unavoidable without weights.

    Raises:
        SignatureError: no input or output that can move, or a frame without its group and
            signature.
    """
    moving = [x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
    if not moving:
        raise SignatureError(
            "Continuity is measured along segments of inputs, and no floating-point tensor was "
            "given: name the inputs after the model or the frame."
        )
    call = _behind(f, inputs, group, signature, seed) if isinstance(f, Frame) else f
    modes = [(m, m.training) for m in f.modules()] if isinstance(f, nn.Module) else []
    rng = torch.Generator().manual_seed(seed)
    found = []
    try:
        for module, _ in modes:
            module.training = False
        for _ in range(segments):
            ends = [_direction(x, length, rng) for x in inputs]
            found.append(torch.stack(_steps(call, inputs, ends, steps)))
    finally:
        for module, mode in modes:
            module.training = mode
    coarse, fine, jump, size = torch.stack(found).amax(0)
    unit = torch.where(size > 0, size, 1.0)
    floor = STILL * max(torch.finfo(x.dtype).eps for x in moving)
    return ContinuityReport(
        float(coarse / unit), float(fine / unit), float(jump / unit), 1 / steps, floor
    )


def _direction(x: Any, length: float, rng: torch.Generator) -> Tensor | None:
    """δ, normal and of the size of each sample; None for what stays."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return None
    delta = torch.randn(x.shape, generator=rng, dtype=torch.float64).to(x)
    size = x.flatten(1).square().mean(1).sqrt() if x.ndim > 1 else x.abs()
    size = length * torch.where(size > 0, size, 1.0)
    return delta * size.reshape(-1, *[1] * (x.ndim - 1))


def _steps(
    call: Callable[..., Any], inputs: tuple[Any, ...], ends: list[Tensor | None], steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The largest steps on one segment: at h, at h/10, at h/10⁵; and the largest entry."""
    unit = torch.float64
    wide = torch.linspace(0, 1, steps + 1, dtype=unit)[None]
    fine = torch.linspace(0, 1, steps * FINER + 1, dtype=unit)[None]
    coarse = _walk(call, inputs, ends, wide)[0].amax()
    found, size = _walk(call, inputs, ends, fine)
    largest = found.amax()
    cut = torch.linspace(0, 1, FINER + 1, dtype=unit)
    places, rows = found[0].topk(PLACES).indices, fine.expand(PLACES, -1)
    for _ in range(LEVELS):
        row = torch.arange(len(places))
        start, stop = rows[row, places], rows[row, places + 1]
        rows = start.unsqueeze(1) + (stop - start).unsqueeze(1) * cut
        found, _ = _walk(call, inputs, ends, rows)
        places = found.argmax(1)
    return coarse, largest, found.amax(), size


@torch.no_grad()
def _walk(
    call: Callable[..., Any], inputs: tuple[Any, ...], ends: list[Tensor | None], times: Tensor
) -> tuple[Tensor, Tensor]:
    """`times[r, t]` → the steps between neighbours `[r, t − 1]`, and the largest entry of f.

    Raises:
        SignatureError: f returns nothing that could move.
    """
    first = next(x for x, d in zip(inputs, ends, strict=True) if d is not None)
    parts: list[list[Tensor]] = []
    for slab in times.flatten().split(max(1, TOGETHER // max(1, len(first)))):
        moved = [_at(x, d, slab, len(first)) for x, d in zip(inputs, ends, strict=True)]
        leaves = [y for y in tree_leaves(call(*moved)) if isinstance(y, Tensor)]
        rows = [y.reshape(len(slab), -1).double().cpu() for y in leaves if y.is_floating_point()]
        parts.append([y for y in rows if y.shape[1]])
    paths = [torch.cat(leaf).unflatten(0, times.shape) for leaf in zip(*parts, strict=True)]
    if not paths:
        raise SignatureError(
            "Continuity is that of floating-point outputs, and there was none: return scores, not "
            "decisions."
        )
    steps = [y.diff(dim=1).abs().amax(2) for y in paths]
    size = [y.abs().amax() for y in paths]
    return torch.stack(steps).amax(0), torch.stack(size).amax()


def _at(x: Any, end: Tensor | None, times: Tensor, batch: int) -> Any:
    """*x + t δ* for every t, folded into the batch; what does not move is repeated."""
    if end is not None:
        t = times.to(end).reshape(-1, *[1] * x.ndim)
        return (x + t * end).flatten(0, 1)
    follows = isinstance(x, Tensor) and x.ndim > 0 and len(x) == batch
    return x.repeat(len(times), *[1] * (x.ndim - 1)) if follows else x


def _behind(
    frame: Frame,
    inputs: tuple[Any, ...],
    group: str | Group | None,
    signature: str | Signature | None,
    seed: int,
) -> Callable[..., Any]:
    """The frame around a random smooth network, `(inputs…) → outputs`.

    Raises:
        SignatureError: the group or the signature is missing.
    """
    if group is None or signature is None:
        raise SignatureError(
            "The continuity of a frame is measured under a group and with inputs that are typed: "
            'give both, as in group="O(3)", signature="b n v -> b k".'
        )
    group = parse_group(group)
    sig = signature if isinstance(signature, Signature) else Signature.parse(signature, group)
    names = [name or f"x{i}" for i, (name, _) in enumerate(sig.inputs)]
    types = {name: kind for name, (_, kind) in zip(names, sig.inputs, strict=True)}
    canonicalize, restore = Canonicalize(group, types, None), Restore(group, sig)
    net = _Smooth(sig, types, inputs, seed)

    def call(*values: Any) -> Any:
        measure = frame(group, **frame.read(group, read_inputs(types, values), None))
        canonical = canonicalize(measure, values, {})
        return restore(net(canonical.values), canonical)

    return call


class _Smooth:
    """*One hidden layer of tanh on all inputs, flattened*: weights from a seed, no symmetry."""

    def __init__(
        self, sig: Signature, types: dict[str, TensorType], inputs: tuple[Any, ...], seed: int
    ) -> None:
        sizes: dict[str, int] = {}
        count = 0
        for kind, x in zip(types.values(), inputs, strict=True):
            front = kind.to_front(kind.check(x, "the input"))
            sizes |= kind.sizes(front)
            count += front[:1].numel()
        self.shapes = [_shape(kind, sizes) for _, kind in sig.outputs]
        self.sig, self.types = sig, types
        rng = torch.Generator().manual_seed(seed)
        width, out = 64, sum(map(prod, self.shapes))

        def weight(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        self.first = weight(count, width) / max(count, 1) ** 0.5
        self.bias, self.last = weight(width), weight(width, out) / width**0.5

    def __call__(self, values: dict[str, Any]) -> Any:
        flat = torch.cat([t.to_front(values[n]).flatten(1) for n, t in self.types.items()], 1)
        like: dict[str, Any] = {
            "device": flat.device,
            "dtype": torch.promote_types(flat.dtype, torch.float32),
        }
        hidden = flat.to(**like) @ self.first.to(**like)
        y = torch.tanh(hidden + self.bias.to(**like)) @ self.last.to(**like)
        parts = y.split([prod(s) for s in self.shapes], -1)
        found = [
            kind.from_front(part.reshape(-1, *shape))
            for part, shape, (_, kind) in zip(parts, self.shapes, self.sig.outputs, strict=True)
        ]
        if self.sig.form == "one":
            return found[0]
        names = [name for name, _ in self.sig.outputs]
        return dict(zip(names, found, strict=True)) if self.sig.form == "dict" else tuple(found)


def _shape(kind: TensorType, sizes: dict[str, int]) -> tuple[int, ...]:
    """The lengths of an output's axes: letters, then names met at the inputs, then 4."""
    known = letters(kind.group)

    def length(name: str) -> int:
        if name.isdigit():
            return int(name)
        return (known[name].size if name in known else 0) or sizes.get(name, FREE)

    return tuple(sum(prod(length(n) for n in term) for term in axis.terms) for axis in kind.inner)
