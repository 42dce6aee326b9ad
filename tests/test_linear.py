"""GL(d), SL(d), Aff(d) by whitening, and R+."""

from __future__ import annotations

import pytest
import torch
from clouds import CUBE, ICOSAHEDRON
from reference import Dense, Sets, relative

import equiwrap as ew
from equiwrap.frames import Whitened
from equiwrap.groups import parse_group
from equiwrap.testing import check_frame, tolerance

D = torch.float64
GROUPS = ["GL(2)", "GL(3)", "SL(2)", "SL(3)", "SL(4)", "Aff(2)", "Aff(3)"]


def letter(group):
    return "p" if group.startswith("Aff") else "v"


def cloud(group, n=8, dtype=D):
    d = parse_group(group).dim
    x = torch.randn(5, n, d, dtype=D)
    x[0] *= 1e-2 if group.startswith("Aff") and dtype == torch.float32 else 1e-6
    x[1] *= 1e6
    x[2, 6:] = x[2, 5]
    x[3, :, 0] *= 1e-2
    if d == 3:
        x[4] = CUBE.to(D) @ torch.randn(3, 3, dtype=D)
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", GROUPS)
def test_linear_groups_are_exact_at_every_scale_and_on_sheared_cubes(group, dtype):
    x, point = cloud(group, dtype=dtype), letter(group)
    d = x.shape[-1]
    for pattern, shape in {"b k": (3,), f"b n {point}": (8, d), "b v": (d,)}.items():
        plain = Dense(8, d, shape, dtype)
        signature = f"b n {point} -> {pattern}"
        before = ew.measure.equivariance_error(plain, group, x, signature=signature)
        assert float(before) > 0.1
        model = ew.equivariantize(plain, group, signature)
        found = model.equiwrap.errors(x, elements=4)
        assert found.worst <= tolerance(dtype), f"{pattern}: {found.worst:.1e}"


@pytest.mark.parametrize("group", GROUPS)
def test_the_frame_moves_with_the_group_and_ignores_the_order(group):
    x = cloud(group)[:4]
    check_frame(Whitened(), group, x, signature=f"b n {letter(group)} -> b k", tol=1e-8)
    frame, g = Whitened(), parse_group(group)
    point = "positions" if g.affine else "vectors"

    def of(x):
        return frame(g, **{point: x if g.affine else [x]}).elements

    assert relative(of(x[:, torch.randperm(8)]), of(x)) < 1e-9
    every = ew.equivariantize(Sets(g.dim, g.dim, False), group, f"b n {letter(group)} -> b n v")
    order = torch.randperm(8)
    assert relative(every(x[:, order]), every(x)[:, order]) < 1e-9


def test_a_sheared_cube_keeps_its_whole_stabiliser():
    shear = torch.randn(3, 3, dtype=D)
    for solid, orders in ((CUBE, (48, 24)), (ICOSAHEDRON, (120, 60))):
        x = (solid.to(D) @ shear)[None]
        sizes = [
            Whitened()(parse_group(g), vectors=[x]).weights.shape[1] for g in ("GL(3)", "SL(3)")
        ]
        assert tuple(sizes) == orders


@pytest.mark.parametrize("group", ["SL(2)", "SL(3)", "SL(4)", "GL(3)"])
def test_an_equivariant_map_is_left_as_it_is(group):
    """f(x) = x times a function of the invariants; for SL of even d and det < 0 as well."""
    d = parse_group(group).dim

    class Equivariant(torch.nn.Module):
        def forward(self, x):
            gram = x @ torch.linalg.solve(x.mT @ x, x.mT)  # invariant under GL
            scale = gram.square().sum((-2, -1), keepdim=True)
            if group.startswith("S"):
                scale = scale + torch.linalg.det(x[:, :d])[:, None, None].sin()
            return x * scale + gram.tanh() @ x

    x = torch.randn(6, 2 * d, d, dtype=D)
    assert (torch.linalg.det(x[:, :d]) < 0).any()
    model = ew.equivariantize(Equivariant(), group, "b n v -> b n v")
    assert relative(model(x), Equivariant()(x)) < 1e-10


@pytest.mark.parametrize("group", ["GL(3)", "SL(3)", "Aff(3)"])
def test_clouds_that_do_not_span_get_a_sentence_and_nan_when_traced(group):
    x = torch.randn(3, 6, 3, dtype=D)
    x[1, :, 2] = x[1, :, 0]
    model = ew.equivariantize(Dense(6, 3, (4,)), group, f"b n {letter(group)} -> b k")
    with pytest.raises(ew.FrameError, match=r"Sample 1 has no frame .* does not span"):
        model(x)
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert traced[1].isnan().all()
    assert relative(traced[[0, 2]], model(x[[0, 2]])) < 1e-10
    with pytest.raises(ew.FrameError, match="Sample 0"):
        model(torch.randn(1, 2, 3, dtype=D).repeat(1, 3, 1))
    x[1] = torch.nan
    y = model(x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_gradients_flow_through_the_frame():
    x = torch.randn(2, 5, 3, dtype=D, requires_grad=True)
    model = ew.equivariantize(Dense(5, 3, (5, 3)), "SL(3)", "b n v -> b n v")
    assert torch.autograd.gradcheck(lambda x: model(x).square().mean(), x, atol=1e-4)


def test_masks_and_second_inputs_count():
    class Both(Dense):
        def forward(self, x, v, mask):
            return super().forward(torch.cat([torch.where(mask[..., None], x, 0), v], 1))

    x, v = torch.randn(3, 4, 3, dtype=D) + 5, torch.randn(3, 2, 3, dtype=D)
    mask = torch.arange(4) < torch.tensor([[4], [3], [2]])
    model = ew.equivariantize(
        Both(6, 3, (3,)), "Aff(3)", "x: b n p, v: b m v, mask: _ -> b v", mask="mask"
    )
    assert model.equiwrap.errors(x, v, mask).worst < 1e-10


def test_haar_of_a_group_that_is_not_compact_is_refused():
    for group, own in (("GL(3)", "linear"), ("R+", "size")):
        with pytest.raises(ew.GroupError, match=rf'not compact.*frame="{own}"'):
            ew.equivariantize(Dense(4, 3, (2,)), group, "b n v -> b k", frame="haar")
