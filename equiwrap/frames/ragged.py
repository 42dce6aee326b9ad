"""Ragged batches, as PyTorch Geometric writes them: the rows of all graphs below one another.

`pos[N, 3]` with `batch[N]`, the graph of each row. Frames are computed on padded copies; the rows
themselves are never padded. The elements of one sample act on its rows, and a measure of k elements
calls the model k times on the whole batch, so that edges and other arguments stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import SignatureError
from ..groups import Elements, Group
from ..signature import Signature, TensorType
from .average import read_inputs
from .base import GroupMeasure, TypedInput
from .restore import check_mean

__all__ = ["RaggedCanonical", "RaggedCanonicalize", "RaggedRestore", "pad_inputs"]


def pad_inputs(
    types: Mapping[str, TensorType], inputs: Sequence[Any], index: Tensor | None
) -> tuple[list[TypedInput], Tensor]:
    """The typed inputs of one call with ragged ones as `b n …`, and the mask `[b, n]` of real rows.

    Raises:
        SignatureError: a tensor does not fit its pattern, or the index does not fit the rows.
    """
    ragged = {n: x for (n, t), x in zip(types.items(), inputs, strict=True) if t.ragged}
    rows = {n: len(x) for n, x in ragged.items()}
    place = graph_of(index, next(iter(ragged.values())))
    if set(rows.values()) != {len(place)}:
        raise SignatureError(
            f"The ragged inputs have {rows} rows, and the index names the graphs of {len(place)}."
        )
    count = place.bincount(minlength=int(index is None))
    batch, most = len(count), max([1, *count.tolist()])
    order = place.sort(stable=True).indices
    start = count.cumsum(0) - count
    column = torch.arange(len(place), device=place.device) - start[place[order]]
    found = []
    for (name, kind), x in zip(types.items(), inputs, strict=True):
        if not kind.ragged:
            found += read_inputs({name: kind}, (x,))
            continue
        kind.check(x, f"The input {name}")
        padded = x.new_zeros(batch, most, *x.shape[1:]).index_put((place[order], column), x[order])
        found.append(TypedInput(kind.padded, padded))
    sizes = {len(item.value) for item in found}
    if len(sizes) > 1:
        raise SignatureError(
            f"The ragged inputs hold {batch} graphs, and other inputs have batches of "
            f"{sorted(sizes - {batch})}."
        )
    mask = torch.arange(most, device=place.device) < count.unsqueeze(-1)
    return found, mask


def graph_of(index: Tensor | None, rows: Tensor) -> Tensor:
    """The graph of each row; one graph where no index was given, none where it is empty.

    Raises:
        SignatureError: the index is not a row of integers.
    """
    if index is None:
        return torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    if index.ndim != 1 or index.is_floating_point() or index.is_complex():
        raise SignatureError(
            f"The graph index has shape {list(index.shape)} and dtype {index.dtype}; it holds one "
            "integer a row, as batch does in PyTorch Geometric."
        )
    return index.long()


class RaggedCanonical(NamedTuple):
    """The copies of the arguments, one a call, and what restores their outputs."""

    copies: list[dict[str, Any]]
    measure: GroupMeasure
    slots: Tensor  # [b, k]: the copy that serves each element
    graph: Tensor  # [N]


class RaggedCanonicalize(nn.Module):
    """*x_i ↦ ρ_in(g_k)⁻¹ x_i, the g_k of the graph of row i*: a copy of the batch an element."""

    def __init__(self, group: Group, types: Mapping[str, TensorType], index: str) -> None:
        super().__init__()
        self.group, self.types, self.index = group, dict(types), index

    def forward(
        self, measure: GroupMeasure, inputs: tuple[Any, ...], rest: dict[str, Any]
    ) -> RaggedCanonical:
        """Typed `inputs` in declared order and the `rest` of the call → the copies."""
        typed = {n: t for n, t in self.types.items() if not t.untouched}
        named = dict(zip(typed, inputs, strict=True))
        first = next(x for n, x in named.items() if typed[n].ragged)
        index = rest.get(self.index)
        graph = graph_of(index, first)
        batch = int(graph.amax()) + 1 if len(graph) else int(index is None)
        measure = _for_every(measure, batch)
        called, slots = _slots(measure)
        copies = []
        for k in called:
            back = self.group.inverse(tree_map(lambda g, k=k: g[:, k], measure.elements))
            moved = {n: _move(typed[n], back, x, graph) for n, x in named.items()}
            copies.append({**rest, **moved})
        return RaggedCanonical(copies, measure, slots, graph)


def _for_every(measure: GroupMeasure, batch: int) -> GroupMeasure:
    k = measure.weights.shape[1]
    elements = tree_map(lambda g: g.expand(batch, k, *g.shape[2:]), measure.elements)
    return measure._replace(elements=elements, weights=measure.weights.expand(batch, k))


def _slots(measure: GroupMeasure) -> tuple[list[int], Tensor]:
    """The elements that are called for some sample, and `[b, k]`: which of these serves each."""
    k = measure.weights.shape[1]
    own = torch.arange(k, device=measure.weights.device).expand_as(measure.weights)
    calls = own if measure.calls is None else measure.calls
    if not measure.ragged:
        return list(range(k)), calls
    used = torch.where(measure.weights > 0, calls, 0)
    called = used.unique().tolist() or [0]  # no graph: one copy, for the shapes of the outputs
    place = torch.zeros(k, dtype=torch.long, device=own.device)
    place[called] = torch.arange(len(called), device=own.device)
    return called, place[used]


def _move(kind: TensorType, g: Elements, x: Tensor, graph: Tensor) -> Tensor:
    if not kind.moves:
        return x
    mine = tree_map(lambda e: e[graph], g) if kind.ragged else g
    return kind.from_front(kind.act(mine, kind.to_front(x), 1))


class RaggedRestore(nn.Module):
    """*(y_k) ↦ Σ_k w_k ρ_out(g_k) y_k*, for outputs a row `(b n) …` and a graph `b …`."""

    def __init__(self, group: Group, signature: Signature) -> None:
        super().__init__()
        self.group, self.signature = group, signature

    def forward(self, outputs: list[Any], canonical: RaggedCanonical) -> Any:
        """The outputs of every copy → the averaged ones, in the same container."""
        leaves = zip(*[self.signature.flatten(out) for out in outputs], strict=True)
        types = [kind for _, kind in self.signature.outputs]
        restored = [
            self._restore(kind, list(leaf), canonical)
            for kind, leaf in zip(types, leaves, strict=True)
        ]
        return self.signature.unflatten(outputs[0], restored)

    @staticmethod
    def _restore(kind: TensorType, copies: list[Any], canonical: RaggedCanonical) -> Any:
        if kind.untouched:
            return copies[0]
        measure, slots, graph = canonical.measure, canonical.slots, canonical.graph
        front = [kind.to_front(kind.check(y, "the output")) for y in copies]
        elements, weights = measure.elements, measure.weights
        if kind.ragged:
            elements = tree_map(lambda g: g[graph], elements)
            weights, slots = weights[graph], slots[graph]
        if len(front[0]) != len(weights):
            raise SignatureError(
                f"The output {str(kind)!r} has {len(front[0])} entries, and there are "
                f"{len(weights)} {'rows' if kind.ragged else 'graphs'}: write (b n) for an output "
                "a row, and b for one a graph."
            )
        if weights.shape[1] == 1:
            one = tree_map(lambda g: g[:, 0], elements)
            return kind.from_front(kind.act(one, front[0], 1) if kind.moves else front[0])
        check_mean(kind, copies[0])
        stacked = torch.stack(front)  # [copies, rows, …]
        row = torch.arange(len(weights), device=weights.device)
        wide = torch.promote_types(stacked.dtype, torch.float32)
        total = torch.zeros_like(front[0], dtype=wide)
        for k in range(weights.shape[1]):
            y = stacked[slots[:, k], row]
            if kind.moves:
                y = kind.act(tree_map(lambda g, k=k: g[:, k], elements), y, 1)
            w = weights[:, k].to(wide).reshape(-1, *[1] * (y.ndim - 1))
            total = total + torch.where(w > 0, w * y.to(wide), 0.0)
        return kind.from_front(total.to(stacked.dtype))
