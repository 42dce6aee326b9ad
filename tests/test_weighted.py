"""Weighted frames: exact on every degenerate cloud and set, and continuous, which others are
not."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from clouds import clouds
from reference import Dense, Sets, relative
from reference_weighted import about_the_line, law_of_argsort, separated_loop, weighted_loop
from torch import nn

import equiwrap as ew
from equiwrap.frames import Axes, Frame, GroupMeasure, weighted
from equiwrap.frames.continuity import continuity_report
from equiwrap.frames.separated import Separated, directions
from equiwrap.frames.weighted import Weighted
from equiwrap.groups import Permutations, parse_group
from equiwrap.testing import check_frame, tolerance

D = torch.float64
BOTH = pytest.mark.parametrize("dtype", [torch.float32, D], ids=str)
GROUPS = ["SO(2)", "O(2)", "SE(2)", "E(2)", "SO(3)", "O(3)", "SE(3)", "E(3)"]
N = 7  # rows of a padded batch of clouds


class Masked(Dense):
    """A dense network on the visible rows; several inputs lie side by side."""

    def forward(self, x, mask, v=None, w=None):
        rows = torch.cat([y for y in (x, v, w) if y is not None], -1)
        return super().forward(torch.where(mask.unsqueeze(-1), rows, 0.0))


def batch(d, dtype):
    """Every cloud of tests/clouds.py, at most 7 points of it, in one padded batch."""
    found = {name: x[:N, :d] for name, x in clouds().items()}
    found |= {f"generic {n}": torch.randn(n, d, dtype=D) for n in (4, 5, 7)}
    x = torch.full((len(found), N, d), torch.nan, dtype=D)
    mask = torch.zeros(len(found), N, dtype=torch.bool)
    for i, cloud in enumerate(found.values()):
        x[i, : len(cloud)], mask[i, : len(cloud)] = cloud, True
    return x.to(dtype), mask


def outputs(group):
    point, d = ("p" if group.affine else "v"), group.dim
    return {"b k": (4,), f"b n {point}": (N, d), "b v v": (d, d)}


def wrapped(plain, group, signature, **options):
    return ew.equivariantize(plain, group, signature, frame=Weighted(**options))


def visible(x):
    """Rounding noise of the inputs' own offset is not the frame's: clouds of size one."""
    return x.nan_to_num().abs().flatten(1).amax(1) < 100


# -- rotations: exact ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", GROUPS)
def test_averages_are_exact_on_every_degenerate_cloud(name, dtype):
    group = parse_group(name)
    x, mask = batch(group.dim, dtype)
    near = visible(x)
    for pattern, shape in outputs(group).items():
        plain = Masked(N, group.dim, shape, dtype)
        point = "p" if group.affine else "v"
        signature = f"x: b n {point}, mask: _ -> {pattern}"
        before = ew.measure.equivariance_error(
            plain, group, x.nan_to_num(), mask, signature=signature
        )
        model = ew.equivariantize(plain, group, signature, frame=Weighted(), mask="mask")
        assert float(before) > 0.05
        assert model.equiwrap.errors(x[near], mask[near], elements=3).worst <= tolerance(dtype)
        far = model.equiwrap.errors(x[~near], mask[~near], elements=3).worst
        assert far <= max(tolerance(dtype), 1e4 * torch.finfo(dtype).eps)
        assert bool(model(x, mask).isfinite().all())


@BOTH
@pytest.mark.parametrize("name", ["SO(3)", "O(3)", "SE(3)", "E(3)"])
def test_narrow_clouds_are_exact_at_every_width_with_vectors_and_axial_vectors(name, dtype):
    group = parse_group(name)
    widths = torch.tensor([0.0, *(10.0 ** -(k / 2) for k in range(1, 20))], dtype=D)
    line = torch.randn(20, 4, 1, dtype=D) * torch.randn(20, 1, 3, dtype=D)
    x = line + widths[:, None, None] * torch.randn(20, 4, 3, dtype=D)
    along = line[:, :1] / line[:, :1].norm(dim=-1, keepdim=True)
    v = along * torch.randn(20, 4, 1, dtype=D) + widths[:, None, None] * torch.randn(20, 4, 3)
    letter, axial = ("p" if group.affine else "v"), ("a" if group.reflections else "v")
    w = torch.where(torch.arange(20)[:, None, None] % 2 == 0, along, 0.0).expand(20, 4, 3)
    inputs = [y.to(dtype) for y in (x, v, w)]
    for pattern, shape in {"b k": (3,), "b v": (3,), "b n v v": (4, 3, 3)}.items():

        class Three(Dense):
            def forward(self, x, v, w):
                return super().forward(torch.cat([x, v, w], -1))

        plain = Three(4, 9, shape, dtype)
        signature = f"b n {letter}, b n v, b n {axial} -> {pattern}"
        model = wrapped(plain, group, signature)
        assert model.equiwrap.errors(*inputs, elements=3).worst <= tolerance(dtype)


@pytest.mark.parametrize("name", GROUPS)
def test_elements_and_weights_are_those_of_the_loop(name):
    group = parse_group(name)
    x = torch.randn(3, 5, group.dim, dtype=D)
    measure = Weighted()(group, x)
    for i in range(3):
        loop = weighted_loop(x[i], group)
        ours = measure.elements[i][measure.weights[i] > 0].flatten(1)
        weights = measure.weights[i][measure.weights[i] > 0]
        gap = (ours.unsqueeze(1) - torch.stack([g for g, _ in loop]).flatten(1)).abs().amax(-1)
        assert len(ours) == len(loop)
        assert float(gap.amin(1).amax()) < 1e-12
        theirs = torch.tensor([w for _, w in loop], dtype=D)[gap.argmin(1)]
        torch.testing.assert_close(weights, theirs, atol=1e-13, rtol=0)
    check_frame(Weighted(), group, x, signature=f"b n {'p' if group.affine else 'v'} -> b k")


@pytest.mark.parametrize("name", ["SO(3)", "O(3)"])
def test_on_a_line_the_average_is_the_integral_over_all_turns_about_it(name):
    group = parse_group(name)
    x = torch.randn(5, 1, dtype=D) * torch.randn(1, 3, dtype=D)
    acts = {
        "b v": ((3,), lambda g, y: g @ y),
        "b v v": ((3, 3), lambda g, y: g @ y @ g.mT),
        "b k": ((4,), lambda g, y: y),
    }
    if group.reflections:
        acts["b a"] = ((3,), lambda g, y: torch.linalg.det(g) * (g @ y))
    for pattern, (shape, act) in acts.items():
        plain = Dense(5, 3, shape)
        expected = about_the_line(plain, x, act, group.reflections)
        found = wrapped(plain, group, f"b n v -> {pattern}")(x[None])[0]
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["SO(2)", "O(2)", "SO(3)", "O(3)"])
def test_a_point_gives_what_every_rotation_leaves_alone(name):
    group = parse_group(name)
    x = torch.zeros(2, 1, group.dim, dtype=D)
    x[1] = torch.randn(group.dim)
    d, eye = group.dim, torch.eye(group.dim, dtype=D)
    vector = wrapped(Dense(1, d, (d,)), group, "b n v -> b v")(x)
    matrix = wrapped(Dense(1, d, (d, d)), group, "b n v -> b v v")(x)[0]
    assert float(vector[0].detach().abs().amax()) < 1e-15
    assert float(vector[1].detach().norm()) > 1e-4
    part = matrix.trace() / d * eye
    if name == "SO(2)":
        part = part + (matrix - matrix.mT) / 2
    torch.testing.assert_close(matrix, part, atol=1e-14, rtol=0)
    moved = wrapped(Dense(1, d, (d,)), name.replace("O", "E"), "b n p -> b v")
    assert float(moved(x).detach().abs().amax()) < 1e-14


def test_the_groups_for_a_point_are_exact_to_their_rank_and_no_larger():
    for rank, order in ((0, 12), (2, 12), (3, 24), (4, 60), (5, 60)):
        g = torch.tensor(weighted._rotations(rank), dtype=D)
        assert len(g) == order
        assert float(parse_group("SO(3)").distance(g).amax()) < 1e-12
        power = g
        for t, haar in enumerate((0, 1, 1, 3, 6), 1):  # dimensions of the invariant tensors
            if t > 1:
                power = torch.einsum("mij,mkl->mikjl", power, g).flatten(3).flatten(1, 2)
            found = round(float(power.diagonal(dim1=1, dim2=2).sum(1).mean()))
            assert found == haar if t <= rank else found >= haar


def test_an_equivariant_function_is_left_as_it_is():
    class Cubic(nn.Module):
        def forward(self, x):
            return x * x.square().sum(-1, keepdim=True) + x.mean(1, keepdim=True)

    x = torch.randn(3, 5, 3, dtype=D)
    x[1], x[2, :, 1:] = 0, 0
    for group in ("SO(3)", "O(3)"):
        model = wrapped(Cubic(), group, "b n v -> b n v")
        assert relative(model(x), Cubic()(x)) < 1e-13


def test_handedness_is_seen_by_rotations_and_not_by_reflections():
    x = torch.randn(2, 5, 3, dtype=D)
    for group, seen in (("SO(3)", True), ("O(3)", False)):
        model = wrapped(Dense(5, 3, (4,)), group, "b n v -> b k")
        assert (relative(model(x), model(-x)) > 1e-2) is seen


def test_neither_the_order_of_the_points_nor_what_a_mask_hides_matters():
    x, mask = torch.randn(2, 6, 3, dtype=D), torch.arange(6) < torch.tensor([[6], [4]])

    class Pooled(Sets):
        def forward(self, x, mask):
            return super().forward(torch.where(mask.unsqueeze(-1), x, 0.0))

    signature = "x: b n p, mask: _ -> b v"
    plain = Pooled(3, 3, True)
    model = ew.equivariantize(plain, "SE(3)", signature, frame=Weighted(), mask="mask")
    shuffle = torch.randperm(6)
    y = model(x, mask)
    assert relative(model(x[:, shuffle], mask[:, shuffle]), y) < 1e-13
    x[1, 4:] = torch.nan
    assert relative(model(x, mask), y) < 1e-13


def test_frames_of_ragged_rows_are_exact():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).double()

        def forward(self, pos, batch):
            return self.body(pos)

    pos, index = torch.randn(7, 3, dtype=D), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    model = wrapped(Rows(), "E(3)", "pos: (b n) p | batch -> (b n) p")
    assert model.equiwrap.errors(pos, batch=index, elements=3).worst < 1e-12


# -- rotations: gradients, tracing, options --------------------------------------------------------


@pytest.mark.parametrize("name", ["O(2)", "SO(3)", "E(3)"])
def test_gradients_are_finite_on_every_cloud_and_those_of_finite_differences(name):
    group = parse_group(name)
    x, mask = batch(group.dim, D)
    point = "p" if group.affine else "v"
    plain = Masked(N, group.dim, (N, group.dim))
    signature = f"x: b n {point}, mask: _ -> b n {point}"
    model = ew.equivariantize(plain, group, signature, frame=Weighted(), mask="mask")
    x = x.requires_grad_()
    model(x, mask).square().sum().backward()
    assert bool(x.grad.isfinite().all())
    small = wrapped(Dense(4, group.dim, (4, group.dim)), group, f"b n {point} -> b n {point}")
    for width in (1.0, 4e-3):
        one = torch.randn(1, 4, group.dim, dtype=D)
        one[..., 1:] *= width
        one.requires_grad_()
        assert torch.autograd.gradcheck(lambda y: small(y).square().sum(), one)


@pytest.mark.parametrize("name", ["SE(2)", "O(3)"])
def test_gradients_with_several_inputs_know_that_each_is_scaled_to_its_own_size(name):
    group = parse_group(name)
    d, letter = group.dim, ("p" if group.affine else "v")
    axial = group.reflections and d == 3

    class Some(Dense):
        def forward(self, *inputs):
            return super().forward(torch.cat(inputs, 1))

    signature = f"b n {letter}, b m v{', b l a' if axial else ''} -> b v"
    sizes = (3, 2, 1) if axial else (3, 2)
    inputs = [torch.randn(2, n, d, dtype=D, requires_grad=True) for n in sizes]
    model = wrapped(Some(sum(sizes), d, (d,)), group, signature)
    assert torch.autograd.gradcheck(lambda *xs: model(*xs).square().sum(), inputs)
    scaled = [0.1 * inputs[0], *inputs[1:]]
    for frame_input in (inputs, scaled):
        assert model.equiwrap.errors(*frame_input).worst < 1e-12


@pytest.mark.parametrize("name", ["SE(2)", "O(3)"])
def test_one_graph_and_nothing_read_from_data(name):
    group = parse_group(name)
    point = "p" if group.affine else "v"
    model = wrapped(Dense(4, group.dim, (4, group.dim)), group, f"b n {point} -> b n {point}")
    x = torch.randn(3, 4, group.dim, dtype=D)
    x[1], x[2, :, 1:] = 0, 0
    exported = torch.export.export(model, (x,)).module()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative(exported(x), model(x)) < 1e-12
    assert relative(compiled(x), model(x)) < 1e-12
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert relative(again(x), model(x)) == 0
    many = torch.func.vmap(lambda y: Weighted()(group, y).elements)(x.unsqueeze(1))
    torch.testing.assert_close(many[:, 0], Weighted()(group, x).elements)


def test_what_is_not_finite_stays_in_its_sample_also_when_elements_are_drawn():
    x = torch.randn(4, 5, 3)
    y = x.clone()
    y[1, 2, 0], y[2, 0, 1] = torch.nan, torch.inf
    plain = Dense(5, 3, (5, 3), torch.float32)
    model = wrapped(plain, "SE(3)", "b n p -> b n p", stochastic=True).eval()
    found = model(y)
    assert bool(found[1:3].isnan().all())
    torch.testing.assert_close(found[[0, 3]], model(x)[[0, 3]])
    assert bool(model.train()(y)[[0, 3]].isfinite().all())
    sets = ew.equivariantize(
        Dense(5, 3, (5, 2), torch.float32), "S(n)", "b n c -> b n k", frame=Separated(10)
    )
    torch.testing.assert_close(sets(y)[[0, 3]], sets(x)[[0, 3]])
    assert bool(sets(y)[1].isnan().any())


def test_chunks_agree_and_drawn_elements_average_to_the_whole_measure():
    x, plain = torch.randn(1, 4, 3, dtype=D), Dense(4, 3, (3,))
    whole = wrapped(plain, "SO(3)", "b n v -> b v")
    parts = wrapped(plain, "SO(3)", "b n v -> b v", chunk=5)
    assert relative(parts(x), whole(x)) < 1e-14
    rng = torch.Generator().manual_seed(0)
    drawn = wrapped(plain, "SO(3)", "b n v -> b v", stochastic=True, generator=rng).train()
    y = drawn(x.expand(20000, 4, 3)).detach()
    error = (y.mean(0) - whole(x)[0]).detach().abs() / (y.std(0) / 20000**0.5)
    assert float(error.amax()) < 5
    assert 2 < len(y.round(decimals=9).unique(dim=0)) <= 12


def test_what_is_refused_gets_a_sentence():
    for group in ("SO(4)", "E(1)"):
        with pytest.raises(ew.GroupError, match="made for d = 2 and 3"):
            Weighted()(parse_group(group), torch.randn(1, 3, 4))
    with pytest.raises(ew.GroupError, match="frames of O"):
        Weighted()(parse_group("C4"), torch.randn(1, 3, 2))
    with pytest.raises(ValueError, match="rank=6"):
        Weighted(rank=6)
    with pytest.raises(ValueError, match="law"):
        Separated(law="gaps")
    with pytest.raises(ValueError, match="one direction"):
        Separated(0)
    for group, frame in (("SO(3)", Weighted()), ("O(2)", Weighted()), ("S(n)", Separated())):
        assert "n" in frame.describe(parse_group(group))
    assert Separated(7).calls(Permutations()) == 7
    assert Separated(law="uniform").calls(Permutations(5)) == 20
    x = torch.randn(2, 5, 3)
    assert Weighted()(parse_group("SO(3)"), x).weights.shape == (2, 20 + 20)
    assert Weighted()(parse_group("O(3)"), x).weights.shape == (2, 40 + 40)
    assert Weighted()(parse_group("SO(2)"), x[..., :2]).weights.shape == (2, 5)


# -- rotations: continuous -------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROUPS)
def test_weighted_frames_are_continuous_and_axes_jump(name):
    group = parse_group(name)
    point = "p" if group.affine else "v"
    x = torch.randn(2, 5, group.dim, dtype=D)
    for pattern in ("b k", f"b n {point}"):
        kind = {"group": name, "signature": f"b n {point} -> {pattern}", "steps": 60}
        smooth, rough = (continuity_report(f, x, **kind) for f in (Weighted(), Axes()))
        assert smooth.ratio >= 5
        assert not smooth.jumps
        assert rough.ratio <= 2
        assert rough.jumps


def walk(model, path, steps):
    """max |f(x_{i+1}) − f(x_i)| along `path(t)`, t from −1 to 1, a batch of inputs."""
    with torch.no_grad():
        y = model(torch.cat([path(t) for t in torch.linspace(-1, 1, steps + 1, dtype=D).tolist()]))
    return float(y.diff(dim=0).abs().amax())


@pytest.mark.parametrize("name", ["SO(3)", "O(3)"])
def test_vector_outputs_are_continuous_through_collinear_clouds(name, monkeypatch):
    line = torch.randn(1, 4, 1, dtype=D) * torch.randn(1, 1, 3, dtype=D)
    off = 0.02 * torch.randn(1, 4, 3, dtype=D)
    model = wrapped(Dense(4, 3, (4, 3)), name, "b n v -> b n v")

    def ratio():
        return walk(model, lambda t: line + t * off, 400) / walk(
            model, lambda t: line + t * off, 4000
        )

    assert ratio() > 5
    monkeypatch.setattr(weighted, "NARROW", 1e-9)  # pairs only, as published
    assert ratio() < 2
    invariant = wrapped(Dense(4, 3, (4,)), name, "b n v -> b k")
    steps = [walk(invariant, lambda t: line + t * off, s) for s in (400, 4000)]
    assert steps[0] / steps[1] > 5


@pytest.mark.parametrize("name", ["SO(2)", "SO(3)", "O(3)"])
def test_invariant_outputs_are_continuous_through_a_point_and_a_point_through_the_origin(name):
    group = parse_group(name)
    x = torch.randn(1, 4, group.dim, dtype=D)
    model = wrapped(Dense(4, group.dim, (4,)), group, "b n v -> b k")
    alone = x.clone()
    alone[:, 1] = 0
    for path in (lambda t: t * x, lambda t: alone + t * (x - alone)):
        steps = [walk(model, path, s) for s in (300, 3000)]
        assert steps[0] / steps[1] > 5


def test_without_the_average_about_the_line_narrow_clouds_fail(monkeypatch):
    line = torch.randn(4, 5, 1) * torch.randn(4, 1, 3)
    model = wrapped(Dense(5, 3, (5, 3), torch.float32), "SO(3)", "b n v -> b n v")
    assert model.equiwrap.errors(line).worst < 1e-5
    monkeypatch.setattr(weighted, "NARROW", 1e-9)
    assert model.equiwrap.errors(line).worst > 1e-2


# -- sets ------------------------------------------------------------------------------------------


def sets(c, dtype=D):
    """Generic rows, equal rows, all equal, zero, rows 1e-12 apart, a lattice."""
    x = torch.randn(6, 5, c, dtype=dtype)
    x[1, 2:4] = x[1, :1]
    x[2] = x[2, :1]
    x[3] = 0
    x[4, 3] = x[4, 1] + 1e-12
    x[5] = torch.randint(-1, 2, (5, c)).to(dtype)
    return x


PAIRS = {"b k": (4,), "b n k": (5, 2), "b n n": (5, 5)}
FRAMES = [(Separated(20), 2), (Separated(20), 3), (Separated(8), 1), (Separated(law="uniform"), 2)]


@BOTH
@pytest.mark.parametrize(("frame", "c"), FRAMES, ids=["gap 2", "gap 3", "gap 1", "uniform"])
def test_sets_are_exact_with_equal_rows_for_rows_and_pairs_of_rows(frame, c, dtype):
    x = sets(c, dtype)
    for pattern, shape in PAIRS.items():
        plain = Dense(5, c, shape, dtype)
        signature = f"b n c -> {pattern}"
        assert float(ew.measure.equivariance_error(plain, "S(n)", x, signature=signature)) > 0.1
        model = ew.equivariantize(plain, "S(n)", signature, frame=frame)
        assert model.equiwrap.errors(x).worst <= 10 * torch.finfo(dtype).eps
        y = model(x)
        if pattern == "b n k":
            torch.testing.assert_close(y[1, 2:4], y[1, :1].expand(2, 2))
            torch.testing.assert_close(y[3], y[3, :1].expand(5, 2))
    group, measure = Permutations(5), frame(Permutations(), x[:1])
    for h in group.sample(3).unsqueeze(1):
        there = frame(Permutations(), x[0][h])
        assert torch.equal(there.weights, measure.weights)
        assert torch.equal(there.elements[0], group.compose(h, measure.elements[0]))


@pytest.mark.parametrize("c", [1, 2, 4])
def test_orders_and_gaps_are_those_of_the_loop(c):
    x = torch.randn(4, 6, c, dtype=D)
    x[1, 4] = x[1, 2]
    measure = Separated(12, seed=3)(Permutations(), x)
    order = measure.elements.argsort(-1)
    for i in range(4):
        loop = separated_loop(x[i], directions(12, c, 3, None))
        for k, (theirs, weight) in enumerate(loop):
            assert torch.equal(x[i, order[i, k]], x[i, torch.tensor(theirs)])
            assert float(measure.weights[i, k]) == pytest.approx(weight, abs=1e-13)


def test_the_uniform_law_is_that_of_many_random_directions():
    x = torch.randn(3, 5, 2, dtype=D)
    x[1] = x[1].round()  # parallel differences: several rows cross at once
    x[2, 3] = x[2, 0] + 1e-7
    measure = Separated(law="uniform")(Permutations(), x)
    assert measure.weights.shape == (3, 20)
    for i in (0, 2):
        expected, found = law_of_argsort(x[i]), {}
        for order, weight in zip(
            measure.elements[i].argsort(-1).tolist(), measure.weights[i].tolist(), strict=True
        ):
            found[tuple(order)] = found.get(tuple(order), 0.0) + weight
        for order in {*expected, *found}:
            assert abs(expected.get(order, 0.0) - found.get(order, 0.0)) < 2e-3
    for n in (1, 2):
        one = Separated(law="uniform")(Permutations(), torch.randn(2, n, 2))
        torch.testing.assert_close(one.weights, torch.full((2, 2), 0.5, dtype=D))


class SortByX(Frame):
    """The frame that everybody writes first."""

    def read(self, group, inputs, mask):
        return {"rows": inputs[0].value}

    def forward(self, group, rows):
        order = rows[..., 0].argsort(-1)
        one = rows.new_ones(len(rows), 1, dtype=D)
        return GroupMeasure(order.argsort(-1).unsqueeze(1), one)


def test_separated_frames_are_continuous_and_sorting_jumps():
    x = torch.randn(2, 6, 2, dtype=D)
    corners = torch.tensor([[i, j] for i in (-2.0, 0, 2) for j in (-1.0, 1)], dtype=D)
    apart = corners + 0.2 * torch.randn(2, 6, 2, dtype=D)
    for pattern in ("b k", "b n k"):
        kind = {"group": "S(n)", "signature": f"b n c -> {pattern}", "steps": 60}
        for frame in (Separated(40), Separated(law="uniform")):
            report = continuity_report(frame, x, **kind)
            assert not report.jumps, str(report)  # steep where rows come close
            report = continuity_report(frame, apart, length=0.3, **kind)
            assert report.ratio >= 5, str(report)
            assert report.verdict == "continuous"
        report = continuity_report(SortByX(), apart, length=0.3, **kind)
        assert report.ratio <= 2
        assert report.jumps
        assert "weighted frame" in str(report)
        assert "\n" not in str(report)
    model = ew.equivariantize(Dense(6, 2, (3,)), "S(n)", "b n c -> b k", frame=SortByX())
    assert model.equiwrap.errors(x).worst < 1e-12
    assert continuity_report(model, x).ratio <= 2


def test_where_rows_meet_the_uniform_law_is_continuous_and_gaps_are_not():
    x = torch.randn(1, 5, 2, dtype=D)
    meet = x.clone()
    meet[:, 3] = meet[:, 1]
    ratios = {}
    for frame in (Separated(40), Separated(law="uniform")):
        model = ew.equivariantize(Dense(5, 2, (4,)), "S(n)", "b n c -> b k", frame=frame)
        steps = [walk(model, lambda t: meet + 0.05 * t * (x - meet), s) for s in (50, 500)]
        ratios[frame.law] = steps[0] / steps[1]
    assert ratios["uniform"] > 5
    assert ratios["gap"] < 2


def test_all_inputs_with_rows_count_and_padding_follows_the_rows():
    class Three(Dense):
        def forward(self, x, kind, mask):
            rows = torch.cat([x, kind.unsqueeze(-1).to(x.dtype)], -1) + 1
            return super().forward(torch.where(mask.unsqueeze(-1), rows, 0.0))

    x, kind = torch.randn(3, 5, 2, dtype=D), torch.randint(0, 3, (3, 5))
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    x[0, 1] = x[0, 2]
    kind[0, 1:3] = torch.tensor([0, 1])  # only the second input tells these rows apart
    signature = "x: b n c, kind: b n, mask: b n -> b n k"
    model = ew.equivariantize(
        Three(5, 3, (5, 2)), "S(n)", signature, frame=Separated(10), mask="mask"
    )
    assert model.equiwrap.errors(x, kind, mask).worst < 1e-14
    y = model(x, kind, mask)
    assert relative(y[0, 1], y[0, 2]) > 1e-3
    other = torch.where(mask.unsqueeze(-1), x, torch.randn_like(x))
    assert relative(model(other, kind, mask)[mask], y[mask]) < 1e-14


def test_sets_trace_pass_gradients_and_draw_by_the_weights():
    for frame in (Separated(9), Separated(law="uniform")):
        model = ew.equivariantize(Dense(5, 2, (5, 2)), "S(n)", "b n c -> b n k", frame=frame)
        x = sets(2)
        exported = torch.export.export(model, (x,)).module()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert relative(exported(x), model(x)) < 1e-12
        assert relative(compiled(x), model(x)) < 1e-12
        x = x.requires_grad_()
        model(x).square().sum().backward()
        assert bool(x.grad.isfinite().all())
        one = torch.randn(1, 5, 2, dtype=D, requires_grad=True)
        assert torch.autograd.gradcheck(lambda y, m=model: m(y).square().sum(), one)
    plain, rng = Dense(5, 2, (3,)), torch.Generator().manual_seed(0)
    frame = Separated(5, stochastic=True, generator=rng)
    model = ew.equivariantize(plain, "S(n)", "b n c -> b k", frame=frame)
    x = torch.randn(1, 5, 2, dtype=D)
    whole, drawn = model.eval()(x), model.train()(x.expand(20000, 5, 2)).detach()
    error = (drawn.mean(0) - whole[0]).detach().abs() / (drawn.std(0) / 20000**0.5)
    assert float(error.amax()) < 5


def test_what_sets_refuse_gets_a_sentence():
    with pytest.raises(ew.SignatureError, match='law="gap"'):
        Separated(law="uniform")(Permutations(), torch.randn(1, 4, 3))
    graph = ew.equivariantize(Dense(4, 4, (3,)), "S(n)", "b n n -> b k", frame=Separated())
    with pytest.raises(ew.SignatureError, match="labelled"):
        graph(torch.randn(2, 4, 4, dtype=D))


# -- the report, and the recipe --------------------------------------------------------------------


def test_the_report_speaks_of_models_constants_and_what_is_not_finite():
    x = torch.randn(2, 4)
    assert continuity_report(torch.sin, x).verdict == "continuous"
    assert continuity_report(torch.round, x).verdict.startswith("jumps")
    assert continuity_report(lambda y: 0 * y + 1, x).verdict.startswith("constant")
    assert "not finite" in str(continuity_report(lambda y: y / 0, x))
    steep = continuity_report(lambda y: torch.tanh(1e4 * y), x, steps=20)
    assert steep.ratio < 5
    assert "too steep" in str(steep)
    with pytest.raises(ew.SignatureError, match="not decisions"):
        continuity_report(lambda y: y.argmax(-1), x)
    assert continuity_report(lambda y, k: {"a": y * k.unsqueeze(1)}, x, torch.arange(2)).ratio > 5
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    assert continuity_report(net, x).ratio > 5
    assert net.training
    assert net[1].training
    with pytest.raises(ew.SignatureError, match="floating-point"):
        continuity_report(torch.sin, torch.arange(3))
    with pytest.raises(ew.SignatureError, match="give both"):
        continuity_report(Weighted(), x)
    many = {"group": "E(3)", "signature": "b n p, b n a -> {s: b, m: b n (v + 1), t: b a}"}
    pair = torch.randn(1, 4, 3, dtype=D), torch.randn(1, 4, 3, dtype=D)
    assert continuity_report(Weighted(), *pair, steps=30, **many).ratio > 5


def test_the_recipe_of_digit_clouds_runs_at_toy_size(monkeypatch, tmp_path, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "recipes"))
    import digit_clouds

    page = tmp_path / "table.md"
    code = digit_clouds.main([
        "--seeds",
        "0,1",
        "--steps",
        "150",
        "--directions",
        "10",
        "--out",
        str(page),
    ])
    assert code in (0, 1)
    text = page.read_text()
    assert text.strip() in capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == list(digit_clouds.METHODS)
    scores = {row.split("|")[1].strip(): float(row.split("|")[2].split("±")[0]) for row in rows}
    assert scores["separated"] > 15  # chance is 10
    sys.modules.pop("digit_clouds")
