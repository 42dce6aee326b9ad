"""What every projection of weights is: linear, idempotent, and done in place where it decays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Projector", "wide"]


class Projector(ABC):
    """*P: W ↦ ∫ ρ_out(g) W ρ_in(g)⁻¹ dg* on tensors of one shape; P² = P, and Pᵀ = P where said.

    Arithmetic in float32 at least; the result has the dtype and device of W.
    """

    @property
    @abstractmethod
    def rank(self) -> int:
        """*dim im P = tr P*: the free numbers of an equivariant weight."""

    @abstractmethod
    def __call__(self, weight: Tensor) -> Tensor:
        """*PW*, a new tensor; differentiable."""

    @abstractmethod
    def lerp_(self, weight: Tensor, t: float) -> None:
        """*W ← W + t (PW − W)*, in place and without a graph: 1 is the hard projection."""

    def project(self, weight: Tensor) -> Tensor:
        """*PW*, a new tensor without a graph or tangents: by `lerp_`, which is the quicker one."""
        if torch.compiler.is_compiling():
            return self(weight)
        kept = weight.detach().clone(memory_format=torch.contiguous_format)
        self.lerp_(kept, 1.0)
        return kept

    def lerp_each_(self, weights: Sequence[Tensor], t: float) -> None:
        """`lerp_` of several weights of this shape, of one dtype and on one device."""
        for weight in weights:
            self.lerp_(weight, t)

    def cut(self, dim: int, sizes: Sequence[int]) -> Sequence[Projector] | None:
        """*P_k with (PW)[slice k] = P_k W[slice k]*, for neighbouring slices along an axis.

        `sizes` sum to the length of the axis; some may be 0. None, the default, where P mixes them.
        """
        return None


def wide(weight: Tensor) -> Tensor:
    """The weight in float32 at least."""
    return weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
