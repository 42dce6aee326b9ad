"""Graphs: canonical labelling, automorphism groups of any size in one call."""

from __future__ import annotations

import time

import pytest
import torch
from reference import Dense, relative
from reference_graphs import automorphism_count, every_labelling

import equiwrap as ew
from equiwrap.frames import Labelled, automorphisms
from equiwrap.groups import Permutations

pytest.importorskip("igraph", reason="needs python-igraph")
D = torch.float64


def rook():
    cell = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    return ((cell[:, None] == cell).sum(-1) == 1).to(D)


def shrikhande():
    cell = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    step = (cell[:, None] - cell) % 4
    steps = [(0, 1), (0, 3), (1, 0), (3, 0), (1, 1), (3, 3)]
    return torch.stack([(step == torch.tensor(s)).all(-1) for s in steps]).any(0).to(D)


def star(n):
    a = torch.zeros(n, n, dtype=D)
    a[0, 1:] = a[1:, 0] = 1
    return a


def circle(n):
    eye = torch.eye(n, dtype=D)
    return eye.roll(1, 0) + eye.roll(-1, 0)


def petersen():
    pairs = [{a, b} for a in range(5) for b in range(a)]
    return torch.tensor([[float(not p & q) for q in pairs] for p in pairs], dtype=D)


def coin(n, weights=(1.0,), directed=False):
    a = (torch.rand(n, n) < 0.4) * torch.tensor(weights)[torch.randint(len(weights), (n, n))]
    a = a.fill_diagonal_(0).to(D)
    return a if directed else a.triu(1) + a.triu(1).mT


GRAPHS = {
    "random": (lambda: coin(12), None),
    "weighted": (lambda: coin(9, (0.5, 1.0, 2.5)), None),
    "directed": (lambda: coin(8, (1.0,), True), None),
    "directed and weighted": (lambda: coin(7, (1.0, -2.0), True), None),
    "circle": (lambda: circle(20), 40),
    "Petersen": (petersen, 120),
    "rook": (rook, 1152),
    "Shrikhande": (shrikhande, 192),
    "complete": (lambda: 1 - torch.eye(7, dtype=D), 5040),
    "star": (lambda: star(8), 5040),
    "empty": (lambda: torch.zeros(10, 10, dtype=D), 3628800),
    "weighted circle": (lambda: circle(6) * 2.0 + torch.roll(circle(6), 3, 1), None),
}


class Counting(Dense):
    rows = 0

    def forward(self, x):
        self.rows += len(x)
        return super().forward(x)


@pytest.mark.parametrize("title", GRAPHS)
def test_every_graph_is_exact_in_one_call(title):
    make, order = GRAPHS[title]
    a = make()
    n = len(a)
    if order is not None:
        assert automorphisms(a)[0] == order
    x = torch.stack([a, coin(n), coin(n)])
    for pattern, shape in {"b k": (3,), "b n k": (n, 2), "b n n": (n, n)}.items():
        plain = Counting(n, n, shape)
        model = ew.equivariantize(plain, "S(n)", f"b n n -> {pattern}", frame="labelled")
        start = time.perf_counter()
        model(x)
        assert plain.rows == 3
        assert time.perf_counter() - start < 2
        assert model.equiwrap.errors(x, elements=6).worst < 1e-9, pattern


def test_the_plain_network_fails():
    x = torch.stack([coin(6) for _ in range(4)])
    found = ew.measure.equivariance_error(Dense(6, 6, (3,)), "S(n)", x, signature="b n n -> b k")
    assert float(found) > 0.05


def test_two_strongly_regular_graphs_agree_with_themselves_and_differ_from_each_other():
    model = ew.equivariantize(Dense(16, 16, (8,)), "S(n)", "b n n -> b k", frame="labelled")
    answers = []
    for a in (rook(), shrikhande()):
        orders = [torch.randperm(16) for _ in range(200)]
        y = model(torch.stack([a[p][:, p] for p in orders]))
        assert relative(y, y[:1].expand_as(y)) < 1e-12
        answers.append(y[0])
    assert relative(*answers) > 1e-3


@pytest.mark.parametrize(("pattern", "rows"), [("b k", 0), ("b n k", 1), ("b n n", 2)])
@pytest.mark.parametrize(
    "make", [lambda: star(5), lambda: circle(5), lambda: coin(5), lambda: coin(4, (1, 2))]
)
def test_a_symmetric_function_is_left_as_it_is(make, pattern, rows):
    a = make()[None]
    n = a.shape[1]
    dense = Dense(n, n, {"b k": (3,), "b n k": (n, 2), "b n n": (n, n)}[pattern])

    class Symmetric(torch.nn.Module):
        def forward(self, a):
            return every_labelling(dense, a, rows)

    model = ew.equivariantize(Symmetric(), "S(n)", f"b n n -> {pattern}", frame="labelled")
    assert relative(model(a), every_labelling(dense, a, rows)) < 1e-12


def test_orbits_are_those_of_the_whole_automorphism_group():
    for a in (circle(6), star(5), coin(6), coin(5, (1.0, 2.0)), circle(4).triu()):
        order, generators = automorphisms(a)
        assert order == automorphism_count(a)
        assert all(torch.equal(a[g][:, g], a) for g in generators)
        measure = Labelled()(Permutations(), [a[None, ..., None]])
        p = measure.elements[0, 0].argsort()
        z = a[p][:, p]
        from itertools import permutations

        group = [torch.tensor(q) for q in permutations(range(len(a)))]
        group = [q for q in group if torch.equal(z[q][:, q], z)]
        for i in range(len(a)):
            mine = {int(q[i]) for q in group}
            label = measure.orbits.rows[0, 0]
            assert mine == set((label == label[i]).nonzero()[:, 0].tolist())
        pairs = measure.orbits.pairs[0, 0]
        for i in range(len(a)):
            for j in range(len(a)):
                mine = {(int(q[i]), int(q[j])) for q in group}
                same = {tuple(ij) for ij in (pairs == pairs[i, j]).nonzero().tolist()}
                assert mine == same


def test_node_features_are_colours_and_integers_are_welcome():
    class Both(Dense):
        def forward(self, a, x):
            return super().forward(torch.cat([a.to(D), x], -1))

    a = torch.stack([circle(6), star(6)]).long()
    x = torch.randn(2, 6, 2, dtype=D)
    x[0, 3:] = x[0, :3]
    model = ew.equivariantize(Both(6, 8, (6, 2)), "S(n)", "b n n, b n c -> b n k", frame="labelled")
    assert model.equiwrap.errors(a, x).worst < 1e-12
    auto = ew.equivariantize(Both(6, 8, (6, 2)), "S(n)", "b n n, b n c -> b n k")
    assert type(auto.equiwrap.frame) is Labelled


def test_nan_stays_in_its_graph_and_sets_get_a_sentence():
    x = torch.stack([coin(5) for _ in range(3)])
    model = ew.equivariantize(Dense(5, 5, (2,)), "S(n)", "b n n -> b k", frame="labelled")
    y = model(x)
    x[1, 0, 2] = torch.nan
    assert model(x)[1].isnan().all()
    assert relative(model(x)[[0, 2]], y[[0, 2]]) < 1e-12
    sets = ew.equivariantize(Dense(5, 5, (2,)), "S(n)", "b n c -> b k", frame="labelled")
    with pytest.raises(ew.SignatureError, match="sorted"):
        sets(x)
