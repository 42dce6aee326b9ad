"""Kernels and orbits: P² = P = Pᵀ, P commutes with the action, and both roads agree."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_reynolds import fixed_kernels, mean_over_elements, turned

from equiwrap import GroupError
from equiwrap.groups import parse_group
from equiwrap.reynolds import kernel_matrix, orbit_mean, orbits_of, project_kernel

PLANAR = ["C1", "C2", "C4", "D1", "D2", "D4"]
CASES = [(name, k, 2) for name in PLANAR for k in range(1, 8)]
CASES += [(name, k, 3) for name in ("O", "O_h") for k in range(1, 5)]


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(("name", "k", "d"), CASES)
def test_projected_kernels_are_means_over_the_elements(name, k, d):
    group = parse_group(name)
    weight = drawn(2, 3, *[k] * d)
    projected = project_kernel(group, weight)
    torch.testing.assert_close(projected, mean_over_elements(group, weight), rtol=0, atol=1e-14)
    for matrix in group.elements().double():
        torch.testing.assert_close(turned(matrix, projected), projected, rtol=0, atol=1e-14)
    if group.order > 1 and k > 1:
        assert (projected - weight).norm() > 0.1 * weight.norm()


@pytest.mark.parametrize(("name", "k", "d"), CASES)
def test_the_rank_of_the_projection_is_the_character_count(name, k, d):
    group = parse_group(name)
    matrix = kernel_matrix(group, (k,) * d, drawn(1))
    rank = fixed_kernels(group, (k,) * d)
    assert torch.linalg.matrix_rank(matrix) == rank
    torch.testing.assert_close(matrix.trace(), torch.tensor(float(rank), dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["C2", "C4", "D1", "D2", "D4", "O", "O_h"]),
    k=st.integers(1, 5),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 99),
)
def test_the_projection_is_idempotent_and_self_adjoint_and_commutes(name, k, channels, seed):
    torch.manual_seed(seed)
    group = parse_group(name)
    shape = (*channels, *[k] * (3 if name[0] == "O" else 2))
    a, b = drawn(*shape), drawn(*shape)
    pa, pb = project_kernel(group, a), project_kernel(group, b)
    torch.testing.assert_close(project_kernel(group, pa), pa, rtol=0, atol=1e-14)
    torch.testing.assert_close((pa * b).sum(), (a * pb).sum(), rtol=0, atol=1e-12)
    for matrix in group.elements().double():
        torch.testing.assert_close(project_kernel(group, turned(matrix, a)), pa, rtol=0, atol=1e-14)


def test_the_slow_road_tells_a_rotation_from_its_inverse():
    """Else the reference could not reject a projector that turns kernels the wrong way."""
    weight = drawn(1, 1, 3, 3)
    quarter = next(g for g in parse_group("C4").elements().double() if g[0, 0].abs() < 0.5)
    torch.testing.assert_close(turned(quarter.T, turned(quarter, weight)), weight)
    assert not torch.allclose(turned(quarter, weight), turned(quarter.T, weight))


@pytest.mark.parametrize("name", ["SO(2)", "C8", "S(4)"])
def test_kernels_are_refused_for_groups_that_do_not_keep_the_lattice(name):
    with pytest.raises(GroupError, match="pixels"):
        project_kernel(parse_group(name), drawn(1, 1, 3, 3))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 30), moves=st.integers(0, 3), seed=st.integers(0, 999))
def test_orbits_are_the_connected_parts_and_their_mean_is_brute_force(size, moves, seed):
    torch.manual_seed(seed)
    permutations = [torch.randperm(size) for _ in range(moves)]
    label = orbits_of(size, [(torch.arange(size), p) for p in permutations])
    reached = [{i} for i in range(size)]
    for orbit in reached:
        while True:
            more = {int(p[j]) for p in permutations for j in orbit} | orbit
            if more == orbit:
                break
            orbit |= more
    assert label.tolist() == [min(orbit) for orbit in reached]
    values = drawn(size)
    expected = torch.stack([values[list(orbit)].mean() for orbit in reached])
    found = orbit_mean(values, label)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(orbit_mean(found, label), found)
    other = drawn(size)
    torch.testing.assert_close((found * other).sum(), (values * orbit_mean(other, label)).sum())
    for p in permutations:
        torch.testing.assert_close(found[p], found)


@pytest.mark.parametrize("name", ["C4", "D4"])
def test_kernels_by_orbits_agree_with_kernels_by_matrix(name):
    group, k = parse_group(name), 5
    pixels = torch.arange(k * k, dtype=torch.float64).reshape(k, k)
    pairs = [(pixels.long(), turned(g, pixels).long()) for g in group.elements().double()]
    weight = drawn(k, k)
    by_orbits = orbit_mean(weight, orbits_of(k * k, pairs))
    torch.testing.assert_close(by_orbits, project_kernel(group, weight[None, None])[0, 0])
