"""Frames on clouds: every law, on every cloud that breaks frames, for every group, in both
precisions."""

from __future__ import annotations

import copy

import pytest
import torch
from clouds import CUBE, HEXAGON, ICOSAHEDRON, OCTAHEDRON, SQUARE, TETRAHEDRON, WATER, clouds
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Dense, Sets, relative

import equiwrap as ew
from equiwrap.frames import PCA, Axes, GroupMeasure
from equiwrap.groups import parse_group
from equiwrap.testing import assert_equivariant, check_frame, tolerance

GROUPS3 = ["O(3)", "SO(3)", "E(3)", "SE(3)"]
GROUPS = ["O(2)", "SO(2)", "E(2)", "SE(2)", *GROUPS3, "O(4)", "SO(4)", "E(1)"]
D = torch.float64


def letter(name):
    return "p" if name.startswith(("E", "SE")) else "v"


def outputs(name, n, d=3):
    """Pattern → shape of every kind of output."""
    found = {"b k": (3,), f"b n {letter(name)}": (n, d), "b v": (d,), "b v v": (d, d)}
    if d == 3 and not name.startswith("S"):
        found["b a"] = (3,)
    return found


def beside_generic(cloud, dtype):
    """The cloud in a batch with two generic ones, so that a vanishing output has a scale beside
    it."""
    return torch.stack([
        cloud,
        torch.randn(len(cloud), 3, dtype=D),
        torch.randn(len(cloud), 3, dtype=D),
    ]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GROUPS3)
def test_every_degenerate_cloud_is_exact_for_every_kind_of_output(name, dtype):
    for title, cloud in clouds().items():
        x = beside_generic(cloud, dtype)
        for pattern, shape in outputs(name, len(cloud)).items():
            model = ew.equivariantize(
                Dense(len(cloud), 3, shape, dtype), name, f"b n {letter(name)} -> {pattern}"
            )
            found = model.equiwrap.errors(x, elements=3)
            assert found.worst <= tolerance(dtype), f"{title}, {pattern}: {found.worst:.1e}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GROUPS3)
def test_a_set_network_stays_equivariant_under_permutations(name, dtype):
    point = letter(name)
    for title, cloud in clouds().items():
        n = len(cloud)
        x = beside_generic(cloud, dtype)
        order = torch.randperm(n)
        one = ew.equivariantize(Sets(3, 4, True, dtype), name, f"b n {point} -> b k")
        each = ew.equivariantize(Sets(3, 3, False, dtype), name, f"b n {point} -> b n {point}")
        assert one.equiwrap.errors(x, elements=3).worst <= tolerance(dtype), title
        assert each.equiwrap.errors(x, elements=3).worst <= tolerance(dtype), title
        assert relative(one(x[:, order]), one(x)) <= tolerance(dtype), title
        assert relative(each(x[:, order]), each(x)[:, order]) <= tolerance(dtype), title


@pytest.mark.parametrize("name", GROUPS)
def test_the_plain_network_breaks_the_law_that_the_wrapped_one_obeys(name):
    d = parse_group(name).dim
    x = torch.randn(5, 6, d, dtype=D)
    signature = f"b n {letter(name)} -> b n {letter(name)}"
    net = Dense(6, d, (6, d))
    with pytest.raises(ew.EquivarianceError):
        assert_equivariant(net, name, x, signature=signature)
    assert_equivariant(ew.equivariantize(net, name, signature), name, x)


@pytest.mark.parametrize("name", ["O(2)", "SO(2)", "E(2)", "SE(2)"])
def test_degenerate_clouds_in_the_plane_are_exact(name):
    line = torch.randn(5, 1, dtype=D) * torch.randn(1, 2, dtype=D)
    found = {
        "square": SQUARE[:, :2],
        "hexagon": HEXAGON[:, :2],
        "line": line,
        "N = 1": line[:1],
        "N = 2": torch.randn(2, 2, dtype=D),
    }
    found |= {"zero": torch.zeros(3, 2, dtype=D), "equal": torch.ones(3, 2, dtype=D)}
    for title, cloud in found.items():
        n = len(cloud)
        x = torch.stack([cloud, torch.randn(n, 2, dtype=D)])
        kinds = {"b k": (3,), "b v": (2,), "b v v": (2, 2)}
        if not name.startswith("S"):
            kinds["b a"] = (1,)
        for pattern, shape in kinds.items():
            model = ew.equivariantize(Dense(n, 2, shape), name, f"b n {letter(name)} -> {pattern}")
            assert model.equiwrap.errors(x, elements=4).worst < 1e-9, f"{title}, {pattern}"


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GROUPS3)
def test_scale_does_not_matter(name, dtype, scale):
    class Scaled(Dense):
        def forward(self, x):
            return super().forward(x / scale)

    group = parse_group(name)
    cloud = torch.stack([CUBE, torch.randn(8, 3, dtype=D)]) * scale
    model = ew.equivariantize(Scaled(8, 3, (4,), dtype), name, f"b n {letter(name)} -> b k")
    y = model(cloud.to(dtype))
    for g in group.sample(4):
        moved = cloud @ group.linear(g).mT + (g[:3, 3] * scale if group.affine else 0.0)
        assert relative(model(moved.to(dtype)), y) < tolerance(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["E(3)", "SE(3)"])
def test_translations_come_back_from_far_away(name, dtype):
    x = (torch.randn(4, 7, 3, dtype=D) + 1e4).to(dtype)
    model = ew.equivariantize(Dense(7, 3, (7, 3), dtype), name, "b n p -> b n p")
    assert_equivariant(model, name, x)
    far = 512.0  # a shift that both dtypes hold exactly on these coordinates
    near = torch.randint(-64, 64, (4, 7, 3)).to(dtype) / 16
    still = ew.equivariantize(Dense(7, 3, (3,), dtype), name, "b n p -> b k")
    assert relative(still(near + far), still(near)) < tolerance(dtype)


@pytest.mark.parametrize("name", ["O(3)", "SO(3)"])
def test_the_frame_of_a_symmetric_cloud_is_its_stabiliser_and_no_more(name):
    half = {
        "tetrahedron": 12,
        "cube": 24,
        "octahedron": 24,
        "icosahedron": 60,
        "square": 8,
        "hexagon": 12,
    }
    shapes = {
        "tetrahedron": TETRAHEDRON,
        "cube": CUBE,
        "octahedron": OCTAHEDRON,
        "icosahedron": ICOSAHEDRON,
    }
    shapes |= {
        "square": SQUARE,
        "hexagon": HEXAGON,
        "water": WATER - WATER.mean(0),
        "generic": torch.randn(9, 3, dtype=D),
    }
    half |= {"water": 2, "generic": 0.5 if name == "O(3)" else 1}
    group = parse_group(name)
    for title, cloud in shapes.items():
        count = int((Axes()(group, cloud[None]).weights > 0).sum())
        assert count == half[title] * (2 if name == "O(3)" else 1), title


@pytest.mark.parametrize("frame", [Axes(), PCA()])
@pytest.mark.parametrize("name", GROUPS3)
def test_frames_are_equivariant_as_sets(frame, name):
    x = torch.stack([torch.randn(8, 3, dtype=D), CUBE, torch.randn(8, 3, dtype=D)])
    check_frame(frame, name, x, signature=f"b n {letter(name)} -> b k")


@pytest.mark.parametrize("name", GROUPS3)
def test_pca_agrees_with_the_law_and_costs_what_it_says(name):
    x = torch.stack([torch.randn(8, 3, dtype=D), CUBE, torch.zeros(8, 3, dtype=D)])
    signature = f"b n {letter(name)} -> b n {letter(name)}"
    model = ew.equivariantize(Dense(8, 3, (8, 3)), name, signature, frame="pca")
    assert_equivariant(model, name, x)
    assert model.equiwrap.frame.calls(parse_group(name)) == (4 if name.startswith("S") else 8)


def test_so3_tells_a_chiral_cloud_from_its_mirror_image_and_o3_does_not():
    x = torch.randn(3, 6, 3, dtype=D)
    mirror = x * torch.tensor([-1.0, 1.0, 1.0], dtype=D)
    net = Dense(6, 3, (4,))
    so3 = ew.equivariantize(net, "SO(3)", "b n v -> b k")
    o3 = ew.equivariantize(net, "O(3)", "b n v -> b k")
    assert relative(so3(mirror), so3(x)) > 1e-2
    assert relative(o3(mirror), o3(x)) < 1e-12


class Reflecting(Axes):
    """A mutant: an SO(3) frame that keeps reflections; it passes every law but blinds the model."""

    def forward(self, group, positions=None, mask=None, **kwargs):
        return super().forward(parse_group("O(3)"), positions, mask, **kwargs)


class OneSign(Axes):
    """A mutant: the first tied element alone."""

    def forward(self, group, positions=None, mask=None, **kwargs):
        mu = super().forward(group, positions, mask, **kwargs)
        return GroupMeasure(mu.elements[:, :1], torch.ones_like(mu.weights[:, :1]))


class Inverted(Axes):
    """A mutant: g⁻¹ in place of g."""

    def forward(self, group, positions=None, mask=None, **kwargs):
        mu = super().forward(group, positions, mask, **kwargs)
        return mu._replace(elements=group.inverse(mu.elements))


class FirstRows(Axes):
    """A mutant: the frame of the first rows only; exact, but not for permutations."""

    def forward(self, group, positions=None, mask=None, **kwargs):
        return super().forward(group, positions[:, :3], mask)


def test_frames_that_are_wrong_are_rejected():
    x = torch.randn(4, 6, 3, dtype=D)
    with pytest.raises(ew.EquivarianceError, match="support"):
        check_frame(Reflecting(), "SO(3)", torch.cat([x, -x]))
    with pytest.raises(ew.EquivarianceError):
        check_frame(Inverted(), "O(3)", x)
    flat = x * torch.tensor([1.0, 1.0, 0.0], dtype=D)
    net = Dense(6, 3, (3,))
    with pytest.raises(ew.EquivarianceError):
        assert_equivariant(
            ew.equivariantize(net, "O(3)", "b n v -> b a", frame=OneSign()), "O(3)", flat
        )
    model = ew.equivariantize(Sets(3, 4, True), "O(3)", "b n v -> b k", frame=FirstRows())
    assert relative(model(x.flip(1)), model(x)) > 1e-3
    mirror = x * torch.tensor([-1.0, 1.0, 1.0], dtype=D)
    blind = ew.equivariantize(Dense(6, 3, (4,)), "SO(3)", "b n v -> b k", frame=Reflecting())
    assert_equivariant(blind, "SO(3)", x)
    assert relative(blind(mirror), blind(x)) < 1e-12  # what the support law is there to catch


# -- several inputs -------------------------------------------------------------------------------


class Dynamics(torch.nn.Module):
    """Positions, velocities and charges → positions; no symmetry but that of the set."""

    def __init__(self, dtype=D):
        super().__init__()
        self.net = Sets(7, 3, False, dtype)

    def forward(self, x, v, q):
        return self.net(torch.cat([x, v, q], -1)) + x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["E(3)", "SE(3)"])
def test_positions_velocities_and_charges_together_are_exact(name, dtype):
    signature = "b n p, b n v, b n 1 -> b n p"
    line = torch.linspace(-1, 1, 5, dtype=D)[:, None] * torch.randn(1, 3, dtype=D)
    flat = torch.randn(5, 3, dtype=D) * torch.tensor([1.0, 1.0, 0.0], dtype=D)
    x = torch.stack([torch.randn(5, 3, dtype=D), line, flat, torch.zeros(5, 3, dtype=D), line])
    v = torch.randn(5, 5, 3, dtype=D)
    v[2] *= torch.tensor([1.0, 1.0, 0.0], dtype=D)
    v[3:] *= 1e-3
    v[4] = 0.3 * line
    q = torch.randint(0, 2, (5, 5, 1)).to(dtype) * 2 - 1
    model = ew.equivariantize(Dynamics(dtype), name, signature)
    assert_equivariant(model, name, x.to(dtype), v.to(dtype), q)
    with pytest.raises(ew.EquivarianceError):
        assert_equivariant(Dynamics(dtype), name, x.to(dtype), v.to(dtype), q, signature=signature)


def test_axial_inputs_count_and_move_with_the_determinant():
    class Spin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Dense(8, 3, (3,))

        def forward(self, x, s):
            return self.net(torch.cat([x, s], 1))

    line = torch.linspace(-1, 1, 4, dtype=D)[:, None] * torch.randn(1, 3, dtype=D)
    x = torch.stack([torch.randn(4, 3, dtype=D), line, torch.zeros(4, 3, dtype=D)])
    s = torch.randn(3, 4, 3, dtype=D)
    for out in ("b v", "b a", "b k"):
        model = ew.equivariantize(Spin(), "O(3)", f"b n v, b n a -> {out}")
        assert_equivariant(model, "O(3)", x, s)


def test_sums_flattened_axes_and_dicts_of_outputs_are_exact():
    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.each = Dense(4, 7, (1,)), Dense(4, 7, (4, 3))

        def forward(self, f):
            return {"energy": self.one(f), "forces": self.each(f)}

    f = torch.randn(3, 4, 7, dtype=D)
    model = ew.equivariantize(Heads(), "SE(3)", "b n (p + v + 1) -> {energy: b 1, forces: b n v}")
    assert_equivariant(model, "SE(3)", f)
    flat = ew.equivariantize(Dense(1, 12, (12,)), "SO(3)", "b (n v) -> b (n v)")
    assert_equivariant(flat, "SO(3)", torch.randn(3, 12, dtype=D))
    inertia = ew.equivariantize(Dense(5, 3, (3, 3)), "O(3)", "b n v -> b v v")
    assert_equivariant(inertia, "O(3)", torch.randn(3, 5, 3, dtype=D))


def test_padded_clouds_with_masks_ignore_what_is_padded():
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Sets(6, 3, False)

        def forward(self, pos, vel, mask):
            m = mask.unsqueeze(-1).to(pos.dtype)
            h = torch.tanh(self.net.one(torch.cat([pos, vel], -1))) * m
            mean = h.sum(1, keepdim=True) / m.sum(1, keepdim=True)
            return (self.net.two(torch.cat([h, mean.expand_as(h)], -1)) + pos) * m

    net = Masked()
    signature = "pos: b n p, vel: b n v, mask: _ -> b n p"
    model = ew.equivariantize(net, "E(3)", signature, mask="mask")
    x, v = torch.randn(4, 8, 3, dtype=D), torch.randn(4, 8, 3, dtype=D)
    x[1] = CUBE
    v[1] = 0.1 * CUBE
    x[2, :3] = torch.tensor([[0.0], [1.0], [2.0]], dtype=D)  # three points on a line
    v[2, :3] = 0.0
    mask = torch.ones(4, 8, dtype=torch.bool)
    mask[0, 5:], mask[2, 3:], mask[3, 1:] = False, False, False
    junk = torch.where(mask.unsqueeze(-1), 0.0, torch.nan).to(D)
    y = model(pos=x + junk, vel=v + junk, mask=mask)
    short = model(x[:1, :5], v[:1, :5], mask[:1, :5])
    torch.testing.assert_close(y[0, :5], short[0])
    group = parse_group("E(3)")
    for g in group.sample(4):
        rotation, shift = group.linear(g), g[:3, 3]
        there = model(x @ rotation.mT + shift + junk, v @ rotation.mT + junk, mask)
        expected = y @ rotation.mT + shift
        assert relative(there[mask], expected[mask]) < 1e-9


def test_batches_under_an_ellipsis_are_folded_and_unfolded():
    x = torch.randn(2, 3, 6, 3, dtype=D)
    x[0, 1] = torch.randn(1, 3, dtype=D)
    model = ew.equivariantize(Sets(3, 4, True), "E(3)", "... n p -> ... k")
    assert model(x).shape == (2, 3, 4)
    torch.testing.assert_close(model(x)[1], model(x[1]))
    torch.testing.assert_close(model(x)[1, 2], model(x[1, 2]))
    assert_equivariant(model, "E(3)", x)


# -- gradients, precision, compilers ---------------------------------------------------------------


@pytest.mark.parametrize("name", GROUPS3)
@pytest.mark.parametrize("frame", ["axes", "pca"])
def test_no_gradient_is_nan_on_any_cloud(name, frame):
    for title, cloud in clouds().items():
        x = beside_generic(cloud, D).requires_grad_()
        model = ew.equivariantize(
            Dense(len(cloud), 3, (3,)), name, f"b n {letter(name)} -> b v", frame=frame
        )
        model(x).square().sum().backward()
        assert x.grad.isfinite().all(), title
        assert all(p.grad.isfinite().all() for p in model.parameters()), title


@pytest.mark.parametrize("name", GROUPS3)
def test_gradients_with_respect_to_generic_inputs_are_those_of_the_map(name):
    model = ew.equivariantize(Dense(4, 3, (2,)), name, f"b n {letter(name)} -> b k")
    x = torch.randn(2, 4, 3, dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,))
    detached = ew.equivariantize(
        Dense(4, 3, (2,)), name, f"b n {letter(name)} -> b k", detach_frame=True
    )
    detached(x).sum().backward()
    assert x.grad.isfinite().all()


def test_nan_in_one_cloud_stays_in_that_cloud():
    model = ew.equivariantize(Dense(6, 3, (4,)), "E(3)", "b n p -> b k")
    x = torch.randn(4, 6, 3, dtype=D)
    x[3] = torch.randn(1, 3, dtype=D)  # ties beside it
    clean = model(x)
    for bad in (torch.nan, torch.inf):
        dirty = x.clone()
        dirty[1, 2, 0] = bad
        y = model(dirty)
        assert not y[1].isfinite().all()
        torch.testing.assert_close(y[[0, 2, 3]], clean[[0, 2, 3]])


def test_empty_batches_work():
    model = ew.equivariantize(Sets(3, 4, True), "E(3)", "b n p -> b k")
    assert model(torch.randn(0, 5, 3, dtype=D)).shape == (0, 4)


@given(
    b=st.integers(0, 4),
    n=st.integers(1, 7),
    name=st.sampled_from(GROUPS3),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_lattice_clouds_of_any_size_are_exact(b, n, name, seed):
    """Integer coordinates tie in every way there is."""
    torch.manual_seed(seed)
    x = torch.randint(-1, 2, (b, n, 3)).to(D)
    x = torch.cat([x, torch.randn(1, n, 3, dtype=D)])
    model = ew.equivariantize(Dense(n, 3, (3,)), name, f"b n {letter(name)} -> b v")
    assert model.equiwrap.errors(x, elements=3).worst < 1e-9


@pytest.mark.parametrize("frame", ["axes", "pca"])
def test_one_compiled_graph_for_clouds(frame):
    torch._dynamo.reset()
    model = ew.equivariantize(Sets(3, 3, False), "E(3)", "b n p -> b n p", frame=frame)
    x = torch.randn(4, 9, 3, dtype=D)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))


def test_clouds_run_under_vmap_with_ties_first():
    from torch.func import functional_call, vmap

    model = ew.equivariantize(Sets(3, 3, False), "E(3)", "b n p -> b n p", ties="first")
    x = torch.randn(2, 4, 9, 3, dtype=D)
    weights = {k: torch.stack([v, 2 * v]) for k, v in model.named_parameters()}
    y = vmap(lambda w, xi: functional_call(model, w, (xi,)))(weights, x)
    torch.testing.assert_close(y[0], model(x[0]))


def test_autocast_leaves_the_frame_in_full_precision():
    model = ew.equivariantize(Sets(3, 4, True, torch.float32), "E(3)", "b n p -> b k")
    x = torch.randn(4, 9, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equivariant(model, "E(3)", x, tol=5e-2)
        mu = model.equiwrap.graph.frame((x,), {})
    assert mu.elements.dtype == D
    assert float(parse_group("E(3)").distance(mu.elements).max()) < 1e-12


def test_three_steps_of_training_keep_the_law():
    model = ew.equivariantize(Dynamics(), "E(3)", "b n p, b n v, b n 1 -> b n p")
    x, v, q = (
        torch.randn(6, 5, 3, dtype=D),
        torch.randn(6, 5, 3, dtype=D),
        torch.ones(6, 5, 1, dtype=D),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x, v, q) - x - v).square().mean().backward()
        optimizer.step()
    twin = copy.deepcopy(model)
    assert_equivariant(twin, "E(3)", x, v, q)
    torch.testing.assert_close(twin(x, v, q), model(x, v, q))


def test_clouds_that_carry_nothing_get_a_sentence():
    with pytest.raises(ew.SignatureError, match="rank"):
        ew.equivariantize(Dense(9, 1, (3,)), "O(3)", "b v v -> b k")(torch.randn(2, 3, 3, dtype=D))
    with pytest.raises(ew.SignatureError, match="nothing to compute"):
        ew.equivariantize(Dense(9, 1, (3,)), "O(3)", "b n 1 -> b k")(torch.randn(2, 9, 1, dtype=D))
    with pytest.raises(ew.GroupError, match="axes"):
        ew.equivariantize(Dense(9, 2, (3,)), "C4", "b n v -> b k", frame="axes")(
            torch.randn(2, 9, 2, dtype=D)
        )
