"""S(n) on sets, alone and beside rotations: exact, one call for equal rows, no factorial."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from clouds import CUBE, TETRAHEDRON, clouds
from reference import Dense, relative, sort_loop
from torch import nn

import equiwrap as ew
from equiwrap.frames import Sorted
from equiwrap.groups import Permutations, parse_group
from equiwrap.testing import check_group, tolerance

D = torch.float64
OUTPUTS = {"b k": (4,), "b n k": (6, 2), "b n n": (6, 6), "b n m n": (6, 2, 6)}


class Counting(Dense):
    """Counts the rows that reach the model."""

    rows = 0

    def forward(self, x):
        self.rows += len(x)
        return super().forward(x)


def sets(dtype=D):
    """Generic rows, equal rows, zero rows, one row six times, and a mixture."""
    x = torch.randn(5, 6, 3, dtype=dtype)
    x[1, 2:5] = x[1, :1]
    x[2, 3:] = 0
    x[3] = x[3, :1]
    x[4, 1], x[4, 5] = x[4, 0], x[4, 2]
    return x


def every_order(f, x, axes):
    """The average over all of S(n), one permutation at a time; `axes` of the output move."""
    total = 0
    orders = list(permutations(range(x.shape[1])))
    for order in orders:
        p = torch.tensor(order)
        y = f(x[:, p])  # the canonical input is x_{p_i}: the output goes back by the inverse
        for axis in axes:
            y = y.index_select(axis, p.argsort())
        total = total + y
    return total / len(orders)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pattern", OUTPUTS)
def test_sets_are_exact_for_rows_and_pairs_of_rows(pattern, dtype):
    x = sets(dtype)
    plain = Dense(6, 3, OUTPUTS[pattern], dtype)
    signature = f"b n c -> {pattern}"
    before = ew.measure.equivariance_error(plain, "S(n)", x, signature=signature)
    assert float(before) > 0.1
    model = ew.equivariantize(plain, "S(n)", signature)
    assert model.equiwrap.errors(x).worst <= tolerance(dtype)


@pytest.mark.parametrize("pattern", OUTPUTS)
def test_a_symmetric_function_is_left_as_it_is(pattern):
    x = sets()[:, :5]
    dense = Dense(5, 3, tuple(5 if s == 6 else s for s in OUTPUTS[pattern]))
    axes = [i for i, name in enumerate(pattern.split()) if name == "n"]

    class Symmetric(nn.Module):
        def forward(self, x):
            return every_order(dense, x, axes)

    model = ew.equivariantize(Symmetric(), "S(n)", f"b n c -> {pattern}")
    assert relative(model(x), every_order(dense, x, axes)) < 1e-12


def test_equal_rows_cost_one_call_and_give_the_average_over_their_symmetric_group():
    x = torch.randn(2, 20, 3, dtype=D)
    x[0, 8:] = 0
    plain = Counting(20, 3, (20, 2))
    y = ew.equivariantize(plain, "S(n)", "b n c -> b n k")(x)
    assert plain.rows == 2  # 12! orders of the zero rows, and one call a sample
    assert torch.equal(y[0, 8:], y[0, 8:9].expand(12, 2))
    assert relative(y[0, :8], y[0, :1].expand(8, 2)) > 1e-3
    few = torch.randn(1, 4, 3, dtype=D)
    few[0, 1:] = few[0, 1:2]
    dense = Dense(4, 3, (4, 4))
    found = ew.equivariantize(dense, "S(n)", "b n c -> b n n")(few)
    # by hand: over the six orders of the three equal rows, in the sorted order of the wrapper
    order = Sorted()(Permutations(), few).elements[0, 0].argsort()
    canonical = few[:, order]
    equal = [i for i in range(4) if torch.equal(canonical[0, i], few[0, 1])]
    total = 0
    for p in permutations(equal):
        g = torch.arange(4)
        g[equal] = torch.tensor(p)
        total = total + dense(canonical)[0][g][:, g]
    back = order.argsort()
    assert relative(found[0], (total / 6)[back][:, back]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", ["S(n) x O(3)", "S(n) x SO(3)", "S(n) x E(3)", "S(n) x SE(3)"])
def test_products_with_rotations_are_exact_on_every_degenerate_cloud(group, dtype):
    point = "p" if "E(" in group else "v"
    for title, cloud in clouds().items():
        n = len(cloud)
        x = torch.stack([cloud, torch.randn(n, 3, dtype=D)]).to(dtype)
        for pattern, shape in {f"b n {point}": (n, 3), "b k": (3,)}.items():
            model = ew.equivariantize(Dense(n, 3, shape, dtype), group, f"b n {point} -> {pattern}")
            found = model.equiwrap.errors(x, elements=3)
            assert found.worst <= tolerance(dtype), f"{title}, {pattern}: {found.worst:.1e}"


def test_a_cube_under_permutations_and_rotations_costs_one_call():
    for cloud in (CUBE, TETRAHEDRON):
        plain = Counting(len(cloud), 3, (len(cloud), 3))
        model = ew.equivariantize(plain, "S(n) x O(3)", "b n v -> b n v")
        y = model(cloud.to(D)[None])
        assert plain.rows == 1
        # what is left of a vector at a vertex of a symmetric cloud points along the vertex
        assert y.abs().amax() > 1e-3
        assert torch.linalg.cross(y[0], cloud.to(D)).abs().amax() < 1e-10


def test_products_with_scale_and_with_two_inputs_are_exact():
    x, v = torch.randn(3, 5, 3, dtype=D), torch.randn(3, 5, 3, dtype=D)
    x[0] = 0
    one = ew.equivariantize(Dense(5, 3, (5, 3)), "R+ x O(3)", "b n v -> b n v")
    assert one.equiwrap.errors(x).worst < 1e-12
    assert not one(x)[0].abs().amax() > 0
    three = ew.equivariantize(Dense(5, 3, (5, 3)), "S(n) x R+ x SO(3)", "b n v -> b n v")
    assert three.equiwrap.errors(x).worst < 1e-12

    class Pair(Dense):
        def forward(self, x, v):
            return super().forward(torch.cat([x, v], -1))

    both = ew.equivariantize(Pair(5, 6, (5, 3)), "S(n) x E(3)", "b n p, b n v -> b n p")
    assert both.equiwrap.errors(x, v).worst < 1e-12


def test_padding_follows_the_rows_when_the_mask_is_typed():
    class Masked(Dense):
        def forward(self, x, mask):
            weight = torch.arange(1, 7, dtype=x.dtype)[:, None]
            return super().forward(torch.where(mask[..., None], x * weight + 1, 0))

    x = torch.randn(3, 6, 3, dtype=D)
    mask = torch.arange(6) < torch.tensor([[6], [4], [2]])
    signature = "x: b n p, mask: b n -> b n p"
    for group in ("S(n) x E(3)", "S(n) x SE(3)"):
        model = ew.equivariantize(Masked(6, 3, (6, 3)), group, signature, mask="mask")
        assert model.equiwrap.errors(x, mask).worst < 1e-10
        other = torch.where(mask[..., None], x, torch.randn_like(x))
        seen = mask[..., None].expand_as(x)
        assert relative(model(other, mask)[seen], model(x, mask)[seen]) < 1e-12
    untyped = ew.equivariantize(
        Masked(6, 3, (6, 3)), "S(n) x E(3)", "x: b n p, mask: _ -> b n p", mask="mask"
    )
    with pytest.raises(ew.SignatureError, match="type it"):
        untyped(x, mask)


def test_integer_rows_move_and_come_back():
    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.body = nn.Embedding(9, 4), Dense(6, 4, (6, 2), torch.float32)

        def forward(self, kind):
            return self.body(self.table(kind))

    kind = torch.randint(0, 9, (4, 6))
    model = ew.equivariantize(Lookup(), "S(n)", "b n -> b n k")
    assert model.equiwrap.errors(kind).worst < 1e-6


def test_sorting_traces_into_one_graph_and_passes_gradients():
    x = sets().requires_grad_()
    model = ew.equivariantize(Dense(6, 3, (6, 2)), "S(n)", "b n c -> b n k")
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative(fast(x), model(x)) < 1e-12
    model(x).square().sum().backward()
    assert x.grad.isfinite().all()
    rotated = ew.equivariantize(Dense(6, 3, (6, 3)), "S(n) x SO(3)", "b n v -> b n v")
    generic = torch.randn(2, 6, 3, dtype=D)
    fast = torch.compile(rotated, fullgraph=True, backend="aot_eager")
    assert relative(fast(generic), rotated(generic)) < 1e-12
    one = generic[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotated(x).square().sum(), one)


def test_a_batch_is_sorted_many_times_faster_than_one_set_at_a_time():
    import time

    x, frame, group = torch.randn(256, 32, 3), Sorted(), Permutations()
    order = frame(group, x).elements[:, 0].argsort(-1)
    assert order.tolist() == sort_loop(x)

    def seconds(call):
        best = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            best.append(time.perf_counter() - start)
        return min(best)

    whole = seconds(lambda: frame(group, x))
    alone = seconds(lambda: sort_loop(x))
    assert alone > 5 * whole, f"{alone / whole:.0f} x"


def test_other_averages_of_permutations_and_what_is_refused():
    x = torch.randn(2, 4, 3, dtype=D)
    whole = ew.equivariantize(Dense(4, 3, (4, 2)), "S(n)", "b n c -> b n k", frame="whole")
    assert whole.equiwrap.errors(x).worst < 1e-12
    check_group("S(6)")
    with pytest.raises(ew.GroupError, match="too many to list"):
        parse_group("S(30)").elements()
    with pytest.raises(ew.GroupError, match="takes n from an input"):
        parse_group("S(n)").sample(2)
    graph = ew.equivariantize(Dense(4, 4, (3,)), "S(n)", "b n n -> b k", frame="sorted")
    with pytest.raises(ew.SignatureError, match="labelled"):
        graph(torch.randn(2, 4, 4, dtype=D))
    with pytest.raises(ew.SignatureError, match="pairs only"):
        ew.equivariantize(Dense(4, 3, (4, 4, 4)), "S(n)", "b n c -> b n n n")(x)
