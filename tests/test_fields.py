"""The quick roads of the projections that every step takes, beside the slow mean over elements."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_projectors import F64, fields_mean

from equiwrap import GroupError
from equiwrap.groups import parse_group
from equiwrap.reynolds import Kernels, Orbits, fields, rows
from equiwrap.reynolds.fields import Fields, Side

KERNELS = [(), (1, 1), (2, 2), (3, 3), (5, 5)]


def sides():
    """(before, after) of regular channels, or a number of those that rest."""
    return st.one_of(
        st.integers(1, 5), st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 6, 9]))
    )


def made(group, out, into, kernel, bias=False):
    """The projector and the shape of its weights."""
    parts = [Side(s, 1, False) if isinstance(s, int) else Side(*s) for s in (out, into)]
    channels = [s if isinstance(s, int) else s[0] * s[1] * group.order for s in (out, into)]
    if bias:
        return Fields(group, parts[0], Side(1, 1, False)), (channels[0],)
    return Fields(group, *parts, kernel), (*channels, *kernel)


def agrees(projector, weight, aim, tolerance):
    """P of the weight, with a graph and without; in place in part, whole, and of several."""
    held = weight.clone().requires_grad_()
    quick = projector.project(held)
    close = {"rtol": 0, "atol": tolerance, "check_dtype": False}
    torch.testing.assert_close(projector(held), aim, **close)
    torch.testing.assert_close(quick, aim, **close)
    assert quick.dtype == weight.dtype
    torch.testing.assert_close(quick.sub_(weight), aim - weight, **close)  # memory of its own
    pulled, others = weight.clone(), [weight.clone(), -2 * weight, weight.mT.contiguous().mT]
    projector.lerp_(pulled, 0.3)
    torch.testing.assert_close(pulled, weight + 0.3 * (aim - weight), **close)
    projector.lerp_each_(others, 1.0)
    for one, times in zip(others, (1, -2, 1), strict=True):
        torch.testing.assert_close(one, times * aim, **close | {"atol": 2 * tolerance})
    strided = weight.mT.contiguous().mT
    projector.lerp_(strided, 1.0)
    torch.testing.assert_close(strided, aim, **close)


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(["C2", "C4", "D2", "D4"]),
    out=sides(),
    into=sides(),
    kernel=st.sampled_from(KERNELS),
    cache=st.sampled_from([1, 100, 1000, 1 << 20]),
    seed=st.integers(0, 99),
)
def test_fields_of_any_make_are_means_over_the_elements(name, out, into, kernel, cache, seed):
    group = parse_group(name)
    if isinstance(out, int) and isinstance(into, int):
        return
    projector, shape = made(group, out, into, kernel)
    weight = torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
    aim = fields_mean(group, out, into, weight)
    with mock.patch.object(fields, "CACHE", cache), mock.patch.object(rows, "CACHE", cache):
        agrees(projector, weight, aim, 1e-13)
        agrees(projector, weight.float(), aim, 3e-6)
        agrees(projector, weight.bfloat16(), aim, 0.1)


@pytest.mark.parametrize("name", ["C3", "C8", "D3", "O"])
def test_rows_of_groups_without_pixels(name):
    group = parse_group(name)
    projector, shape = made(group, (2, 5), (1, 4), ())
    weight = torch.randn(shape, dtype=F64)
    agrees(projector, weight.float(), fields_mean(group, (2, 5), (1, 4), weight), 3e-6)


def test_a_bias_is_averaged_alone_and_with_others_like_it():
    group = parse_group("D4")
    for out in ((3, 2), (1, 5)):
        projector, shape = made(group, out, 1, (), bias=True)
        weight = torch.randn(shape, dtype=F64)
        aim = fields_mean(group, out, 1, weight)
        with pytest.MonkeyPatch.context() as patch:
            for small in (0, 1 << 14):
                patch.setattr(fields, "SMALL", small)
                others = [weight.clone(), 3 * weight]
                projector.lerp_each_(others, 0.5)
                for one, times in zip(others, (1, 3), strict=True):
                    torch.testing.assert_close(one, times * (weight + aim) / 2)
        torch.testing.assert_close(projector(weight), aim)


def test_the_projection_has_tangents_without_gradients_too():
    """Forward mode runs under no_grad: what is quick in place has no tangents."""
    projector, shape = made(parse_group("C4"), (1, 4), (1, 4), ())
    weight, tangent = torch.randn(2, *shape)
    with torch.no_grad():
        value, moved = torch.func.jvp(projector, (weight,), (tangent,))
    torch.testing.assert_close(value, projector(weight))
    torch.testing.assert_close(moved, projector(tangent))


def test_rows_are_taken_where_they_are_quick():
    """Float32 on a CPU, no kernel, both sides moved: else the slices."""
    group, both = parse_group("C4"), ((1, 8), (1, 8))
    taken = {}
    for kind, (out, into, kernel, dtype) in {
        "linear": (*both, (), torch.float32),
        "one pixel": (*both, (1, 1), torch.float32),
        "kernel": (*both, (3, 3), torch.float32),
        "float64": (*both, (), F64),
        "half": (*both, (), torch.bfloat16),
        "narrow": ((1, 8), (1, 2), (), torch.float32),
        "lifted": ((1, 8), 8, (), torch.float32),
    }.items():
        projector, shape = made(group, out, into, kernel)
        with mock.patch.object(fields, "row_means", wraps=fields.row_means) as spy:
            projector.lerp_(torch.randn(shape).to(dtype), 0.1)
        taken[kind] = spy.called
    assert [kind for kind, quick in taken.items() if quick] == ["linear", "one pixel"]


def test_kernels_under_a_group_off_the_lattice_are_refused():
    with pytest.raises(GroupError, match="C8 does not map the pixels of a kernel"):
        Fields(parse_group("C8"), Side(1, 2), Side(1, 2), (3, 3))


@pytest.mark.parametrize("count", [1, 2, 3, 5000, 9001])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("name", ["C2", "D4"])
def test_kernels_in_pairs_alone_and_by_orbits(name, side, count):
    """Nine pixels go in pairs, 144 by sums; in blocks, some of them of an odd number."""
    group = parse_group(name)
    weight = torch.randn(count, 1, side, side, dtype=F64)
    aim = fields_mean(group, count, 1, weight) if count < 10 else None
    if aim is None:
        moved = weight.flip(2, 3)
        aim = (weight + moved) / 2
        if name == "D4":
            aim = (aim + aim.rot90(1, (2, 3))) / 2
            aim = (aim + aim.flip(3)) / 2
    agrees(Kernels(group, tuple(weight.shape)), weight, aim, 1e-13)
    agrees(Kernels(group, tuple(weight.shape)), weight.float(), aim, 3e-6)


@pytest.mark.parametrize("trailing", [1, 3])
def test_orbits_of_entries_and_of_rows(trailing):
    label = torch.tensor([0, 1, 0, 3, 1, 0])
    projector = Orbits(label, 4, trailing)
    weight = torch.randn(4, 6 * trailing, dtype=F64)
    table = weight.view(4, 6, trailing)
    aim = torch.stack([table[:, label == k].mean(1) for k in label], 1).view(weight.shape)
    agrees(projector, weight, aim, 1e-14)
    agrees(projector, weight.float(), aim, 1e-6)
