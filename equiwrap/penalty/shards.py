"""Weights that several processes hold in shards (DTensor): which act alone, which are gathered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError
from ..reynolds import Projector

__all__ = ["Norm", "act_", "held", "settle", "sharded"]

Norm = Callable[[Tensor], Tensor]  # of the whole weight, from what this process holds of it


def sharded(weight: Tensor) -> bool:
    """True for a DTensor; nothing is imported to find out."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(weight, module.DTensor)


def settle(model: nn.Module) -> None:
    """Free what a forward under FSDP2 left gathered: a write there would be lost."""
    module = sys.modules.get("torch.distributed.fsdp")
    if module is not None and isinstance(model, module.FSDPModule):
        for one in model.modules():
            if isinstance(one, module.FSDPModule):
                one.reshard()


def held(projector: Projector, weight: Tensor) -> tuple[Projector, Tensor, Norm]:
    """(P, W, |·|) that this process computes with; autograd leads back to the shards.

    A plain tensor is itself. Of a sharded one that `Projector.cut` divides it is the own shard with
    its own P, no communication, and |·| one scalar summed over the processes. Any other is gathered
    (`full_tensor`, an all-gather of this one weight). Which it is follows from shapes alone, so
    that all processes agree; all of them must call, in the same order.
    """
    if not sharded(weight):
        return projector, weight, torch.linalg.vector_norm
    own, whole = _own(projector, weight), weight
    if own is None:
        return projector, whole.full_tensor(), torch.linalg.vector_norm  # type: ignore[attr-defined]
    local: Tensor = whole.to_local()  # type: ignore[attr-defined]
    return own if local.numel() else _Nothing(), local, _summed(whole)


def act_(projector: Projector, weight: Tensor, act: Callable[..., None], *given: Any) -> None:
    """`act(P, W, *given, |·|)` in place on what is `held`; of a gathered W the own shard stays."""
    weight = weight.detach()
    own, part, norm = held(projector, weight)
    act(own, part, *given, norm)
    if norm is torch.linalg.vector_norm and part is not weight:
        from torch.distributed.tensor import DTensor, Replicate

        mesh, to = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
        back = DTensor.from_local(part, mesh, [Replicate()] * mesh.ndim, run_check=False)
        weight.to_local().copy_(back.redistribute(mesh, to).to_local())  # type: ignore[attr-defined]


def _own(projector: Projector, weight: Any) -> Projector | None:
    """The projector of the own shard; None where P needs the whole weight."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, moved = weight.device_mesh, []
    for axis, placement in enumerate(weight.placements):
        if type(placement) is Shard:
            moved.append((axis, placement.dim))
        elif not isinstance(placement, Replicate):
            return None
    if len(moved) != 1:
        return None
    (axis, dim), count = moved[0], mesh.size(moved[0][0])
    rows = -(-weight.shape[dim] // count)  # as torch.chunk: the last ones may be short, or empty
    sizes = tuple(max(0, min(rows, weight.shape[dim] - r * rows)) for r in range(count))
    parts = _cut(projector, dim, sizes)
    return None if parts is None else parts[mesh.get_local_rank(axis)]


@lru_cache(maxsize=1024)
def _cut(projector: Projector, dim: int, sizes: tuple[int, ...]) -> Sequence[Projector] | None:
    return projector.cut(dim, sizes)


def _summed(whole: Any) -> Norm:
    """*√Σ_shards |x|²*, by one all-reduce of one float64."""
    from torch.distributed.tensor import DTensor, Partial, Shard

    kinds = [Partial() if type(p) is Shard else p for p in whole.placements]

    def norm(x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise CaptureError(
                "A second derivative of |R| or |R|²/|W|² was asked for (create_graph=True) of a "
                'sharded weight: use metric="frobenius", or one process.'
            )
        size = torch.linalg.vector_norm(x)
        square = DTensor.from_local(size.double().square(), whole.device_mesh, kinds)
        return square.full_tensor().sqrt().to(size.dtype)

    return norm


class _Nothing(Projector):
    """*P of no entries*: the shard of a process that has none."""

    @property
    def rank(self) -> int:
        return 0

    def __call__(self, weight: Tensor) -> Tensor:
        return weight.clone()

    def lerp_(self, weight: Tensor, t: float) -> None:
        """Nothing."""
