"""What a training person is told once, each in one sentence, before and after training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from .watch import Watch, quiet

__all__ = ["after", "before"]

SEEN = 64  # inputs, of which each sentence is found


def before(model: nn.Module, watch: Watch | None) -> Iterator[str]:
    """Aliasing, layers that are not followed, the guard of averages, frames that jump."""
    handle = getattr(model, "equiwrap", None)
    if handle is None:
        return
    if handle.config.method != "average":
        if handle.label != "EXACT":
            yield handle.notes[-1]
        return
    if watch is None:
        return
    inputs, target = watch.first()
    few = tuple(x[:SEEN] if isinstance(x, Tensor) and x.dim() else x for x in inputs)
    with quiet(model):
        yield from _guard(handle, few, target)
        yield from _jumps(handle, few)


def _guard(handle: Any, inputs: tuple[Any, ...], target: Any) -> Iterator[str]:
    """A plain model that knows upright images only, inside an average."""
    from ..measure.orbit import orbit_accuracy

    labels = isinstance(target, Tensor) and target.ndim == 1 and not target.is_floating_point()
    signature = handle.signature
    if not labels or len(inputs) != 1 or signature.group.order is None:
        return
    if len(signature.outputs) != 1 or any(p.requires_grad for p in handle.view.parameters()):
        return  # what is trained learns the moved inputs
    kind = str(signature.inputs[0][1])
    found = orbit_accuracy(
        handle.forward, signature.group, inputs[0], target[:SEEN], signature=kind
    )
    if found.ruined:
        yield str(found)


def _jumps(handle: Any, inputs: tuple[Any, ...]) -> Iterator[str]:
    """A frame that leaps between neighbours, under outputs that are integrated or the like."""
    from ..frames.continuity import continuity_report

    signature = handle.signature
    moving = any(kind.moves and not kind.grid for _, kind in signature.outputs)
    plain = all(isinstance(x, Tensor) and x.is_floating_point() and len(x) for x in inputs)
    if not moving or not plain or signature.index is not None or handle.config.mask is not None:
        return
    few = tuple(x[:4] for x in inputs)
    found = continuity_report(
        handle.frame, *few, group=signature.group, signature=signature, steps=25, segments=2
    )
    if found.jumps:
        yield (
            f"The frame of this model jumps between neighbouring inputs (by {found.jump:.1e} of "
            f"its outputs, which move with {signature.group}): {found.verdict.partition(': ')[2]}."
        )


def after(model: nn.Module, watch: Watch | None) -> Iterator[str]:
    """A certificate that bounds nothing."""
    handle = getattr(model, "equiwrap", None)
    if handle is None or watch is None or handle.config.method == "average":
        return
    inputs, _ = watch.first()
    found = handle.certificate(inputs).bound
    if found.value is None or found.vacuous:
        yield (
            f"The certificate of the trained model is {found}: what is known of its symmetry is "
            "the sampled error, with its interval."
        )
