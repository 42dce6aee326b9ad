"""⟨f⟩ = f for every group: what is equivariant already is left as it is, to 1e-10 in float64."""

from __future__ import annotations

import pytest
import torch
from clouds import CUBE
from reference import relative
from torch import nn

import equiwrap as ew
from equiwrap.groups import metric, parse_group

D = torch.float64


class Gram(nn.Module):
    """*f(x)_i = Σ_j s(⟨x_i, x_j⟩) x_j*, by the group's own product; positions about their mean."""

    def __init__(self, group):
        super().__init__()
        self.group = parse_group(group.rsplit(" x ", 1)[-1])

    def forward(self, x):
        centre = x.mean(1, keepdim=True) if self.group.affine else torch.zeros_like(x[:, :1])
        u = x - centre
        if self.group.complex:
            gram = u.conj() @ u.mT
            return (gram * gram.abs().tanh()).mT @ u
        eta = torch.eye(self.group.dim, dtype=x.dtype)
        if "(1," in str(self.group):
            eta = metric(self.group.dim)
        return centre + (u @ eta @ u.mT).tanh() @ u


class Whitened(nn.Module):
    """*f(x) = tanh(X (XᵀX)⁻¹ Xᵀ) X*, linear in the vectors with invariant coefficients."""

    def forward(self, x):
        centre = x.mean(1, keepdim=True) if self.affine else torch.zeros_like(x[:, :1])
        u = x - centre
        return centre + (u @ torch.linalg.solve(u.mT @ u, u.mT)).tanh() @ u

    def __init__(self, affine):
        super().__init__()
        self.affine = affine


class Pointwise(nn.Module):
    """Pixels, rows or voxels by themselves, beside their mean."""

    def forward(self, x):
        mean = x.mean(tuple(range(1, x.ndim)), keepdim=True)
        return (x * mean).sin() + x.square()


class Unit(nn.Module):
    """*f(x) = x tanh(x / |x|)*: has the unit of x."""

    def forward(self, x):
        return x * (x / x.flatten(1).norm(dim=1)[:, None, None]).tanh()


def clouds(d, complex_=False):
    x = torch.randn(4, 8, d, dtype=D)
    if complex_:
        x = torch.complex(x, torch.randn(4, 8, d, dtype=D))
    x[1, 4:] = x[1, :4]
    if d == 3:
        x[2] = CUBE.to(x.dtype)
        x[3, :, 2] = 0
    return x


@pytest.mark.parametrize(
    "group", ["O(2)", "SO(2)", "O(3)", "SO(3)", "O(4)", "E(2)", "SE(2)", "E(3)", "SE(3)"]
)
@pytest.mark.parametrize("frame", ["axes", "pca", "haar"])
def test_clouds(group, frame):
    letter, x = "p" if "E" in group else "v", clouds(parse_group(group).dim)
    model = ew.equivariantize(Gram(group), group, f"b n {letter} -> b n {letter}", frame=frame)
    assert relative(model(x), Gram(group)(x)) < 1e-10


@pytest.mark.parametrize("group", ["S(n) x O(3)", "S(n) x SO(3)", "S(n) x E(3)", "S(n) x SE(3)"])
def test_products(group):
    letter, x = "p" if "E" in group else "v", clouds(3)
    model = ew.equivariantize(Gram(group), group, f"b n {letter} -> b n {letter}")
    assert relative(model(x), Gram(group)(x)) < 1e-10


@pytest.mark.parametrize("group", ["SO+(1,3)", "SO(1,3)", "O(1,3)", "SO+(1,2)", "S(n) x SO+(1,3)"])
def test_jets(group):
    d = parse_group(group.rsplit(" x ", 1)[-1]).dim
    p = torch.randn(4, 8, d - 1, dtype=D)
    x = torch.cat([p.norm(dim=-1, keepdim=True), p], -1)  # massless
    x[1, 5:] = 0
    model = ew.equivariantize(Gram(group), group, "b n v -> b n v")
    assert relative(model(x), Gram(group)(x)) < 1e-10


@pytest.mark.parametrize("group", ["U(1)", "U(2)", "U(3)", "SU(2)", "SU(3)", "S(n) x U(2)"])
def test_complex_clouds(group):
    x = clouds(parse_group(group.rsplit(" x ", 1)[-1]).dim, complex_=True)
    model = ew.equivariantize(Gram(group), group, "b n v -> b n v")
    assert relative(model(x), Gram(group)(x)) < 1e-10


@pytest.mark.parametrize("group", ["GL(2)", "GL(3)", "SL(2)", "SL(3)", "SL(4)", "Aff(3)"])
def test_linear_groups(group):
    x = torch.randn(4, 8, parse_group(group).dim, dtype=D)
    letter, net = "p" if "Aff" in group else "v", Whitened("Aff" in group)
    model = ew.equivariantize(net, group, f"b n {letter} -> b n {letter}")
    assert relative(model(x), net(x)) < 1e-10


@pytest.mark.parametrize(
    ("group", "signature", "frames"),
    [
        ("C4", "b c h w -> b c h w", ["key", "whole"]),
        ("D4", "b c h w -> b c h w", ["key", "whole"]),
        ("T(2)", "b c h w -> b c h w", ["shift", "whole"]),
        ("O", "b d h w -> b d h w", ["key", "whole"]),
        ("O_h", "b d h w -> b d h w", ["key", "whole"]),
        ("S(n)", "b n c e -> b n c e", ["sorted", "whole"]),
        ("S(n)", "b n n c -> b n n c", ["whole", "labelled"]),
    ],
)
def test_lattices_and_rows(group, signature, frames):
    x = torch.randn(4, 4, 4, 4, dtype=D)
    x[1] = 1.0
    x[2, 1] = x[2, 0]
    x = x + x.transpose(1, 2) if "n n" in signature else x
    for frame in frames:
        if frame == "labelled":
            pytest.importorskip("igraph")
        model = ew.equivariantize(Pointwise(), group, signature, frame=frame)
        assert relative(model(x), Pointwise()(x)) < 1e-10


@pytest.mark.parametrize("group", ["R+", "S(n) x R+"])
def test_scale(group):
    x = torch.randn(4, 5, 3, dtype=D)
    model = ew.equivariantize(Unit(), group, "b n v -> b n v")
    assert relative(model(x), Unit()(x)) < 1e-10


def test_what_is_not_equivariant_is_changed():
    class Bent(Gram):
        def forward(self, x):
            return super().forward(x) + x.roll(1, -1)

    x = clouds(3)
    model = ew.equivariantize(Bent("O(3)"), "O(3)", "b n v -> b n v")
    assert relative(model(x), Bent("O(3)")(x)) > 0.1
