"""Null spaces of generators: they commute, they are all that commutes, they are as many as said."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from conftest import GROUPS
from own_group import AboutZ
from reference_projectors import (
    actions,
    axis_matrix,
    compact_dual,
    design,
    null_by_samples,
    quaternions,
    wigner,
)

from equiwrap import GroupError
from equiwrap.groups import parse_group
from equiwrap.representations import Representation, Trivial, letters
from equiwrap.reynolds.blocks import pieces
from equiwrap.reynolds.intertwiners import intertwiners
from equiwrap.reynolds.irreps import Angular

ONE = Trivial(1)
MATRICES = [name for name in GROUPS if letters(parse_group(name)) and name not in ("R+", "Aff(2)")]


def vector(group):
    """The letter v, or n."""
    known = letters(group)
    rep = known["v"] if "v" in known else known["n"]
    return rep.of_size(3) if rep.size == 0 else rep


def span(basis):
    flat = basis.flatten(1)
    return flat.mT @ flat.conj()


@pytest.mark.parametrize("name", MATRICES)
def test_intertwiners_are_orthonormal_and_are_all_that_a_few_elements_leave(name):
    group = parse_group(name)
    v = vector(group)
    for out, into in [(v, v), (v.dual, v), (v + ONE, v), (v * v, ONE), (v, v * v)]:
        if out.size * into.size > 130:
            continue
        basis = intertwiners(group, out, into)
        gram = torch.einsum("qoi,roi->qr", basis.conj(), basis)
        torch.testing.assert_close(gram, torch.eye(len(basis)).to(gram), rtol=0, atol=1e-12)
        slow = null_by_samples(group, out, into)
        torch.testing.assert_close(span(basis).to(slow), slow, rtol=0, atol=1e-9)


KNOWN = [  # group, dim Hom(v⊗v, v⊗v), Hom(v⊗v, v), Hom(v⊗v, 1)
    ("SO(2)", 6, 0, 2),
    ("O(2)", 3, 0, 1),
    ("SO(3)", 3, 1, 1),
    ("O(3)", 3, 0, 1),
    ("SO(4)", 4, 0, 1),
    ("SO+(1,3)", 4, 0, 1),
    ("O(1,3)", 3, 0, 1),
    ("U(2)", 2, 0, 0),
    ("SU(2)", 2, 0, 1),
    ("U(3)", 2, 0, 0),
    ("GL(3)", 2, 0, 0),
    ("SL(2)", 2, 0, 1),
    ("S(4)", 15, 5, 2),
    ("SE(3)", 3, 1, 1),
]


@pytest.mark.parametrize(("name", "two", "one", "none"), KNOWN)
def test_as_many_as_the_first_fundamental_theorems_say(name, two, one, none):
    group = parse_group(name)
    v = vector(group)
    found = [len(intertwiners(group, out, v * v)) for out in (v * v, v, ONE)]
    assert found == [two, one, none]


@pytest.mark.parametrize("name", ["C1", "C3", "C8", "D3", "D4", "O", "O_h", "S(4)", "C4 x C2"])
def test_in_finite_groups_as_many_as_the_product_of_characters(name):
    group = parse_group(name)
    v = vector(group)
    for out, into in [(v, v), (v * v, v), (v * v, v * v), (v + ONE, v * v)]:
        traces = [
            axis_matrix(((1, out),), g).trace() * axis_matrix(((1, into),), g).trace()
            for g in design(group)
        ]
        count = float(torch.stack(traces).mean())
        assert len(intertwiners(group, out, into)) == pytest.approx(count, abs=1e-9)


def test_lorentz_tensors_are_projected_by_the_mean_over_the_compact_dual():
    group = parse_group("SO+(1,3)")
    v = vector(group)
    for out, into in [(v, v), (v + ONE, v * v), (v * v, v * v), (v.dual, v)]:
        side_out, side_in = ((1, out),), ((1, into),)
        duals = compact_dual(group)
        mean = sum(actions(side_out, side_in, [u])[0] for u in duals) / len(duals)
        found = span(intertwiners(group, out, into))
        torch.testing.assert_close(mean, found.to(mean), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["SO(3)", "SO+(1,3)", "SL(3)"])
def test_the_null_space_is_the_kernel_of_the_casimir(name):
    """Σ over k of adᵀad plus Σ over p of adᵀad; its kernel is what all of them leave."""
    group = parse_group(name)
    v = vector(group)
    for out, into in [(v, v), (v * v, v), (v * v, ONE)]:
        casimir = 0
        for x in group.algebra():
            d = [_differential(rep, x) for rep in (out, into)]
            ad = torch.kron(d[0], torch.eye(into.size).double())
            ad = ad - torch.kron(torch.eye(out.size).double(), d[1].mT.contiguous())
            casimir = casimir + ad.mT @ ad
        values, vectors = torch.linalg.eigh(casimir)
        kernel = vectors[:, values < 1e-9]
        found = span(intertwiners(group, out, into))
        torch.testing.assert_close(kernel @ kernel.mT, found, rtol=0, atol=1e-11)


def _differential(rep, x, step=1e-2):
    """dρ(X) by central differences, to sixth order, of matrix exponentials."""
    weights = [(1, 3 / 4), (2, -3 / 20), (3, 1 / 60)]
    total = 0
    for k, w in weights:
        pair = [rep.matrix(torch.matrix_exp(s * k * step * x)) for s in (1, -1)]
        total = total + w * (pair[0] - pair[1]) / step
    return total


def test_the_maps_of_a_product_are_products_of_maps():
    group = parse_group("S(4) x O(3)")
    known = letters(group)
    rep = known["n"] * known["v"]
    basis = intertwiners(group, rep, rep)
    parts = [
        intertwiners(parse_group(name), *[letters(parse_group(name))[a]] * 2)
        for name, a in (("S(4)", "n"), ("O(3)", "v"))
    ]
    expected = torch.kron(span(parts[0]), span(parts[1])).reshape(4, 4, 3, 3, 4, 4, 3, 3)
    expected = expected.permute(0, 2, 1, 3, 4, 6, 5, 7).reshape(144, 144)
    torch.testing.assert_close(span(basis), expected, rtol=0, atol=1e-12)


def test_a_group_of_ones_own_needs_generators_only():
    group = AboutZ()
    v = letters(group)["v"]
    assert len(intertwiners(group, v, v)) == 3  # two on the plane, one along z


@pytest.mark.parametrize("m", [1, 2, 5])
def test_angular_representations_are_homomorphisms_and_differ(m):
    group = parse_group("O(2)")
    g, h = group.sample(7), group.sample(7)
    rep = Angular(m)
    torch.testing.assert_close(rep.matrix(g @ h), rep.matrix(g) @ rep.matrix(h))
    points = torch.randn(7, 2, dtype=torch.float64)
    z = torch.complex(*torch.einsum("gij,gj->gi", g, points).unbind(-1)) ** m
    before = torch.complex(*points.unbind(-1)) ** m
    moved = rep.act(g, torch.view_as_real(before))
    torch.testing.assert_close(moved, torch.view_as_real(z))
    assert len(intertwiners(group, rep, rep)) == 1
    assert len(intertwiners(group, rep, Angular(m + 1))) == 0


@dataclass(frozen=True)
class Rounded(Representation):
    """A representation to six digits."""

    base: Representation
    size = 3

    def matrix(self, g):
        return (self.base.matrix(g) * 1e6).round() / 1e6


@dataclass
class Unhashable(Representation):
    base: Representation
    size = 3

    def matrix(self, g):
        return self.base.matrix(g)


def test_constraints_without_a_clear_rank_are_refused_with_their_values():
    group = parse_group("D3")
    v = letters(group)["v"] + ONE
    assert len(intertwiners(group, v, v)) == 2
    with pytest.raises(GroupError, match=r"singular values are .*e-07"):
        intertwiners(group, Rounded(v), v)


def test_positions_are_refused_and_values_that_have_no_hash_are_not():
    group = parse_group("SE(3)")
    with pytest.raises(GroupError, match="affinely"):
        intertwiners(group, letters(group)["p"], ONE)
    v = Unhashable(letters(group)["v"])
    assert len(intertwiners(group, v, v)) == 1


def test_the_wrong_dual_is_told_apart():
    """A null space with g for g⁻¹ on one side would pass for orthogonal groups."""
    for name in ("GL(3)", "U(3)"):
        v = vector(parse_group(name))
        assert len(intertwiners(parse_group(name), v, v)) == 1
        assert len(intertwiners(parse_group(name), v.dual, v)) == 0


def test_the_slow_spins_are_irreps():
    """Else the spectral laws would be laws about nothing."""
    for degree in (1, 2):
        traces = torch.stack([wigner(degree, q).trace() for q in quaternions("I")])
        assert float(traces.square().mean()) == pytest.approx(1.0)


def test_pieces_of_an_axis_are_copies_and_their_matrices_agree():
    group = parse_group("O(3)")
    v, a = letters(group)["v"], letters(group)["a"]
    g = group.sample(1)[0]
    for rep, count in [
        (Trivial(4) * v, 1),
        (v * Trivial(3), 1),
        (Trivial(2) * v * Trivial(3), 1),
        (v + v + Trivial(2) + ONE, 2),
        (v + a + Trivial(4), 3),
        (Trivial(2) * (v + ONE), 1),
        (v * v + Trivial(2) * (Trivial(3) * a), 2),
        (Trivial(5), 1),
        ((v + ONE) * Trivial(2), 1),
    ]:
        found = pieces(rep)
        assert len(found) == count, (rep, found)
        torch.testing.assert_close(axis_matrix(found, g), rep.matrix(g))
