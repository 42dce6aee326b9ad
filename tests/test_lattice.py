"""Exact index actions beside the plane's: voxels under the cube's symmetries, periodic shifts."""

from __future__ import annotations

import pytest
import torch
from reference import relative
from torch import nn

import equiwrap as ew
from equiwrap.frames import Shift
from equiwrap.grids import act_on_grid
from equiwrap.groups import parse_group
from equiwrap.testing import check_group, check_representation, tolerance

D = torch.float64


class Pixels(nn.Module):
    """Dense on everything: no symmetry at all."""

    def __init__(self, size, out, dtype=D):
        super().__init__()
        self.out = out
        total = torch.Size(out).numel()
        self.body = nn.Sequential(
            nn.Linear(size, 32, dtype=dtype), nn.Tanh(), nn.Linear(32, total, dtype=dtype)
        )

    def forward(self, x):
        return self.body(x.flatten(1)).reshape(-1, *self.out)


@pytest.mark.parametrize("name", ["O", "O_h"])
def test_the_cubes_symmetries_are_a_group_and_act_on_voxels(name):
    check_group(name)
    group = parse_group(name)
    for rep in ew.representations.letters(group).values():
        check_representation(rep, group)
    x = torch.randn(2, 4, 4, 4)
    g = group.elements()
    moved = act_on_grid(group, g.unsqueeze(1), x.expand(len(g), *x.shape).unsqueeze(1))
    assert len(torch.unique(moved.flatten(1), dim=0)) == group.order
    # the generator about z turns each slice as the plane's C4 generator does, y pointing down
    turn = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=D)
    assert torch.equal(act_on_grid(group, turn, x), x.rot90(1, (-2, -1)))


@pytest.mark.parametrize("name", ["O", "O_h"])
@pytest.mark.parametrize("frame", ["key", "whole"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_voxels_are_exact_for_odd_and_even_sizes_and_symmetric_ones(name, frame, dtype):
    order = parse_group(name).order
    for side in (4, 5):
        x = torch.randn(3, 2, side, side, side, dtype=dtype)
        x[1] = 1.0
        x[2] = x[2] + x[2].rot90(2, (-2, -1))
        outputs = {"b k": (3,), "b c d h w": (2, side, side, side), "b v": (3,), "b r": (order,)}
        for pattern, shape in outputs.items():
            plain, signature = Pixels(2 * side**3, shape, dtype), f"b c d h w -> {pattern}"
            before = ew.measure.equivariance_error(plain, name, x, signature=signature)
            assert float(before) > 0.1
            model = ew.equivariantize(plain, name, signature, frame=frame)
            assert model.equiwrap.errors(x).worst <= tolerance(dtype)


def test_a_brick_is_refused():
    model = ew.equivariantize(Pixels(2 * 60, (3,)), "O_h", "b c d h w -> b k")
    with pytest.raises(ew.SignatureError, match="cubic grid, got 3×4×5"):
        model(torch.randn(1, 2, 3, 4, 5, dtype=D))


def periodic(dtype=D):
    """Generic, constant, periodic in rows, zero, a checkerboard, a single pixel."""
    x = torch.randn(6, 2, 6, 8, dtype=dtype)
    x[1], x[3] = 1.0, 0.0
    x[2] = x[2, :, :2].repeat(1, 3, 1)
    x[4] = torch.eye(2, dtype=dtype).repeat(3, 4)
    x[5] = 0
    x[5, :, 2, 3] = 1
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pattern", ["b k", "b c h w", "b h w"])
def test_shifts_are_exact_on_generic_and_periodic_images(pattern, dtype):
    shape = {"b k": (3,), "b c h w": (2, 6, 8), "b h w": (6, 8)}[pattern]
    x, signature = periodic(dtype), f"b c h w -> {pattern}"
    plain = Pixels(96, shape, dtype)
    before = ew.measure.equivariance_error(plain, "T(2)", x, signature=signature)
    assert float(before) > 0.1
    model = ew.equivariantize(plain, "T(2)", signature)
    assert model.equiwrap.errors(x).worst <= tolerance(dtype)
    whole = ew.equivariantize(plain, "T(2)", signature, frame="whole")
    assert whole.equiwrap.errors(x).worst <= tolerance(dtype)


def test_a_constant_image_is_one_call_and_its_answer_is_constant():
    measure = Shift()(parse_group("T(2)"), periodic())
    counts = (measure.weights > 0).sum(1)
    assert counts.tolist()[:4] == [1, 1, 1, 1]
    assert counts[4] <= 2
    model = ew.equivariantize(Pixels(96, (2, 6, 8)), "T(2)", "b c h w -> b c h w")
    y = model(periodic())
    assert relative(y[1], y[1, :, :1, :1].expand_as(y[1])) < 1e-12
    assert relative(y[2, :, :2].repeat(1, 3, 1), y[2]) < 1e-12


def test_a_circular_convolution_is_left_as_it_is():
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.Tanh()).double()
    x = periodic()
    model = ew.equivariantize(net, "T(2)", "b c h w -> b c h w")
    assert relative(model(x), net(x)) < 1e-12
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative(fast(x[:1]), net(x[:1])) < 1e-12
