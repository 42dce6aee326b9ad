"""What a group is here: elements that multiply, with generators, a sampler and perhaps a list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import GroupError

__all__ = ["Device", "Elements", "Group", "working_dtype"]

Device = torch.device | str | None

# A batch of elements: matrices [..., m, m], indices [..., n] of permutations, or for a product one
# such batch a factor.
Elements = Any


def working_dtype(device: Device) -> torch.dtype:
    """float64 wherever the device has it: frames are small, their rounding is everybody's
    rounding.
    """
    return torch.float32 if torch.device(device or "cpu").type == "mps" else torch.float64


class Group(ABC):
    """A matrix group: `size` is the side m of its matrices, `dim` the dimension d it acts on.

    Elements are tensors `g[..., m, m]` in the working dtype (float64), on any device; those of
    permutations are indices `g[..., n]`. A family implements `name`, `dim`, `generators`, `sample`
    and `distance`, `algebra` if it is continuous, `elements` and `order` if it is finite, `inverse`
    if its matrices are not orthogonal; nothing needs to be registered.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that `parse_group` reads back."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension d of the defining representation."""

    @property
    def size(self) -> int:
        """Side m of the element matrices: d, or d + 1 where translations make them homogeneous."""
        return self.dim + 1 if self.affine else self.dim

    @property
    def affine(self) -> bool:
        """True where the group moves positions by translations (E, SE)."""
        return False

    @property
    def compact(self) -> bool:
        """True where a Haar probability exists, so that `sample` draws from it."""
        return not self.affine

    @property
    def orthogonal(self) -> bool:
        """True where the linear parts of the matrices are orthogonal."""
        return True

    @property
    def permutes(self) -> bool:
        """True where elements are integers that only reorder entries (S(n), T(2))."""
        return False

    @property
    def complex(self) -> bool:
        """True where the matrices are complex, and so the tensors they move."""
        return False

    def at(self, sizes: Mapping[str, int]) -> Group:
        """The group for axes of these sizes, by name; most groups do not depend on any."""
        return self

    @property
    def order(self) -> int | None:
        """Number of elements, None where there is no list: the group is infinite, or too large."""
        return None

    @property
    def lattice(self) -> bool:
        """True where every element is a signed permutation, hence exact on pixels."""
        return False

    @property
    def reflections(self) -> bool:
        """True where some element has determinant −1."""
        return True

    @abstractmethod
    def generators(self, device: Device = None) -> Tensor:
        """`[r, m, m]`: elements that, with exp of `algebra`, generate the group topologically."""

    def algebra(self, device: Device = None) -> Tensor:
        """`[a, m, m]`: a basis of the Lie algebra; empty for a finite group."""
        return torch.zeros(0, self.size, self.size, dtype=working_dtype(device), device=device)

    @abstractmethod
    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        device: Device = None,
    ) -> Elements:
        """`[count, m, m]` independent elements: Haar where compact, as documented elsewhere."""

    @abstractmethod
    def distance(self, g: Elements) -> Tensor:
        """`g[..., m, m] → [...]`: how far each matrix is from the group, 0 on it."""

    def elements(self, device: Device = None) -> Elements:
        """`[|G|, m, m]`: every element, the identity first.

        Raises:
            GroupError: the group is infinite.
        """
        raise GroupError(
            f"{self.name} is infinite: it can be sampled, not listed. Average over a frame "
            '(frame="axes") or over samples (frame=ew.frames.Haar(8)).'
        )

    def identity(self, device: Device = None) -> Elements:
        """`[m, m]`: the neutral element."""
        return torch.eye(self.size, dtype=working_dtype(device), device=device)

    def compose(self, g: Elements, h: Elements) -> Elements:
        """`g[..., m, m], h[..., m, m] → gh[..., m, m]`."""
        return g @ h

    def inverse(self, g: Elements) -> Elements:
        """`g[..., m, m] → g⁻¹[..., m, m]`: the transpose, as for orthogonal matrices."""
        return g.mT

    def linear(self, g: Elements) -> Tensor:
        """`g[..., m, m] → [..., d, d]`: what acts on a vector."""
        return g[..., : self.dim, : self.dim]

    def __str__(self) -> str:
        return self.name
