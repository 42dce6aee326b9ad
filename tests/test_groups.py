"""Groups and representations: the laws, the names, and wrong objects that the laws must reject."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from conftest import GROUPS
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import turn

import equiwrap as ew
from equiwrap.groups import Cyclic, FiniteGroup, Orthogonal, parse_group
from equiwrap.representations import Defining, Regular, Trivial, letters
from equiwrap.testing import check_group, check_representation


@pytest.mark.parametrize("name", GROUPS)
def test_group_laws_hold(name):
    check_group(name)


@pytest.mark.parametrize("name", [n for n in GROUPS if " x " not in n])
def test_the_algebra_generates_the_group(name):
    group = parse_group(name)
    basis = group.algebra()
    if basis.shape[0]:
        small = torch.randn(8, *basis.shape[:1], 1, 1, dtype=torch.float64)
        g = torch.matrix_exp((small * basis).sum(1))
        assert group.distance(g).amax() < 1e-9
        # independent over the real numbers, as directions in which g can move
        real = torch.view_as_real(basis).flatten(1) if group.complex else basis.flatten(1)
        assert torch.linalg.matrix_rank(real) == len(basis)


@pytest.mark.parametrize("name", GROUPS)
def test_names_parse_what_they_print(name):
    assert str(parse_group(name)) == name
    assert parse_group(str(parse_group(name))) == parse_group(name)


@pytest.mark.parametrize("name", GROUPS)
def test_every_letter_is_a_representation(name):
    for rep in letters(parse_group(name)).values():
        check_representation(rep, name)


@pytest.mark.parametrize("name", ["C4", "D4", "O(3)"])
def test_algebra_of_representations_acts_as_its_matrix(name):
    group = parse_group(name)
    v = Defining(group)
    for rep in (v + Trivial(2), v * v, Trivial(3) * v, v.dual, (v + Trivial()) * v):
        check_representation(rep, name)
        g = group.sample(5)
        x = torch.randn(5, 4, rep.size, dtype=torch.float64)
        by_matrix = torch.einsum("bij,bnj->bni", rep.matrix(g), x)
        torch.testing.assert_close(rep.act(g, x), by_matrix)


def test_regular_representation_permutes_like_left_multiplication():
    group = parse_group("D4")
    g = group.elements()
    rho = Regular(group).matrix(g)
    for i in range(8):
        for h in range(8):
            image = (g[i] @ g[h] - g).flatten(1).norm(dim=1).argmin()
            assert rho[i, image, h] == 1
    assert torch.equal(rho.sum(-1), torch.ones(8, 8, dtype=rho.dtype))


def test_haar_on_so3_has_the_moments_of_haar():
    g = Orthogonal(3, special=True).sample(40_000, generator=torch.Generator().manual_seed(0))
    trace = g.diagonal(dim1=-2, dim2=-1).sum(-1)
    # characters of the vector representation: E χ = 0, E χ² = 1
    assert abs(float(trace.mean())) < 0.02
    assert abs(float(trace.square().mean()) - 1) < 0.03


@pytest.mark.parametrize("d", [2, 3, 4])
def test_haar_on_od_has_both_determinants_and_no_preferred_axis(d):
    g = Orthogonal(d).sample(20_000, generator=torch.Generator().manual_seed(0))
    assert abs(float(torch.linalg.det(g).mean())) < 0.03
    assert float(g.mean(0).abs().max()) < 0.03


def test_a_group_of_ones_own_is_a_value():
    a = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    b = [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]
    tetrahedron = FiniteGroup("T", [a, b])
    assert tetrahedron.order == 12
    check_group(tetrahedron)
    assert not tetrahedron.reflections


def test_a_group_that_does_not_close_is_refused():
    c, s = math.cos(1.0), math.sin(1.0)
    with pytest.raises(ew.GroupError, match="more than"):
        FiniteGroup("irrational", [[[c, -s], [s, c]]])


@dataclass(frozen=True)
class Wrong(Cyclic):
    """C_n with an element replaced: not closed."""

    def elements(self, device=None):
        g = super().elements(device).clone()
        g[1] = -g[1]
        return g


def test_a_list_that_is_not_closed_is_rejected():
    with pytest.raises(ew.EquivarianceError):
        check_group(Wrong(3))


@dataclass(frozen=True)
class Backwards(Defining):
    """ρ(g) = g⁻¹: an anti-homomorphism."""

    def matrix(self, g):
        return super().matrix(g).mT


def test_the_inverse_in_place_of_the_element_is_rejected():
    with pytest.raises(ew.EquivarianceError, match="ρ"):
        check_representation(Backwards(parse_group("SO(3)")), "SO(3)")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("C5x", "C5"),
        ("SO3", "SO\\(3\\)"),
        ("", "names are"),
        ("GLS(3)", "names are"),
        ("C0", "n ≥ 1"),
    ],
)
def test_unknown_groups_get_the_names_that_exist(name, says):
    with pytest.raises(ew.GroupError, match=says):
        parse_group(name)


def test_infinite_groups_say_what_to_do_instead_of_a_list():
    with pytest.raises(ew.GroupError, match="sampled, not listed"):
        parse_group("O(3)").elements()


@given(size=st.integers(1, 12), k=st.integers(0, 3), flipped=st.booleans(), c=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_d4_on_pixels_is_rot90_and_flip_bit_for_bit(size, k, flipped, c):
    group = parse_group("D4")
    x = torch.randn(2, c, size, size)
    g = group.elements()[k + 4 * flipped]
    assert torch.equal(ew.grids.act_on_grid(group, g, x), turn(x, k, flipped))


@given(h=st.integers(1, 9), w=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_d2_keeps_any_rectangle(h, w):
    group = parse_group("D2")
    x = torch.randn(2, h, w)
    y = ew.grids.act_on_grid(group, group.elements()[:, None], x[None].expand(4, 2, h, w))
    expected = torch.stack([x, x.flip(-1, -2), x.flip(-1), x.flip(-2)])
    assert torch.equal(y, expected)


def test_interpolated_elements_compose_up_to_the_floor_only_on_smooth_images():
    group = parse_group("C8")
    n = 33
    t = torch.linspace(-2, 2, n, dtype=torch.float64)
    x = torch.exp(-((t[:, None] - 0.4) ** 2) - (t + 0.2) ** 2)[None, None]
    g = group.elements()
    twice = ew.grids.act_on_grid(group, g[1], ew.grids.act_on_grid(group, g[1], x))
    once = ew.grids.act_on_grid(group, g[2], x)
    gap = float((twice - once).norm() / once.norm())
    assert 0 < gap < 0.05
