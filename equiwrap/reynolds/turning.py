"""Kernels that turn on their lattice between any channels: vectors, axial quantities, irreps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ..errors import GroupError
from ..grids import act_on_grid, axes_of
from ..groups import Elements, Group
from ..representations import Representation, TensorProduct
from .blocks import Homs, Piece, Table, cut_pieces, project_blocks, rank_of, table_of
from .intertwiners import intertwiners
from .projector import Projector

__all__ = ["Pixels", "Turning"]


@dataclass(frozen=True)
class Pixels(Representation):
    """*The permutation of the taps of a kernel*: e_x ↦ e_{gx}, flat, for lattice groups."""

    group: Group
    sides: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.sides)

    @property
    def rank(self) -> int:
        return 0

    def matrix(self, g: Elements) -> Tensor:
        units = torch.eye(self.size, dtype=g.dtype, device=g.device).reshape(-1, *self.sides)
        lead = g.shape[:-2]
        moved = act_on_grid(self.group, g.unsqueeze(-3), units.expand(*lead, *units.shape))
        return moved.flatten(-len(self.sides)).mT

    def __str__(self) -> str:
        return "pixels"


@dataclass(frozen=True)
class Turning(Projector):
    """*P on `W[o, i, *kernel]` with κ(gx) = ρ_out(g) κ(x) ρ_in(g)⁻¹*: channels move, and taps too.

    For C2, C4, D1, D2, D4 on k × k, O and O_h on k × k × k; `out` and `into` are pieces, as in
    `Blocks`, as ((16, Trivial(1)), (8, v)) for a first layer over a flow. `Kernels` is faster where
    channels rest, `Fields` where they are regular. A bias takes `Blocks`.

    Metric: Frobenius's; P is the mean over the group where the channels are orthogonal.
    Error: rounding of the dtype; 1e-15 relative in float64.
    Source: Weiler and Cesa 2019, §2 (the constraint), solved on the taps.
    """

    group: Group
    out: tuple[Piece, ...]
    into: tuple[Piece, ...]
    kernel: tuple[int, ...]
    table: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        def find(rep_out: Representation, rep_in: Representation) -> Homs:
            return _turning(self.group, rep_out, rep_in, self.kernel)

        object.__setattr__(self, "table", table_of(self.out, self.into, find))

    @property
    def rank(self) -> int:
        """*Σ over pairs of copies · dim Hom(ρ_in ⊗ pixels, ρ_out).*"""
        return rank_of(self.out, self.into, self.table)

    def cut(self, dim: int, sizes: Sequence[int]) -> Sequence[Projector] | None:
        return cut_pieces(self, dim, sizes)

    def __call__(self, weight: Tensor) -> Tensor:
        return project_blocks(weight, self.out, self.into, self.table, self.kernel)

    def lerp_(self, weight: Tensor, t: float) -> None:
        weight.detach().lerp_(self(weight.detach()), t)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _turning(
    group: Group, rep_out: Representation, rep_in: Representation, kernel: tuple[int, ...]
) -> Homs:
    """The maps K: ρ_in ⊗ pixels → ρ_out, K[o, (i x)] = κ(x)[o, i].

    Raises:
        GroupError: the group does not act on the lattice.
    """
    if not group.lattice or group.permutes or len(axes_of(group)) != len(kernel):
        raise GroupError(
            f"{group} does not map the taps of a kernel {kernel} to taps: C2, C4, D1, D2, D4 do (O "
            "and O_h in space). `Steerable` is for the other rotations of the plane."
        )
    basis = intertwiners(group, rep_out, TensorProduct((rep_in, Pixels(group, kernel))))
    return Homs(basis.reshape(len(basis), rep_out.size, rep_in.size, prod(kernel)))
