"""What a frame is: a map from an input to a finitely supported probability measure on the group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import FrameError
from ..groups import Elements, Group
from ..signature import TensorType
from .orbits import Orbits

__all__ = ["Frame", "GroupMeasure", "TypedInput", "refuse"]


class GroupMeasure(NamedTuple):
    """*μ_x = Σ_k w_k(x) δ_{g_k(x)}.* `elements[b, k, m, m]`, `weights[b, k]`, each row summing to
    one.

    A leading 1 instead of b means the same measure for every sample. `ragged` says that some
    weights are zero because samples have different numbers of elements: these are dropped before
    the model is called. `calls[b, k]` (with `ragged` only) names, for every element, the index k'
    of an element with the same canonical input, so that a stabiliser's whole coset costs one call
    of the model. `orbits` stands for a further average, over a stabiliser of permutations.
    """

    elements: Elements
    weights: Tensor
    ragged: bool = False
    calls: Tensor | None = None
    orbits: Orbits | None = None

    def draw(self, batch: int, generator: torch.Generator | None = None) -> GroupMeasure:
        """One element for each of `batch` samples, by the weights: `elements[b, 1, m, m]`."""
        weights = self.weights.expand(batch, -1)
        if generator is not None:
            weights = weights.to(generator.device)
        index = torch.multinomial(weights, 1, generator=generator).to(self.weights.device)
        row = torch.arange(batch, device=index.device).unsqueeze(-1)

        def pick(g: Tensor) -> Tensor:
            return g.expand(batch, *g.shape[1:])[row, index]

        one = torch.ones_like(index, dtype=self.weights.dtype)
        orbits = self.orbits
        if orbits is not None:
            pairs = None if orbits.pairs is None else pick(orbits.pairs)
            orbits = Orbits(pick(orbits.rows), pairs)
        return GroupMeasure(tree_map(pick, self.elements), one, orbits=orbits)


class TypedInput(NamedTuple):
    """One typed tensor of a call: `value` in pattern order with the batch axis in front."""

    type: TensorType
    value: Tensor


class Frame(nn.Module, ABC):
    """*x ↦ μ_x with μ_{hx} = h_* μ_x.* Options at construction, the group at the call.

    `stochastic`: one element of the measure is drawn in training, the whole measure is used in
    eval.
    `chunk`: at most so many elements' worth of the batch go through the model at once.
    `detach_frame`: no gradient flows through the choice of the frame.
    """

    def __init__(
        self,
        *,
        stochastic: bool = False,
        chunk: int | None = None,
        detach_frame: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
            raise ValueError(f"chunk={chunk!r} was given; it counts frame elements a call, so ≥ 1.")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(
                f"generator={generator!r} was given; it is a torch.Generator, or None."
            )
        self.stochastic, self.chunk, self.detach_frame = stochastic, chunk, detach_frame
        self.generator = generator

    grows = False  # True where a larger input has more elements, so that `calls` is the least

    @abstractmethod
    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        """The keyword arguments of `forward` that the typed inputs of one call give.

        Raises:
            SignatureError: the inputs carry nothing that this frame could be computed from.
        """

    @abstractmethod
    def forward(self, group: Group, *args: Any, **kwargs: Any) -> GroupMeasure:
        """The measure of every sample."""

    def bind(self, forward: Callable[..., Any]) -> None:
        """The forward of the model that is wrapped, for frames that ask it; others ignore it."""

    def calls(self, group: Group) -> int:
        """How many times the batch goes through the model, off ties."""
        return 1

    def describe(self, group: Group) -> str:
        """One line for the report: elements a sample, and when it is exact."""
        return type(self).__name__.lower()


def refuse(bad: Tensor, sentence: Callable[[int], str]) -> None:
    """Raise `sentence(i)` for the first sample of `bad[b]`; silent where code is being traced.

    Reads one flag from the device. A frame gives a refused sample an element that is not a number,
    so that compiled code, which cannot raise, answers NaN for it and for no other.

    Raises:
        FrameError: some sample is bad.
    """
    if torch.compiler.is_compiling() or not bool(bad.any()):
        return
    raise FrameError(sentence(int(bad.to(torch.int8).argmax())))
