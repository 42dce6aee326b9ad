"""Laws of the frames of axes on every cloud that we could think of, degenerate or nearly so.

A frame is tested through what it is for: averaging a network without any symmetry. Each case is one
row of a padded batch (garbage and NaN in the padding), so that generic and degenerate clouds meet.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import pytest
import torch
from reference_axes import axes_loop

from equiwrap.frames import PCA, Axes
from equiwrap.groups import parse_group

GROUPS = ["O(2)", "SO(2)", "E(2)", "SE(2)", "O(3)", "SO(3)", "E(3)", "SE(3)"]
HIGHER = ["O(1)", "E(1)", "O(4)", "SO(4)"]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
WIDE = 32  # rows of the padded batch


class Inputs(NamedTuple):
    """`x[b, n, d], mask[b, n], v[b, m, d], w[b, 1, d], scale[b]`: positions, vectors, axial
    vectors."""

    x: torch.Tensor
    mask: torch.Tensor
    v: torch.Tensor | None
    w: torch.Tensor | None
    scale: torch.Tensor


def embed(x, d, offset=0.0):
    return torch.cat([x, torch.zeros(len(x), d - x.shape[1], dtype=x.dtype)], 1) + offset


def polygon(n):
    angle = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
    return torch.stack([angle.cos(), angle.sin()], 1)


def icosahedron():
    golden = (1 + 5**0.5) / 2
    corners = [(0.0, a, b * golden) for a in (1, -1) for b in (1, -1)]
    return torch.tensor([c[i:] + c[:i] for c in corners for i in range(3)], dtype=torch.float64)


def whitened(n, d, spectrum):
    x = torch.randn(n, d, dtype=torch.float64)
    x = x - x.mean(0)
    u = torch.linalg.svd(x, full_matrices=False)[0]
    return u @ torch.diag(torch.tensor(spectrum[:d], dtype=torch.float64)) * n**0.5


def cube(d):
    return torch.tensor(list(product((1.0, -1.0), repeat=d)), dtype=torch.float64)


def cross(d):
    return torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])


def simplex(d):
    corners = torch.eye(d + 1, dtype=torch.float64) - 1 / (d + 1)
    return corners @ torch.linalg.svd(corners)[2][:d].mT


def exact_cases(d):
    """Named clouds `[n, d]`, on the nose."""
    r = torch.randn
    double = torch.float64
    line = r(5, 1, dtype=double)
    yield from ((f"generic {n}", r(n, d, dtype=double)) for n in (3, 5, 20, WIDE))
    yield from ((f"n={n}", r(n, d, dtype=double)) for n in (1, 2))
    yield "nothing", torch.zeros(0, d, dtype=double)
    yield "line", line @ r(1, d, dtype=double)
    yield "line off origin", line @ r(1, d, dtype=double) + r(1, d, dtype=double)
    yield (
        "symmetric line",
        torch.tensor([[1.0], [-1.0], [0.0]], dtype=double) @ r(1, d, dtype=double),
    )
    yield "cube", cube(d)
    yield "octahedron", cross(d)
    yield "tetrahedron", simplex(d)
    yield "equal points far away", torch.ones(4, d, dtype=double) * 37.3
    yield "repeated points", r(6, d, dtype=double).repeat(3, 1)
    yield "repeated corners", cube(d).repeat(2, 1)
    yield "pairs ±x", torch.cat([x := r(5, d, dtype=double), -x])
    yield "isotropic", whitened(12, d, [1.0] * d)
    yield from ((f"lattice {i}", torch.randint(-3, 4, (8, d)).to(double) / 2) for i in range(6))
    if d > 1:
        yield "two equal eigenvalues", whitened(12, d, [2.0, 2.0, 1.0, 0.5])
        yield "sphere", torch.nn.functional.normalize(r(30, d, dtype=double), dim=1)
        flat = {"square": polygon(4), "hexagon": polygon(6), "triangle": polygon(3)}
        flat["water"] = torch.tensor([[0.0, 0.1], [0.76, -0.5], [-0.76, -0.5]], dtype=double)
        flat["plane"] = r(7, 2, dtype=double)
        for name, x in flat.items():
            yield name, embed(x, d)
            yield f"{name} off origin", embed(x, d, 0.6)
    if d == 3:
        yield "icosahedron", icosahedron()
        yield "mirror", torch.cat([x := r(4, 3, dtype=double), x * torch.tensor([1.0, 1, -1])])


def near_cases(d):
    """The same, moved by 1e-3 to 1e-8."""
    base = {
        n: x
        for n, x in exact_cases(d)
        if n
        in (
            "cube",
            "tetrahedron",
            "octahedron",
            "line",
            "symmetric line",
            "square",
            "water",
            "hexagon",
            "isotropic",
            "repeated points",
            "pairs ±x",
        )
    }
    for power in (2, 3, 4, 5, 6, 7, 8):
        for name, x in base.items():
            yield f"{name} ± 1e-{power}", x + 10.0**-power * torch.randn_like(x)


@cache
def cases(d, dtype, extra=False):
    """Every cloud in one batch: (names, `Inputs`). Positions alone, or with vectors and axial
    vectors."""
    torch.manual_seed(d)
    named = [(n, x, 1.0) for n, x in (*exact_cases(d), *near_cases(d))]
    if not extra:
        named += [
            (f"{n} x {s:.0e}", x * s, s)
            for n, x in exact_cases(d)
            for s in (1e-6, 1e6)
            if n in ("generic 5", "cube", "line", "plane")
        ]
    names = [n for n, _, _ in named]
    x = torch.full((len(named), WIDE, d), torch.nan, dtype=torch.float64)
    x[:, 1::2] = 7.7e3
    mask = torch.zeros(len(named), WIDE, dtype=torch.bool)
    turn = parse_group(f"O({d})").sample(len(named))
    for i, (_, cloud, _) in enumerate(named):
        x[i, : len(cloud)] = cloud @ turn[i].mT
        mask[i, : len(cloud)] = True
    v = w = None
    if extra:
        v = torch.randn(len(named), WIDE, d, dtype=torch.float64).to(dtype)
        v[::3, 1:] = 0  # one moves
        v[1::3] = x[1::3].nan_to_num() * 0.5  # away from the origin
        w = torch.randn(len(named), 1, d, dtype=torch.float64).to(dtype) if d == 3 else None
        if w is not None:
            w[::4] = 0.0
            w[1::4] = (x[1::4, :1] * 2).nan_to_num()  # along a position
            v[1::4] = 0.0
    return names, Inputs(x.to(dtype), mask, v, w, torch.tensor([s for _, _, s in named]).double())


def parts(group, g):
    """`g[..., m, m]` → rotation, translation, determinant."""
    d = group.dim
    shift = g[..., :d, d] if group.affine else torch.zeros_like(g[..., 0])
    return g[..., :d, :d], shift, torch.linalg.det(g[..., :d, :d])


def turn(group, g, inputs):
    """`g[b, m, m]` on every input, in float64 and then rounded."""
    rotation, shift, det = parts(group, g)
    dtype = inputs.x.dtype

    def act(x):
        return None if x is None else x.double() @ rotation.mT

    w = act(inputs.w)
    x = (act(inputs.x) + shift.unsqueeze(1) * inputs.scale[:, None, None]).to(dtype)
    return inputs._replace(
        x=x,
        v=None if inputs.v is None else act(inputs.v).to(dtype),
        w=None if w is None else (w * det[:, None, None]).to(dtype),
    )


def network(size, d, pooled, seed=3):
    """A map `[r, n, c] → [r, 4 + d + d + d² + d]` with no symmetry; `pooled` makes it one of
    sets."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, c = size
    first = weight(c if pooled else n * c, 48) / (c**0.5 if pooled else (4 * c) ** 0.5)
    second, bias, out = weight(48, 48) / 7, weight(48), weight(48, 4 + 3 * d + d * d) / 7

    def call(x, mask):
        if pooled:
            hidden = (torch.tanh(x @ first + bias) * mask.unsqueeze(-1)).sum(1) / 4
        else:
            hidden = torch.tanh(x.flatten(1) @ first + bias)
        return torch.tanh(hidden @ second) @ out

    return call


def restore(group, g, y, scale):
    """ρ_out(g) on `y[b, k, ·]`: 4 invariants, a vector, an axial vector, a matrix, a position."""
    rotation, shift, det = parts(group, g)
    d = group.dim
    invariant, vector, axial, matrix, place = y.split([4, d, d, d * d, d], -1)

    def act(z):
        return torch.einsum("bkij,bkj->bki", rotation, z)

    matrix = rotation @ matrix.unflatten(-1, (d, d)) @ rotation.mT
    return {
        "invariant": invariant,
        "vector": act(vector),
        "axial": act(axial) * det.unsqueeze(-1),
        "matrix": matrix.flatten(-2),
        "position": act(place) + shift / scale[:, None, None],
    }


def canonical(group, g, inputs):
    """`g[r, m, m]` → the inputs of r rows moved by g⁻¹, side by side: `[r, n, c]`."""
    rotation, shift, det = parts(group, g)
    visible = inputs.mask.unsqueeze(-1)
    x = torch.where(visible, inputs.x.double(), 0.0)
    moved = torch.where(visible, (x - shift.unsqueeze(1)) @ rotation, 0.0)
    columns = [moved / inputs.scale[:, None, None]]
    if inputs.v is not None:
        columns.append(torch.where(visible, inputs.v.double(), 0.0) @ rotation)
    if inputs.w is not None:
        w = (inputs.w.double() @ rotation) * det[:, None, None]
        columns.append(w.expand(-1, x.shape[1], -1))
    return torch.cat(columns, -1)


def measure_of(frame, group, inputs):
    more = {"vectors": () if inputs.v is None else (inputs.v,)}
    more["axials"] = () if inputs.w is None else (inputs.w,)
    return frame(group, inputs.x, inputs.mask, **more)


def average(frame, group, inputs, pooled=False, share=True, measure=None):
    """*Σ_k w_k ρ(g_k) f(g_k⁻¹x)*, with one call for elements that share theirs."""
    measure = measure_of(frame, group, inputs) if measure is None else measure
    b = len(measure.weights)
    sample, slot = (measure.weights > 0).nonzero(as_tuple=True)
    call = slot if measure.calls is None or not share else measure.calls[sample, slot]
    rows = Inputs(*(None if x is None else x[sample] for x in inputs))
    x = canonical(group, measure.elements[sample, call], rows)
    y = network(x.shape[1:], group.dim, pooled)(x, rows.mask.double())
    out = restore(group, measure.elements[sample, slot].unsqueeze(1), y.unsqueeze(1), rows.scale)
    weight = measure.weights[sample, slot].unsqueeze(-1)
    return {
        n: z.new_zeros(b, z.shape[-1]).index_add(0, sample, z[:, 0] * weight)
        for n, z in out.items()
    }


def moved(group, g, outputs, scale):
    """ρ_out(h) on averaged outputs."""
    one = torch.cat([z.unsqueeze(1) for z in outputs.values()], -1)
    return {
        n: z[:, 0] for n, z in restore(group, g.unsqueeze(1), one, torch.ones_like(scale)).items()
    }


def relative(a, b):
    """`→ [b]`: the largest difference over the kinds of output, relative to the largest entry."""
    worst = torch.zeros(len(next(iter(a.values()))), dtype=torch.float64)
    for name in a:
        size = torch.maximum(a[name].abs().amax(1), b[name].abs().amax(1)).clamp(min=0.3)
        worst = torch.maximum(worst, (a[name] - b[name]).abs().amax(1) / size)
    return worst


def law_errors(frame, group, inputs, pooled=False, rounds=2):
    """`→ [b]`: max |F(hx) − ρ(h)F(x)| / max |F| over a few h."""
    plain = average(frame, group, inputs, pooled)
    worst = torch.zeros(len(inputs.x), dtype=torch.float64)
    for seed in range(rounds):
        h = group.sample(len(inputs.x), generator=torch.Generator().manual_seed(seed))
        other = average(frame, group, turn(group, h, inputs), pooled)
        expected = moved(group, h, plain, inputs.scale)
        for outputs in (other, expected):  # without a point there is no position to return
            outputs["position"] = outputs["position"] * inputs.mask.any(1, keepdim=True)
        worst = torch.maximum(worst, relative(other, expected))
    return worst


def reject(names, errors, tolerance):
    bad = {
        n: float(f"{e:.1e}")
        for n, e in zip(names, errors.tolist(), strict=True)
        if not e <= tolerance
    }
    assert not bad, f"above {tolerance}: {bad}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", GROUPS + HIGHER)
def test_the_averaged_network_is_equivariant_on_every_cloud(name, dtype):
    group = parse_group(name)
    names, inputs = cases(group.dim, dtype)
    reject(names, law_errors(Axes(), group, inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [*GROUPS, "SO(4)"])
def test_so_it_is_with_vectors_and_axial_vectors_beside_the_positions(name, dtype):
    group = parse_group(name)
    names, inputs = cases(group.dim, dtype, extra=True)
    reject(names, law_errors(Axes(), group, inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_principal_axes_are_equivariant_on_every_cloud(name, dtype):
    group = parse_group(name)
    names, inputs = cases(group.dim, dtype)
    reject(names, law_errors(PCA(), group, inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("frame", [Axes(), PCA()], ids=["axes", "pca"])
@pytest.mark.parametrize("name", GROUPS + HIGHER)
def test_the_support_lies_in_the_group_and_weights_sum_to_one(name, frame):
    group = parse_group(name)
    measure = measure_of(frame, group, cases(group.dim, torch.float32)[1])
    present = measure.weights > 0
    distance = torch.where(present, group.distance(measure.elements), 0.0)
    assert float(distance.amax()) < 1e-9
    torch.testing.assert_close(measure.weights.sum(1), torch.ones_like(measure.weights[:, 0]))
    assert bool((measure.weights >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["E(2)", "SO(2)", "O(3)", "SE(3)"])
def test_the_order_of_the_points_does_not_matter(name, dtype):
    group = parse_group(name)
    names, inputs = cases(group.dim, dtype)
    shuffle = torch.randperm(WIDE)
    other = inputs._replace(x=inputs.x[:, shuffle], mask=inputs.mask[:, shuffle])
    a, b = (average(Axes(), group, x, pooled=True) for x in (inputs, other))
    reject(names, relative(a, b), TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["E(2)", "SO(3)", "E(3)", "O(4)"])
def test_elements_that_share_a_call_have_the_same_canonical_input(name):
    group = parse_group(name)
    for extra in (False, True):
        names, inputs = cases(group.dim, torch.float32, extra=extra)
        a, b = (average(Axes(), group, inputs, share=s) for s in (True, False))
        reject(names, relative(a, b), 1e-4)


@pytest.mark.parametrize("frame", [Axes(), PCA()], ids=["axes", "pca"])
@pytest.mark.parametrize("name", GROUPS)
def test_gradients_are_finite_on_every_cloud(name, frame):
    group = parse_group(name)
    names, inputs = cases(group.dim, torch.float64)
    x = inputs.x.clone().requires_grad_()
    sum(z.square().sum() for z in average(frame, group, inputs._replace(x=x)).values()).backward()
    bad = [n for n, g in zip(names, x.grad, strict=True) if not bool(g.isfinite().all())]
    assert not bad


@pytest.mark.parametrize("name", ["SO(2)", "O(3)", "SE(3)"])
def test_the_gradient_of_the_average_is_that_of_finite_differences(name):
    group = parse_group(name)
    torch.manual_seed(0)
    x = torch.randn(2, 5, group.dim, dtype=torch.float64)
    mask, scale = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, dtype=torch.float64)

    def loss(y):
        return sum(
            z.sum() for z in average(Axes(), group, Inputs(y, mask, None, None, scale)).values()
        )

    assert torch.autograd.gradcheck(loss, x.requires_grad_(), eps=1e-6, atol=1e-6)


def test_a_large_offset_costs_its_rounding_and_no_more():
    for name in ("E(2)", "SE(3)", "E(3)"):
        group = parse_group(name)
        torch.manual_seed(1)
        x = (torch.randn(16, 20, group.dim) + 1e4).float()
        one = torch.ones(16)
        inputs = Inputs(x, torch.ones(16, 20, dtype=torch.bool), None, None, one.double())
        h = group.sample(16)
        a = moved(group, h, average(Axes(), group, inputs), inputs.scale)["position"]
        b = average(Axes(), group, turn(group, h, inputs))["position"]
        assert float((a - b).abs().max() / a.abs().max()) < 1e-5


SYMMETRIC = {
    "tetrahedron": (12, 24),
    "cube": (24, 48),
    "octahedron": (24, 48),
    "icosahedron": (60, 120),
}


@pytest.mark.parametrize("solid", SYMMETRIC)
def test_a_platonic_solid_has_as_many_elements_as_symmetries(solid):
    x = dict(exact_cases(3))[solid][None]
    for name, count in zip(("SO(3)", "O(3)"), SYMMETRIC[solid], strict=True):
        measure = Axes()(parse_group(name), x.float())
        assert int((measure.weights > 0).sum()) == count
        assert int((Axes()(parse_group(name), x).weights > 0).sum()) == count


@pytest.mark.parametrize("name", GROUPS)
def test_a_generic_cloud_has_one_element_and_it_is_that_of_the_loop(name):
    group = parse_group(name)
    torch.manual_seed(4)
    x = torch.randn(32, 9, group.dim, dtype=torch.float64)
    measure = Axes()(group, x)
    assert not measure.ragged
    loop = axes_loop(x, group)
    assert all(len(g) == 1 for g in loop)
    torch.testing.assert_close(measure.elements, torch.stack(loop), atol=1e-12, rtol=0)


@pytest.mark.parametrize("solid", SYMMETRIC)
def test_on_a_platonic_solid_the_elements_are_those_of_the_loop(solid):
    x = dict(exact_cases(3))[solid][None] @ parse_group("SO(3)").sample(1)
    for name in ("SO(3)", "O(3)", "E(3)"):
        group = parse_group(name)
        measure = Axes()(group, x)
        ours = measure.elements[0][measure.weights[0] > 0].flatten(1)
        theirs = axes_loop(x, group)[0].flatten(1)
        gap = (ours.unsqueeze(1) - theirs).abs().amax(-1)
        assert float(gap.amin(0).amax()) < 1e-9
        assert float(gap.amin(1).amax()) < 1e-9


def test_handedness_is_seen_by_rotations_and_not_by_reflections():
    torch.manual_seed(5)
    x = torch.randn(8, 6, 3, dtype=torch.float64)
    mask, scale = torch.ones(8, 6, dtype=torch.bool), torch.ones(8, dtype=torch.float64)
    pair = [Inputs(y, mask, None, None, scale) for y in (x, -x)]
    for name, seen in (("SO(3)", True), ("O(3)", False)):
        a, b = (average(Axes(), parse_group(name), y)["invariant"] for y in pair)
        assert bool(((a - b).abs().amax(1) > 1e-2).all()) is seen


def test_an_infinite_or_missing_point_spoils_its_own_sample_only():
    group = parse_group("E(3)")
    torch.manual_seed(6)
    x = torch.randn(6, 5, 3)
    x[1] = 0.0
    x[4] = torch.eye(3)[0] * torch.randn(5, 1)
    y = x.clone()
    y[2, 1, 0], y[3, 0, 2] = torch.nan, torch.inf
    for frame in (Axes(), PCA()):
        clean, dirty = frame(group, x), frame(group, y)
        for i in (0, 1, 4, 5):
            a, b = (m.elements[i][m.weights[i] > 0] for m in (clean, dirty))
            torch.testing.assert_close(a, b)
        assert bool((dirty.weights.amax(1) > 0).all())


@pytest.mark.parametrize("frame", [Axes(), PCA()], ids=["axes", "pca"])
def test_empty_batches_and_empty_clouds_work(frame):
    group = parse_group("SE(3)")
    assert frame(group, torch.zeros(0, 5, 3)).elements.shape[0] == 0
    for x in (torch.zeros(2, 0, 3), torch.zeros(2, 4, 3)):
        measure = frame(group, x)
        assert (measure.weights > 0).sum(1).tolist() == [60, 60]
        assert bool((measure.calls == 0).all())


# -- teeth ----------------------------------------------------------------------------------------


def test_the_network_itself_fails_the_law():
    group = parse_group("O(3)")
    _, inputs = cases(3, torch.float64)
    identity = torch.eye(3, dtype=torch.float64).expand(len(inputs.x), 1, 3, 3)
    h = group.sample(len(inputs.x))
    measure = Axes()(group, torch.randn(len(inputs.x), 9, 3))._replace(elements=identity)
    plain = average(None, group, inputs, measure=measure)
    other = average(None, group, turn(group, h, inputs), measure=measure)
    errors = relative(other, moved(group, h, plain, inputs.scale))
    assert float(errors.median()) > 0.1


@pytest.mark.parametrize("kind", ["vector", "axial"])
def test_one_sign_instead_of_both_fails_on_planar_clouds(kind):
    group = parse_group("O(3)")
    torch.manual_seed(7)
    x = embed(torch.randn(7, 2, dtype=torch.float64), 3)[None]
    inputs = Inputs(x, torch.ones(1, 7, dtype=torch.bool), None, None, torch.ones(1).double())
    h = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))[None]  # fixes x
    for frame, holds in ((Axes(), True), (Axes(ties="first"), False)):
        plain = average(frame, group, inputs)
        same = moved(group, h, plain, inputs.scale)
        assert bool(float(relative({kind: plain[kind]}, {kind: same[kind]})) < 1e-9) is holds


def test_ties_broken_by_row_order_fail_on_a_cube():
    group = parse_group("SO(3)")
    x = cube(3)[None]
    inputs = Inputs(x, torch.ones(1, 8, dtype=torch.bool), None, None, torch.ones(1).double())
    shuffle = torch.randperm(8)
    other = inputs._replace(x=x[:, shuffle])
    errors = {
        ties: float(
            relative(*(average(Axes(ties=ties), group, y, pooled=True) for y in (inputs, other)))
        )
        for ties in ("average", "first")
    }
    assert errors["average"] < 1e-9 < 1e-3 < errors["first"]


def test_a_design_is_exact_to_its_order_and_not_beyond():
    from equiwrap.frames.designs import hyperoctahedral, icosahedral, stabilizer

    def invariants(g, order):
        """Dimension of the tensors of this order that g fixes."""
        power = g
        for _ in range(order - 1):
            power = torch.einsum("mij,mkl->mikjl", power, g).flatten(3).flatten(1, 2)
        return round(float(power.diagonal(dim1=1, dim2=2).sum(1).mean()))

    haar_so3, haar_o3, haar_o4 = [0, 1, 1, 3, 6, 15], [0, 1, 0, 3, 0, 15], [0, 1, 0, 3]
    assert [invariants(icosahedral(), t) for t in range(1, 7)] == [*haar_so3[:5], 16]
    assert [invariants(stabilizer(3, False), t) for t in range(1, 6)] == haar_o3[:5]
    assert [invariants(hyperoctahedral(4), t) for t in range(1, 5)] == [*haar_o4[:3], 4]
    for q, special in product((1, 2, 3, 4), (True, False)):
        g = stabilizer(q, special).flatten(1)
        products = (
            (stabilizer(q, special).unsqueeze(1) @ stabilizer(q, special)).flatten(0, 1).flatten(1)
        )
        assert len(g) == 1 or float(torch.pdist(g).min()) > 0.1
        assert float((products[::7].unsqueeze(1) - g).abs().amax(-1).amin(1).max()) < 1e-12
