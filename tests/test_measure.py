"""Model equivariance error, profiles, Lie derivatives: two roads to every number, and coverage."""

from __future__ import annotations

import copy

import pytest
import torch
from reference import Convs, Dense
from reference_measure import difference, spread_loop, turned_blobs

import equiwrap as ew
from equiwrap.groups import parse_group
from equiwrap.measure import (
    Accumulator,
    PartialSet,
    error_against_angle,
    infinitesimal,
    label_consistency,
    lie_derivative,
    model_error,
    profile,
    r2,
)
from equiwrap.measure.estimate import quantile
from equiwrap.measure.lie import algebra, lie_terms
from equiwrap.measure.trial import Trial
from equiwrap.signature import TensorType

VECTORS = "b n v -> b n v"


def on_rows(g, x):
    return torch.einsum("ij,...j->...i", g, x)


def still(g, y):
    return y


@pytest.mark.parametrize("name", ["C4", "D3", "C8"])
@pytest.mark.parametrize("out", ["b n v", "b k"])
def test_errors_of_finite_groups_are_the_loop_over_inputs_and_elements(name, out):
    group, n = parse_group(name), 3
    net = Dense(n, 2, (n, 2) if out == "b n v" else (5,))
    x = torch.randn(12, n, 2, dtype=torch.float64)
    rho = on_rows if out == "b n v" else still
    mee, ee, ratio = spread_loop(net, x, group.elements(), on_rows, rho)
    sig = f"b n v -> {out}"
    assert float(model_error(net, name, x, signature=sig)) ** 2 == pytest.approx(mee, rel=1e-9)
    pair = float(model_error(net, name, x, signature=sig, form="pairwise"))
    assert pair**2 == pytest.approx(ee, rel=1e-9)
    assert float(r2(net, name, x, signature=sig)) == pytest.approx(ratio, rel=1e-9)
    table = profile(net, name, x, signature=sig)
    first = float(table.errors[1])
    size = net(on_rows(group.elements()[1], x)).detach()
    gap = size - rho(group.elements()[1], net(x)).detach()
    assert first == pytest.approx(float(gap.norm() / size.norm()), rel=1e-9)


@pytest.mark.parametrize("name", ["C4", "SO(2)", "SO(3)", "O(3)"])
def test_the_pairwise_square_is_twice_the_projections_on_an_invariant_law(name):
    d = parse_group(name).dim
    net, x = Dense(2, d, (2, d)), torch.randn(4000, 2, d, dtype=torch.float64)
    mee = model_error(net, name, x, signature=VECTORS)
    pair = model_error(net, name, x, signature=VECTORS, form="pairwise")
    assert float(pair) ** 2 / (2 * float(mee) ** 2) == pytest.approx(1, abs=0.06)
    upright = x + 2  # a law that no rotation keeps
    skew = model_error(net, name, upright, signature=VECTORS)
    other = model_error(net, name, upright, signature=VECTORS, form="pairwise")
    assert abs(float(other) ** 2 / (2 * float(skew) ** 2) - 1) > 0.07


@pytest.mark.parametrize("samples", [2, 8])
def test_the_sampled_error_is_unbiased_and_the_naive_one_is_not(samples):
    net, x = Dense(2, 2, (3,)), torch.randn(3000, 2, 2, dtype=torch.float64)
    dense = model_error(net, "C64", x, signature="b n v -> b k")  # C64 listed: exact to the eye
    few = model_error(net, "SO(2)", x, signature="b n v -> b k", samples=samples)
    assert dense.elements == 64
    assert float(few) == pytest.approx(float(dense), rel=0.06)
    naive = float(few) * ((samples - 1) / samples) ** 0.5
    assert not (few.low <= naive <= few.high)


@pytest.mark.parametrize("sampled", [False, True])
def test_intervals_of_the_error_cover_the_truth(sampled):
    """f = x·w on the plane: MEE² = ½‖w‖² E‖x‖² for both C4 and SO(2); exponential radii."""
    rng = torch.Generator().manual_seed(1)
    w = torch.tensor([1.0, -0.5], dtype=torch.float64)
    runs, n, hits = 1000, 200, 0
    radius = torch.empty(runs, n, 1, dtype=torch.float64).exponential_(generator=rng)
    turn = torch.randn(runs, n, 2, generator=rng, dtype=torch.float64)
    x = radius.sqrt() * turn / turn.norm(dim=-1, keepdim=True)  # E‖x‖² = 1
    truth = 0.5 * float(w.square().sum())
    for i in range(runs):
        group = "SO(2)" if sampled else "C4"
        found = model_error(lambda v: v @ w[:, None], group, x[i], signature="b v -> b k", seed=i)
        hits += found.low <= truth**0.5 <= found.high
    assert 0.92 <= hits / runs <= 0.97, hits / runs


def test_an_equivariant_model_is_exact_and_says_so():
    x = torch.randn(16, 3, 8, 8)
    model = ew.equivariantize(Convs(pooled=True, dtype=torch.float32), "C4", frame="whole")
    found = model_error(model, None, x)
    assert found.exact
    assert "exact to numerical precision" in str(found)
    assert float(r2(model, None, x)) == pytest.approx(1, abs=1e-6)
    assert float(label_consistency(model, None, x)) == 1
    before = model_error(ew.unwrap(model), "C4", x)
    assert not before.exact
    assert float(label_consistency(ew.unwrap(model), "C4", x)) < 1
    assert "projection" in str(before)
    assert "EE of C4, pairwise" in str(model_error(ew.unwrap(model), "C4", x, form="pairwise"))


def test_r2_is_one_zero_and_nan_where_it_should():
    x = torch.randn(2000, 3, dtype=torch.float64)
    norm = r2(lambda v: v.norm(dim=-1, keepdim=True), "SO(3)", x, signature="b v -> b k")
    assert float(norm) == pytest.approx(1, abs=1e-9)
    pose = r2(
        lambda v: (v / v.norm(dim=-1, keepdim=True))[:, :1], "SO(3)", x, signature="b v -> b k"
    )
    assert abs(float(pose)) < 0.06
    assert pose.low < 0 < pose.high
    flat = r2(lambda v: torch.ones_like(v[:, :1]), "SO(3)", x, signature="b v -> b k")
    assert torch.isnan(torch.tensor(float(flat)))


def test_intervals_of_r2_cover_the_truth():
    rng = torch.Generator().manual_seed(4)
    hits, runs = 0, 300
    for i in range(runs):  # f = |x|² + x₀: Var |x|² = 6, E Var_g x₀ = 1 in three dimensions
        x = torch.randn(300, 3, generator=rng, dtype=torch.float64)
        f = r2(
            lambda v: (v * v).sum(-1, keepdim=True) + v[:, :1],
            "SO(3)",
            x,
            signature="b v -> b k",
            seed=i,
        )
        hits += f.low <= 6 / 7 <= f.high
    assert 0.91 <= hits / runs <= 0.98, hits / runs


def test_ragged_graphs_are_one_input_each():
    def net(pos, batch):
        rows = torch.tanh(pos @ torch.arange(6.0).double().reshape(3, 2))
        return rows.new_zeros(int(batch.max()) + 1, 2).index_add(0, batch, rows)

    index = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    pos = torch.randn(8, 3, dtype=torch.float64)
    sig = "pos: (b n) v | batch, batch: _ -> b k"
    found = model_error(net, "SO(3)", pos, index, signature=sig, samples=400)
    alone = [
        model_error(
            net, "SO(3)", pos[index == i], index[index == i] * 0, signature=sig, samples=400
        )
        for i in range(4)
    ]
    assert found.samples == 4
    total = sum(float(e) ** 2 for e in alone) / 4
    assert float(found) ** 2 == pytest.approx(total, rel=0.15)


def test_the_rows_of_a_graph_move_together_and_graphs_alone():
    def distances(pos, batch):
        same = batch.unsqueeze(0) == batch.unsqueeze(1)
        rows = (torch.cdist(pos, pos) * same).sum(-1, keepdim=True)
        return rows.new_zeros(3, 1).index_add(0, batch, rows)

    index = torch.tensor([0, 1, 0, 2, 1, 2, 2])
    pos = torch.randn(7, 3, dtype=torch.float64)
    sig = "pos: (b n) v | batch, batch: _ -> b k"
    assert float(model_error(distances, "SO(3)", pos, index, signature=sig)) < 1e-7
    trial = Trial.of(distances, "SO(3)", sig, (pos, index), {})
    (g,) = trial.draws(1, 0)
    assert len(g) == 3
    assert torch.equal(trial.rows(trial.kinds[0], g), g[index])


def test_quantiles_are_students():
    stats = pytest.importorskip("scipy.stats")
    for n in (2, 3, 4, 5, 6, 10, 30, 1000):
        assert quantile(n) == pytest.approx(stats.t.ppf(0.975, n - 1), rel=1e-2)


@pytest.mark.parametrize("n", [4, 9])
def test_the_interval_of_r2_is_the_jackknife_loop(n):
    net, x = Dense(2, 2, (3,)), torch.randn(n, 2, 2, dtype=torch.float64)
    whole = r2(net, "C4", x, signature="b n v -> b k")
    left = torch.tensor([
        float(r2(net, "C4", torch.cat([x[:i], x[i + 1 :]]), signature="b n v -> b k"))
        for i in range(n)
    ])
    spread = float((left - left.mean()).square().sum() * (n - 1) / n) ** 0.5
    assert whole.half_width == pytest.approx(quantile(n) * spread, rel=1e-5)


# -- against the angle, and sets that are no groups -----------------------------------------------


def test_the_error_grows_with_the_angle_and_starts_at_zero():
    net, x = Dense(3, 3, (3, 3)), torch.randn(60, 3, 3, dtype=torch.float64)
    curve = error_against_angle(net, "SO(3)", x, signature=VECTORS, angles=[0, 1, 2, 90])
    e = [float(v) for v in curve.errors]
    assert e[0] < 1e-12
    assert e[2] == pytest.approx(2 * e[1], rel=0.2)
    assert e[3] > 10 * e[1]
    assert curve.labels[-1] == "90°"
    assert curve.share(e[3]) == pytest.approx(0.75)


def test_small_angles_agree_with_the_lie_derivative():
    net, x = Dense(3, 2, (3, 2)), torch.randn(200, 3, 2, dtype=torch.float64)
    degree = error_against_angle(net, "SO(2)", x, signature=VECTORS, angles=[0.01]).errors[0]
    speed = lie_derivative(net, "SO(2)", x, signature=VECTORS).relative[0]
    assert float(degree) == pytest.approx(float(speed) * 0.01 * torch.pi / 180, rel=1e-3)


@pytest.mark.parametrize(
    "name", ["SO(2)", "O(2)", "SO(3)", "O(4)", "SE(3)", "E(2)", "SO+(1,3)", "O(1,2)", "SL(3)"]
)
def test_partial_sets_lie_in_their_group_and_within_their_reach(name):
    group, reach = parse_group(name), 30.0 if "1," not in name and "L" not in name else 0.5
    g = PartialSet(name, reach).sample(64, generator=torch.Generator().manual_seed(0))
    assert float(group.distance(g).amax()) < 1e-10
    if name in ("SO(2)", "SO(3)"):
        trace = g.diagonal(dim1=-2, dim2=-1).sum(-1)
        angle = torch.acos(((trace - (group.dim - 2)) / 2).clamp(-1, 1))
        assert float(angle.amax()) <= reach * torch.pi / 180 + 1e-9
        assert float(angle.amax()) > 0.8 * reach * torch.pi / 180
    if "1," in name:
        assert float(g[:, 0, 0].amax()) <= torch.tensor(reach).cosh() + 1e-9


def test_a_partial_set_is_named_as_what_it_is():
    net, x = Dense(3, 2, (4,)), torch.randn(300, 3, 2, dtype=torch.float64)
    near = model_error(net, PartialSet("SO(2)", 5), x, signature="b n v -> b k")
    far = model_error(net, "SO(2)", x, signature="b n v -> b k")
    assert float(near) < 0.2 * float(far)
    assert "not a group) of Partial(SO(2), ±5°)" in str(near)
    assert "not a group" not in str(far)
    both = [
        ew.measure.equivariance_error(net, law, x, signature="b n v -> b k")
        for law in (PartialSet("SO(2)", 5), "SO(2)")
    ]
    assert float(both[0]) < 0.2 * float(both[1])
    with pytest.raises(ew.GroupError, match="positive reach"):
        PartialSet("SO(2)", 0)
    with pytest.raises(ew.GroupError, match="no one-parameter subgroups"):
        PartialSet("C4", 45)


# -- Lie derivatives ------------------------------------------------------------------------------

CLOUDS = [
    ("SO(2)", "b n v -> b n v", False),
    ("SO(3)", "b n v -> b n v", False),
    ("O(3)", "b n v -> b n v", False),
    ("SE(3)", "b n p -> b n p", True),
    ("E(2)", "b n p -> b n p", True),
    ("SO+(1,3)", "b n v -> b n v", False),
    ("SL(3)", "b n v -> b n v", False),
    ("Aff(2)", "b n p -> b n p", True),
]


@pytest.mark.parametrize(("name", "sig", "affine"), CLOUDS)
def test_lie_derivatives_are_finite_differences(name, sig, affine):
    group = parse_group(name)
    d = group.dim
    net, x = Dense(3, d, (3, d)), torch.randn(5, 3, d, dtype=torch.float64)

    def act(g, y):
        return on_rows(g[:d, :d], y) + (g[:d, d] if affine else 0)

    trial = Trial.of(net, name, sig, (x,), {})
    for _, generator in algebra(trial.group, x.device):
        exact = lie_terms(trial, generator)[0]
        slow = difference(net, group, x, act, act, generator)
        torch.testing.assert_close(exact, slow, rtol=1e-6, atol=1e-6)
        assert float(exact.abs().amax()) > 1e-2  # the plain model is not equivariant


@pytest.mark.parametrize(
    "text", ["b n v", "b v v", "b (n v)", "b n (p + v + 1)", "b n a", "b (v v)"]
)
def test_the_infinitesimal_action_is_the_derivative_of_the_action(text):
    name = "E(3)" if "p" in text else "O(3)"
    group = parse_group(name)
    kind = TensorType.parse(text, group)
    shape = {
        "b n v": (2, 4, 3),
        "b v v": (2, 3, 3),
        "b (n v)": (2, 12),
        "b n (p + v + 1)": (2, 4, 7),
    }
    x = torch.randn(*shape.get(text, (2, 4, 3) if "a" in text else (2, 9)), dtype=torch.float64)
    for generator in group.algebra():
        ends = [kind.act(torch.linalg.matrix_exp(t * generator)[None], x, 1) for t in (1e-4, -1e-4)]
        slow = (ends[0] - ends[1]) / 2e-4
        torch.testing.assert_close(infinitesimal(kind, generator, x), slow, rtol=1e-6, atol=1e-7)


def test_products_are_differentiated_factor_by_factor():
    net, x = Dense(4, 3, (4, 3)), torch.randn(5, 4, 3, dtype=torch.float64)
    alone = lie_derivative(net, "SO(3)", x, signature=VECTORS)
    beside = lie_derivative(net, "S(n) x SO(3)", x, signature=VECTORS)
    assert beside.generators == ("SO(3) X1", "SO(3) X2", "SO(3) X3")
    assert [float(a) for a in alone.lee] == pytest.approx([float(b) for b in beside.lee])


def test_complex_groups_have_lie_derivatives():
    def good(z):
        return z * z.abs().square().sum(-1, keepdim=True)

    z = torch.randn(6, 2, dtype=torch.complex128)
    assert float(lie_derivative(good, "U(2)", z, signature="b v -> b v")) < 1e-12
    bad = lie_derivative(lambda z: good(z) + z.conj(), "U(2)", z, signature="b v -> b v")
    assert float(bad) > 1e-2


def test_an_equivariant_model_has_no_lie_derivative():
    def net(p, v):
        u = p - p.mean(1, keepdim=True)
        return p + v + torch.linalg.cross(u, v) * u.norm(dim=-1, keepdim=True)

    p, v = torch.randn(2, 6, 5, 3, dtype=torch.float64)
    sig = "b n p, b n v -> b n p"
    good = lie_derivative(net, "SE(3)", p, v, signature=sig)
    assert float(good) < 1e-13
    wrong = lie_derivative(lambda p, v: net(p, v) + p.mean(), "SE(3)", p, v, signature=sig)
    assert float(wrong) > 1e-2
    boosted = lie_derivative(net, "SE(3)", p, v, signature="b n p, b n p -> b n p")
    assert [float(e) > 0.1 for e in boosted.relative[3:]] == [True] * 3  # a velocity is no position


def test_float32_agrees_with_float64():
    net, x = Convs(pooled=True), torch.randn(8, 3, 16, 16, dtype=torch.float64)
    low = copy.deepcopy(net).float()
    for group in ("SO(2)", "T(2)"):
        a, b = (Trial.of(f, group, None, (v,), {}) for f, v in ((net, x), (low, x.float())))
        for (_, g), _ in zip(algebra(a.group, x.device), range(2), strict=False):
            one, two = lie_terms(a, g)[0], lie_terms(b, g)[0]
            assert float((one - two).norm() / one.norm()) < 2e-6


def test_the_generator_on_pixels_turns_images_as_the_plane_turns():
    size, blobs = 48, ([(6.0, 3.0), (-4.0, 7.0), (2.0, -8.0)], [3.0, 4.0, 3.5])
    group = parse_group("SO(2)")
    x = turned_blobs(size, *blobs, 0.0)[None, None]
    h = 1e-4
    # counter-clockwise on the screen is exp(tX) of the transposed basis vector
    slow = (turned_blobs(size, *blobs, h) - turned_blobs(size, *blobs, -h)) / (2 * h)
    fast = infinitesimal(TensorType.parse("b c h w", group), group.algebra()[0].mT, x)[0, 0]
    assert float((fast - slow).norm() / slow.norm()) < 0.05
    assert float((fast + slow).norm() / slow.norm()) > 1.9
    found = lie_derivative(Convs(1, pooled=True), "SO(2)", x)
    measured = float((fast - slow).norm() / slow.norm())
    assert found.relative[0].interpolation == pytest.approx(measured, rel=0.6)


def test_lie_derivatives_on_images_are_finite_differences_of_the_matched_action():
    net, x = Convs(pooled=True), torch.randn(4, 3, 12, 12, dtype=torch.float64)
    for name in ("SO(2)", "T(2)"):
        trial = Trial.of(net, name, None, (x,), {})
        for _, generator in algebra(trial.group, x.device):
            along = infinitesimal(trial.kinds[0], generator, x)
            slow = (net(x - 1e-5 * along) - net(x + 1e-5 * along)) / 2e-5
            torch.testing.assert_close(lie_terms(trial, generator)[0], slow, rtol=1e-6, atol=1e-9)


def test_convolutions_commute_with_shifts_and_their_edges_do_not():
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    round_ = torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular").double()
    zeros = torch.nn.Conv2d(3, 4, 3, padding=1).double()
    assert float(lie_derivative(round_, "T(2)", x, signature="b c h w -> b k h w")) < 1e-14
    assert float(lie_derivative(zeros, "T(2)", x, signature="b c h w -> b k h w")) > 1e-2
    with pytest.raises(ew.GroupError, match="no Lie algebra"):
        lie_derivative(zeros, "C4", x, signature="b c h w -> b k h w")


def test_attention_has_forward_mode_and_what_has_not_gets_a_sentence():
    class Attend(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.scaled_dot_product_attention(x, x, x[..., :1] * x)

    x = torch.randn(3, 5, 3)
    assert float(lie_derivative(Attend(), "SO(3)", x, signature=VECTORS)) > 1e-2

    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    with pytest.raises(ew.CaptureError, match="forward-mode"):
        lie_derivative(lambda v: Opaque.apply(v), "SO(3)", x, signature=VECTORS)


# -- accumulating ---------------------------------------------------------------------------------


def test_the_accumulator_is_the_ratio_of_sums():
    sums = Accumulator(2)
    a, b = torch.rand(5, 7), torch.rand(5, 7)
    for i in range(5):
        sums.add(a[i], b[i], row=1)
        sums.add(b[i].sum().requires_grad_(), b[i].sum(), row=0)
    assert sums.sums.dtype == torch.float32
    assert not sums.sums.requires_grad
    assert sums.read() == pytest.approx([1.0, float((a.sum() / b.sum()).sqrt())])
    sums.add(torch.ones(2), torch.ones(2))
    sums.reset()
    assert sums.read() == [0.0, 0.0]


def test_the_metric_pools_updates():
    metrics = pytest.importorskip("torchmetrics")
    metric = ew.measure.EquivarianceMetric()
    assert isinstance(metric, metrics.Metric)
    net = Convs(pooled=True, dtype=torch.float32)
    x = torch.randn(24, 3, 8, 8)
    for part in x.split(8):
        metric.update(net(part.rot90(1, (2, 3))), net(part))
    size = net(x.rot90(1, (2, 3))).detach()
    gap = size - net(x).detach()
    assert float(metric.compute()) == pytest.approx(float(gap.norm() / size.norm()), rel=1e-5)
    metric.reset()
    assert not metric.sums.any()


def test_what_cannot_be_measured_gets_a_sentence():
    net, x = Dense(3, 2, (4,)), torch.randn(6, 3, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="projection, pairwise, relative"):
        model_error(net, "C4", x, signature="b n v -> b k", form="both")
    with pytest.raises(ew.SignatureError, match="none was given"):
        model_error(net, "C4", signature="b n v -> b k")
    with pytest.raises(ew.SignatureError, match="batch is empty"):
        model_error(net, "C4", x[:0], signature="b n v -> b k")
    with pytest.raises(ew.SignatureError, match="invariant logits"):
        label_consistency(Dense(3, 2, (3, 2)), "C4", x, signature=VECTORS)
    one = model_error(net, "C4", x[:1], signature="b n v -> b k")
    assert one.high == float("inf")


WRAPPED = [
    ("SO(3)", VECTORS, "axes"),
    ("SO(3)", VECTORS, "pca"),
    ("SE(3)", "b n p -> b n p", "axes"),
    ("O(2)", "b n v -> b k", "axes"),
    ("SO+(1,3)", VECTORS, "auto"),
]


@pytest.mark.parametrize(("name", "sig", "frame"), WRAPPED)
def test_wrapped_models_have_no_lie_derivative(name, sig, frame):
    d = parse_group(name).dim
    net = Dense(4, d, (3,) if sig.endswith("k") else (4, d))
    x = torch.randn(5, 4, d, dtype=torch.float64)
    if name == "SO+(1,3)":  # timelike, forward
        x[..., 0] = 1 + x[..., 1:].norm(dim=-1)
    model = ew.equivariantize(net, name, sig, frame=frame).eval()
    assert float(lie_derivative(net, name, x, signature=sig)) > 0.1
    assert float(lie_derivative(model, None, x)) < 1e-12


def test_every_number_prints_with_its_interval_and_its_floor():
    net, x = Convs(pooled=True, dtype=torch.float32), torch.randn(8, 3, 12, 12)
    for found in (
        model_error(net, "SO(2)", x),
        r2(net, "SO(2)", x),
        lie_derivative(net, "SO(2)", x),
    ):
        assert "floor " in str(found)
        assert "[" in str(found)
    assert "interpolation" in str(model_error(net, "SO(2)", x))
    assert "differences" in str(lie_derivative(net, "SO(2)", x))
    assert "90°" in str(profile(net, "D4", x))
    assert "90°⌽" in str(profile(net, "D4", x))


def test_lazy_names_are_there_and_others_are_not():
    assert all(hasattr(ew.measure, name) for name in ew.measure.__all__ if "Metric" not in name)
    with pytest.raises(AttributeError, match="no attribute 'mee'"):
        ew.measure.mee  # noqa: B018


@pytest.mark.gpu
def test_accumulating_never_waits_for_the_device():
    pytest.importorskip("torchmetrics")
    sums, metric = Accumulator(3), ew.measure.EquivarianceMetric().to("cuda")
    a = torch.rand(64, 8, device="cuda")
    sums.add(a.sum(), a.sum(), row=0)  # settles the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        for row in range(3):
            sums.add(a.sum(), a.square().sum(), row=row)
        metric.update(a, a + 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    x = torch.randn(32, 3, 12, 12)
    net = Convs(pooled=True, dtype=torch.float32)
    here = model_error(net, "SO(2)", x)
    there = model_error(net.cuda(), "SO(2)", x.cuda())
    assert float(there) == pytest.approx(float(here), rel=1e-4)


@pytest.mark.parametrize("name", ["C4", "SO(2)"])
@pytest.mark.parametrize("count", [0, 2])
def test_empty_batches_and_black_images_have_error_zero(name, count):
    net = Convs(pooled=True, dtype=torch.float32)
    net.one.bias.data.zero_()
    net.two.bias.data.zero_()
    found = ew.measure.equivariance_error(net, name, torch.zeros(count, 3, 8, 8))
    assert (float(found), found.interpolation, found.worst) == (0, 0, 0)
