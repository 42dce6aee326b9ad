"""S(n) on graphs: canonical labelling by a library, automorphisms averaged over by their orbits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import GroupError, SignatureError
from ..groups import Group
from .base import Frame, GroupMeasure, TypedInput
from .orbits import Orbits
from .sorting import rows_of

__all__ = ["Labelled", "automorphisms"]


class Labelled(Frame):
    """*The rows in the order of a canonical labelling, found by BLISS (python-igraph).*

    `edges[b, n, n, c], nodes[b, n, e] → elements[b, 1, n]` (indices). Inputs with two axes n are
    edges, weighted or not, directed or not, their diagonals and the inputs with one axis n are
    colours of the nodes; all are compared as they are, bit by bit. The stabiliser is the group of
    automorphisms, and outputs are averaged over it exactly, in one call, by its orbits on rows and
    on pairs of rows (`Orbits`): nothing is listed and nothing is sampled.

    Degenerate: nothing is, but graphs take the library's time, one after the other on the CPU.
    Weighted graphs have a vertex more for every edge whose weight is not the commonest one. Not
    differentiable in the choice, and compiled code cannot call it. Error: rounding of the mean.
    Source: Junttila and Kaski's BLISS; minimal frames of graphs as in arXiv 2406.07598.
    """

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        pairs = [item for item in inputs if len(item.type.rows) == 2]
        if not pairs or any(len(item.type.rows) > 2 for item in inputs):
            raise SignatureError(
                'frame="labelled" reads graphs, inputs with two axes n, as in "b n n, b n c -> b k"'
                '; for sets use frame="sorted".'
            )
        edges = []
        for kind, value in pairs:
            front = value.movedim(kind.rows, (1, 2))
            edges.append(front.unsqueeze(-1).flatten(3))
        singles = [item for item in inputs if len(item.type.rows) == 1]
        nodes = rows_of(group, singles) if singles else None
        return {"edges": edges, "nodes": nodes}

    def forward(
        self, group: Group, edges: Sequence[Tensor], nodes: Tensor | None = None
    ) -> GroupMeasure:
        """`edges[i][b, n, n, c_i], nodes[b, n, e] → elements[b, 1, n]`.

        Raises:
            GroupError: python-igraph is not installed.
        """
        with torch.no_grad():
            dtype = torch.complex128 if any(e.is_complex() for e in edges) else torch.float64
            stacked = torch.cat([e.to(dtype) for e in edges], -1)
            if dtype == torch.complex128:
                stacked = torch.view_as_real(stacked).flatten(-2)
            whole = stacked.cpu()
            colours = None if nodes is None else nodes.cpu()
            shapes = whole.shape[:2], whole.shape[:2], whole.shape[:3]
            order, rows, pairs = (torch.zeros(shape, dtype=torch.long) for shape in shapes)
            for i, graph in enumerate(whole):
                colour = None if colours is None else colours[i]
                order[i], rows[i], pairs[i] = _label(graph, colour)
        device = edges[0].device
        order, rows, pairs = (part.to(device) for part in (order, rows, pairs))
        one = torch.ones(len(order), 1, dtype=torch.float64, device=device)
        orbits = Orbits(rows.unsqueeze(1), pairs.unsqueeze(1))
        return GroupMeasure(order.argsort(-1).unsqueeze(1), one, orbits=orbits)

    def describe(self, group: Group) -> str:
        return "labelled: canonical labelling on the CPU, automorphisms averaged over, exact"


def automorphisms(edges: Tensor, nodes: Tensor | None = None) -> tuple[int, Tensor]:
    """The order of the automorphism group of one graph, and generators `[r, n]` (indices).

    `edges[n, n]` or `[n, n, c]`, `nodes[n, e]`.

    Raises:
        GroupError: python-igraph is not installed.
    """
    graph, colour = _build(edges if edges.ndim == 3 else edges.unsqueeze(-1), nodes)
    order = int(graph.count_automorphisms(color=colour))
    generators = [g[: len(edges)] for g in graph.automorphism_group(color=colour)]
    return order, torch.tensor(generators, dtype=torch.long).reshape(-1, len(edges))


def _label(edges: Tensor, nodes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """`edges[n, n, c], nodes[n, e] → order[n], rows[n], pairs[n, n]` of one graph."""
    n = len(edges)
    every = torch.arange(n)
    if not n or not edges.isfinite().all() or (nodes is not None and not nodes.isfinite().all()):
        return every, every, torch.arange(n * n).reshape(n, n)
    graph, colour = _build(edges, nodes)
    order = _canonical(graph, colour)
    order = order[order < n]  # in the order of their places, without the vertices of edges
    place = order.argsort()
    generators = [torch.tensor(g[:n]) for g in graph.automorphism_group(color=colour)]
    # an automorphism g takes node order[r] to node g[order[r]], which sits at place[g[order[r]]]
    moves = [place[g[order]] for g in generators]
    rows = _orbits(every, moves)
    pairs = _orbits(
        torch.arange(n * n), [(g.unsqueeze(1) * n + g.unsqueeze(0)).flatten() for g in moves]
    )
    return order, rows, pairs.reshape(n, n)


def _canonical(graph: Any, colour: list[int] | None) -> Tensor:
    """The vertex at each place of the canonical labelling."""
    found = torch.tensor(graph.canonical_permutation(color=colour))
    return found if _lists_vertices() else found.argsort()


@lru_cache(maxsize=1)
def _lists_vertices() -> bool:
    """Whether the library gives the vertex at each place, or the place of each vertex.

    Its versions differ: the right reading takes all labellings of an asymmetric graph to one form.
    """
    import igraph

    a = torch.zeros(6, 6)
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 2)):
        a[i, j] = a[j, i] = 1
    forms = set()
    for seed in range(8):
        p = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        b = a[p][:, p]
        q = torch.tensor(igraph.Graph(6, b.triu().nonzero().tolist()).canonical_permutation())
        forms.add(tuple(b[q][:, q].flatten().tolist()))
    return len(forms) == 1


def _orbits(labels: Tensor, moves: Sequence[Tensor]) -> Tensor:
    """The smallest member of each orbit, by passing labels along until nothing changes."""
    while True:
        before = labels
        for g in moves:
            labels = torch.minimum(labels, labels[g])
            labels = labels.scatter_reduce(0, g, labels, "amin")
        labels = labels[labels]  # a label is a member: jump to its own
        if torch.equal(labels, before):
            return labels


def _build(edges: Tensor, nodes: Tensor | None) -> tuple[Any, list[int]]:
    """A coloured graph of igraph whose first n vertices are the nodes.

    Raises:
        GroupError: python-igraph is not installed.
    """
    try:
        import igraph
    except ImportError:
        raise GroupError(
            'frame="labelled" finds canonical labellings with python-igraph, which is not '
            'installed: pip install "equiwrap[graphs]".'
        ) from None
    n = len(edges)
    edges = edges + 0.0  # one zero
    own = edges.diagonal(dim1=0, dim2=1).mT
    features = own if nodes is None else torch.cat([own, nodes.to(own) + 0.0], -1)
    colour = torch.unique(features, dim=0, return_inverse=True)[1].tolist()
    i, j = torch.triu_indices(n, n, 1)
    if torch.equal(edges, edges.transpose(0, 1)):
        code = torch.unique(edges[i, j], dim=0, return_inverse=True)[1]
        count = code.bincount() if len(code) else torch.zeros(1)
        rare = (code != int(count.argmax())).nonzero()[:, 0]
        if len(count) <= 2:
            pairs = torch.stack([i[rare], j[rare]], 1).tolist()
            return igraph.Graph(n, pairs), colour
        middle = n + torch.arange(len(rare))
        links = torch.cat([torch.stack([end[rare], middle], 1) for end in (i, j)]).tolist()
        return igraph.Graph(n + len(rare), links), colour + [n + c for c in code[rare].tolist()]
    every = (~torch.eye(n, dtype=torch.bool)).nonzero()
    code = torch.unique(edges[every[:, 0], every[:, 1]], dim=0, return_inverse=True)[1]
    rare = (code != int(code.bincount().argmax())).nonzero()[:, 0]
    tail = n + torch.arange(len(rare))  # source — tail — head — target
    head = tail + len(rare)
    source, target = every[rare].unbind(1)
    links = [torch.stack(pair, 1) for pair in ((source, tail), (tail, head), (head, target))]
    kinds = code[rare]
    outer = (n + 2 * kinds).tolist() + (n + 2 * kinds + 1).tolist()
    return igraph.Graph(n + 2 * len(rare), torch.cat(links).tolist()), colour + outer
