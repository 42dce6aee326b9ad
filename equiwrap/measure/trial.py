"""A model with its inputs at hand: what elements do to both sides of it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SignatureError
from ..groups import Elements, Group
from ..signature import Signature, TensorType
from .acting import act, pick, positional, signature_for, wide
from .floors import dtype_floor, interpolation_floor
from .partial import PartialSet

__all__ = ["Law", "Trial", "every", "subtract"]

Law = Group | PartialSet
LISTED = 64  # groups of at most so many elements are summed over, larger ones are sampled


@dataclass(frozen=True)
class Trial:
    """*f, its inputs x, and the law of the elements g that move them.*

    Outputs are lists of the typed leaves, batch first, in float64. `law` is a group bound to the
    sizes of the inputs, or a partial set; `index[rows]` the graph of each row of ragged tensors.
    """

    model: Any
    sig: Signature
    inputs: tuple[Any, ...]
    kwargs: dict[str, Any]
    kinds: tuple[TensorType | None, ...]
    law: Law
    index: Tensor | None

    @classmethod
    def of(
        cls,
        model: Any,
        group: str | Law | None,
        signature: str | Signature | None,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Trial:
        """Read, bound and checked.

        Raises:
            SignatureError: no signature, no inputs, an empty batch, or inputs that do not fit.
        """
        sig = signature_for(model, group, signature, inputs)
        kinds = tuple(positional(sig, model, inputs))
        sizes: dict[str, int] = {}
        for kind, x in zip(kinds, inputs, strict=True):
            if kind is not None and not kind.untouched:
                sizes |= kind.sizes(kind.to_front(kind.check(x, "the input")))
        law = group if isinstance(group, PartialSet) else sig.group.at(sizes)
        index = _index(sig, model, inputs, kwargs)
        trial = cls(model, sig, inputs, kwargs, kinds, law, index)
        if not trial.batch:
            raise SignatureError("The batch is empty: an error is measured on one input at least.")
        return trial

    # -- the inputs -------------------------------------------------------------------------------

    @property
    def typed(self) -> list[tuple[TensorType, Tensor]]:
        """The typed inputs with their types."""
        pairs = zip(self.kinds, self.inputs, strict=True)
        return [(kind, x) for kind, x in pairs if kind is not None and not kind.untouched]

    @property
    def outputs(self) -> list[TensorType]:
        """The types of the typed outputs."""
        return [kind for _, kind in self.sig.outputs if not kind.untouched]

    @property
    def batch(self) -> int:
        """Number of inputs: graphs where rows are ragged."""
        kind, x = self.typed[0]
        if self.index is not None:
            return int(self.index.max()) + 1 if self.index.numel() else 0
        return len(kind.to_front(x))

    @property
    def device(self) -> torch.device:
        """That of the first typed input."""
        return self.typed[0][1].device

    @property
    def group(self) -> Group:
        """The group that the elements are of."""
        return self.law.group if isinstance(self.law, PartialSet) else self.law

    @property
    def listed(self) -> bool:
        """True where every element is tried, so that sums over the group are exact."""
        order = None if isinstance(self.law, PartialSet) else self.law.order
        return order is not None and order <= LISTED

    @property
    def floors(self) -> dict[str, float]:
        """Those of the dtype and of the interpolation, relative."""
        kind, x = self.typed[0]
        return {
            "floor": dtype_floor(x.dtype),
            "interpolation": interpolation_floor(self.group, x, kind),
        }

    # -- the elements -----------------------------------------------------------------------------

    def draws(self, count: int, seed: int, *, shared: bool = False) -> list[Elements]:
        """Every element `[1, m, m]`, the identity first; else `count` draws, one for each input."""
        if self.listed:
            return every(self.group, self.device)
        rng = torch.Generator().manual_seed(seed)
        loose = self.index is None and any(kind.ragged for kind, _ in self.typed)
        each = 1 if shared or loose else self.batch
        return [self.law.sample(each, generator=rng, device=self.device) for _ in range(count)]

    def rows(self, kind: TensorType, g: Elements) -> Elements:
        """The elements of the rows of a tensor: those of their graphs where it is ragged."""
        if self.index is None or not kind.ragged:
            return g
        parts = g if isinstance(g, tuple) else (g,)
        found = tuple(p[self.index] if len(p) > 1 else p for p in parts)
        return found if isinstance(g, tuple) else found[0]

    # -- both sides -------------------------------------------------------------------------------

    def run(self, g: Elements | None = None) -> list[Tensor]:
        """*f(ρ_in(g) x)*; f(x) without an element."""
        moved = [
            x if g is None or k is None or k.untouched else act(k, self.rows(k, g), x)
            for k, x in zip(self.kinds, self.inputs, strict=True)
        ]
        return self.leaves(self.model(*moved, **self.kwargs))

    def leaves(self, out: Any, what: str = "the output") -> list[Tensor]:
        """The typed leaves of an output, or of a target, in front order and float64."""
        pairs = zip([kind for _, kind in self.sig.outputs], self.sig.flatten(out), strict=True)
        fronts = [k.to_front(k.check(y, what)) for k, y in pairs if not k.untouched]
        return [y.detach().to(wide(y)) for y in fronts]

    def act(self, g: Elements, leaves: list[Tensor]) -> list[Tensor]:
        """*ρ_out(g)* on every leaf."""
        pairs = zip(self.outputs, leaves, strict=True)
        return [k.act(self.rows(k, g), y, 1) if k.moves else y for k, y in pairs]

    def plain(self) -> list[Tensor]:
        """*f(x)*; off the lattice f(ρ_in(1) x), which sees the disk, as f(gx) does."""
        seen = self.group.lattice or not any(kind.grid for kind, _ in self.typed)
        return self.framed(self.run(None if seen else self.group.identity(self.device)[None]))

    def aligned(self, g: Elements) -> list[Tensor]:
        """*a(x, g) = ρ_out(g)⁻¹ f(ρ_in(g) x)*."""
        return self.act(self.group.inverse(g), self.run(g))

    def framed(self, leaves: list[Tensor]) -> list[Tensor]:
        """*ρ_out(1)*: the identity, and off the lattice the part inside the disk that stays."""
        if self.group.lattice or not any(kind.grid for kind in self.outputs):
            return leaves
        return self.act(self.group.identity(self.device)[None], leaves)

    def defect(self, g: Elements, plain: list[Tensor]) -> tuple[Tensor, Tensor]:
        """*‖f(gx) − ρ_out(g) f(x)‖², ‖f(gx)‖²* of each input, given `plain` = f(x)."""
        there = self.framed(self.run(g))
        gap = subtract(there, self.act(g, plain))
        return self.dot(gap, gap), self.dot(there, there)

    def dot(self, u: list[Tensor], v: list[Tensor]) -> Tensor:
        """*Re⟨u, v⟩* of each input, `[b]`, summed over the leaves."""
        total = None
        for kind, a, b in zip(self.outputs, u, v, strict=True):
            product = (a.conj() * b).real.unsqueeze(-1).flatten(1).sum(-1)
            if kind.ragged and self.index is not None:
                zero = product.new_zeros(self.batch)
                product = zero.index_add(0, self.index, product)
            total = product if total is None else total + product
        assert total is not None
        return total


def subtract(u: list[Tensor], v: list[Tensor]) -> list[Tensor]:
    """*u − v*, leaf by leaf."""
    return [a - b for a, b in zip(u, v, strict=True)]


def every(group: Group, device: torch.device) -> list[Elements]:
    """The elements of a listed group, one by one."""
    g = group.elements(device)
    return [pick(g, i) for i in range(group.order or 0)]


def _index(
    sig: Signature, model: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor | None:
    """The argument that holds the graph of each row, None where there is none to be found."""
    if sig.index is None or sig.index in kwargs:
        return kwargs.get(sig.index) if sig.index else None
    target = model.forward if isinstance(model, nn.Module) else model
    order = list(inspect.signature(target).parameters)
    at = order.index(sig.index) if sig.index in order else len(inputs)
    return inputs[at] if at < len(inputs) else None
