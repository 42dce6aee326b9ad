"""Every family of projections, one registry of cases, the same laws for all of them.

P² = P = Pᵀ, P A = A P = P for every action A where it is exact, P is the slow mean, rank P = tr P =
the mean of the characters, E‖gW − W‖² = 2‖W − PW‖².
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations, product
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_projectors import (
    F64,
    actions,
    axis_matrix,
    compact_dual,
    conjugations,
    dense,
    design,
    kron,
    left,
    null_by_samples,
    quaternions,
    rows_matrix,
    shift_matrix,
    steerable_columns,
    toeplitz_mean,
    turn,
    wigner,
)

from equiwrap import GroupError, SignatureError
from equiwrap.grids import act_on_grid
from equiwrap.groups import Cyclic, parse_group
from equiwrap.representations import Regular, Representation, Trivial, letters
from equiwrap.reynolds import Kernels, Orbits, Projector, orbits_of
from equiwrap.reynolds.blocks import Blocks, pieces
from equiwrap.reynolds.fields import Fields, Side
from equiwrap.reynolds.irreps import Angular, Irreps, frequency, quaternion, spin, unitary
from equiwrap.reynolds.sets import Sets, patterns
from equiwrap.reynolds.steerable import REACH, WIDTH, Steerable, steering_error
from equiwrap.reynolds.translations import Translations
from equiwrap.reynolds.turning import Turning

ONE = Trivial(1)


@dataclass(frozen=True, eq=False)
class Case:
    """A projector, and what it is compared with."""

    projector: Projector
    shape: tuple[int, ...]
    acts: torch.Tensor | None = None  # [g, N, N], on flat weights
    mean: bool = True  # P is the mean over acts; else it only commutes with them
    slow: torch.Tensor | None = None  # [N, N], where P is no mean
    orthogonal: bool = True  # the acts are; else P A = P need not hold


CASES: dict[str, Callable[[], Case]] = {}


def v(name):
    known = letters(parse_group(name))
    return known.get("v", known.get("n"))


def r(name):
    return Regular(parse_group(name))


def by_blocks(name, out, into, kernel=()):
    """Blocks of a group with a design."""
    group = parse_group(name)
    projector = Blocks(group, out, into, kernel)
    shape = tuple(sum(prod((p[0], p[1].size, *p[2:])) for p in s) for s in (out, into)) + kernel
    if group.compact:
        return Case(projector, shape, actions(out, into, design(group), prod(kernel)))
    if name == "SO+(1,3)":
        return Case(projector, shape, actions(out, into, compact_dual(group)))
    whole = [sum_of(side) for side in (out, into)]
    slow = null_by_samples(group, *whole)
    acts = actions(out, into, group.sample(4))
    return Case(projector, shape, acts, False, slow, orthogonal=False)


def sum_of(side):
    """(l, ρ) pieces as one representation."""
    rep = None
    for copies, base in side:
        for _ in range(copies):
            rep = base if rep is None else rep + base
    return rep


BLOCKS = [
    ("C3", ((2, v("C3")), (1, ONE)), ((1, v("C3")), (2, ONE))),
    ("C4", ((1, v("C4")), (1, r("C4"))), ((1, r("C4")), (2, v("C4")))),
    ("D3", ((1, v("D3") * v("D3")),), ((1, r("D3")), (1, v("D3"), 2))),
    ("D4", ((2, v("D4")), (1, ONE)), ((1, v("D4"), 3),)),
    ("O", ((1, v("O") * v("O")),), ((1, v("O")), (1, ONE))),
    ("O_h", ((1, v("O_h")), (1, letters(parse_group("O_h"))["a"])), ((2, v("O_h")),)),
    ("S(4)", ((2, v("S(4)")), (1, ONE)), ((1, v("S(4)")),)),
    ("SO(2)", ((2, v("SO(2)")), (1, ONE)), ((1, v("SO(2)")), (1, Angular(2)))),
    ("O(2)", ((1, v("O(2)") * v("O(2)")),), ((1, Angular(2)), (2, ONE))),
    ("SO(3)", ((1, v("SO(3)") * v("SO(3)")),), ((2, v("SO(3)")), (1, ONE))),
    ("O(3)", ((2, v("O(3)")), (3, ONE)), ((3, v("O(3)")), (1, letters(parse_group("O(3)"))["a"]))),
    ("SO(4)", ((2, v("SO(4)")),), ((1, v("SO(4)")), (1, ONE))),
    ("U(2)", ((2, v("U(2)")), (1, ONE)), ((1, v("U(2)")), (1, v("U(2)").dual))),
    ("SU(2)", ((1, v("SU(2)") * v("SU(2)")),), ((1, v("SU(2)")), (1, ONE))),
    ("SO+(1,3)", ((2, v("SO+(1,3)")), (1, ONE)), ((1, v("SO+(1,3)")), (1, v("SO+(1,3)").dual))),
    ("O(1,3)", ((1, v("O(1,3)") * v("O(1,3)")),), ((1, v("O(1,3)")), (2, ONE))),
    ("GL(3)", ((2, v("GL(3)")), (1, v("GL(3)").dual)), ((1, v("GL(3)")), (1, ONE))),
    ("SL(2)", ((1, v("SL(2)")), (1, v("SL(2)").dual)), ((2, v("SL(2)")),)),
    ("C4 x C2", ((2, v("C4 x C2")),), ((1, letters(parse_group("C4 x C2"))["r"]),)),
]
for _name, _out, _into in BLOCKS:
    CASES[f"blocks {_name}"] = lambda a=(_name, _out, _into): by_blocks(*a)
CASES["blocks O(2), a kernel that rests"] = lambda: by_blocks(
    "O(2)", ((2, v("O(2)")), (1, ONE)), ((1, v("O(2)")), (1, ONE)), (2, 2)
)
CASES["bias of blocks O(3)"] = lambda: replace(
    by_blocks("O(3)", ((2, v("O(3)")), (3, ONE)), ((1, ONE),)), shape=(9,)
)


def by_irreps(out, into, pairs, kernel=()):
    """Irreps, by matrices of both axes at each element."""
    shape = tuple(sum(m * i.size for m, i in side) for side in (out, into)) + kernel
    pixels = [torch.eye(prod(kernel))] * len(pairs)
    return Case(Irreps(out, into, kernel), shape, conjugations(pairs, pixels))


def copies(side):
    """(multiplicity, matrix) pairs on one axis."""
    return torch.block_diag(*[kron(torch.eye(m, dtype=F64), x) for m, x in side])


def circle(out, into, order=None, mirrors=False, odd=()):
    """SO(2), C_n, O(2), D_n on frequencies (mul, m); `odd`: those of size 1 that mirrors flip."""
    count = order or 16
    flip = torch.tensor([[1.0, 0], [0, -1]], dtype=F64)

    def rep(m, k, mirror):
        if m == 0 or (order and 2 * m == order):
            return torch.tensor([[(-1.0) ** (k if m else 0) * (-1.0) ** (mirror and m in odd)]])
        return turn(2 * torch.pi * k / count, m) @ (flip if mirror else torch.eye(2).double())

    def irrep(m):
        return frequency(m, order, (-1 if m in odd else 1) if mirrors else None)

    pairs = [
        tuple(copies([(c, rep(m, k, s).double()) for c, m in side]) for side in (out, into))
        for k, s in product(range(count), (0, 1) if mirrors else (0,))
    ]
    named = [tuple((c, irrep(m)) for c, m in side) for side in (out, into)]
    return by_irreps(*named, pairs)


def signs():
    """D4's four irreps of one entry: (−1)^k under turns, ± under mirrors."""
    named = tuple((1, frequency(m, 4, sign)) for m in (0, 2) for sign in (1, -1))
    pairs = []
    for k, mirror in product(range(4), (0, 1)):
        entries = [(-1.0) ** (k * m // 2) * sign**mirror for m in (0, 2) for sign in (1, -1)]
        pairs.append((torch.tensor(entries, dtype=F64).diag(),) * 2)
    return by_irreps(named, named, pairs)


def sphere(out, into, inversion=False):
    """SO(3) or O(3) on (mul, l, parity)."""
    pairs = []
    for q, s in product(quaternions("I"), (1, -1) if inversion else (1,)):
        axis = [
            copies([(c, wigner(d, q) * (p if s < 0 else 1)) for c, d, p in side])
            for side in (out, into)
        ]
        pairs.append(tuple(axis))
    named = [
        tuple((c, spin(d, p if inversion else None)) for c, d, p in side) for side in (out, into)
    ]
    return by_irreps(*named, pairs)


def real_unitary(irreps):
    """U(2) on ℝ⁴, entries (Re, Im) one after the other."""
    pairs = []
    for g in design(parse_group("U(2)")):
        both = [_as_real(g.conj() if irrep.conjugate else g) for irrep in irreps]
        pairs.append(tuple(both))
    return by_irreps(((1, irreps[0]),), ((1, irreps[1]),), pairs)


def _as_real(g):
    quarter = torch.tensor([[0.0, -1], [1, 0]], dtype=F64)
    return kron(g.real, torch.eye(2, dtype=F64)) + kron(g.imag, quarter)


def quaternionic(n):
    """SU(2) on ℍ; on ℍ² the monomial matrices over the binary tetrahedral group."""
    units = [left(q) for q in quaternions("T")]
    if n == 1:
        return by_irreps(
            ((2, quaternion(1)),), ((1, quaternion(1)),), [(copies([(2, u)]), u) for u in units]
        )
    swap = kron(torch.tensor([[0.0, 1], [1, 0]], dtype=F64), torch.eye(4, dtype=F64))
    every = [torch.block_diag(a, b) for a, b in product(units, units[:12])]
    return by_irreps(
        ((1, quaternion(2)),), ((1, quaternion(2)),), [(h, h) for g in every for h in (g, g @ swap)]
    )


CASES |= {
    "SO(2) frequencies": lambda: circle(((2, 1), (1, -2), (1, 0)), ((1, -1), (2, 2), (1, 3))),
    "O(2) frequencies": lambda: circle(
        ((2, 1), (1, -2), (1, 0)), ((1, 1), (1, 2), (2, 0)), None, True
    ),
    "C5 frequencies": lambda: circle(((2, 1), (1, 4)), ((1, 3), (1, -7), (1, 0), (1, 1)), 5),
    "C8 frequencies": lambda: circle(((1, 1), (1, 4), (1, 3)), ((1, 4), (2, -5), (1, 0)), 8),
    "D4 frequencies": lambda: circle(((1, 1), (2, 2)), ((1, 2), (1, 1), (1, 0)), 4, True, (2,)),
    "D4 signs": signs,
    "SO(3) irreps": lambda: sphere(((2, 0, 1), (1, 1, 1), (1, 2, 1)), ((1, 1, 1), (1, 2, 1))),
    "SO(3) spin 3": lambda: sphere(((1, 3, 1), (1, 1, 1)), ((1, 2, 1), (1, 1, 1))),
    "O(3) irreps": lambda: sphere(((1, 1, 1), (2, 1, -1)), ((1, 1, -1), (1, 2, 1)), True),
    "U(2) on R4": lambda: real_unitary((unitary(2), unitary(2))),
    "U(2) on R4, conjugate": lambda: real_unitary((unitary(2, True), unitary(2))),
    "SU(2) on H": lambda: quaternionic(1),
    "Sp(2) on H2": lambda: quaternionic(2),
}


def by_sets(n, out, into):
    shape = tuple(p * n**k * j for p, k, j in (out, into))
    every = [torch.tensor(p) for p in permutations(range(n))]
    pairs = [(rows_matrix(p, out), rows_matrix(p, into)) for p in every]
    return Case(Sets(n, out, into), shape, conjugations(pairs))


for _n, _o, _i in [
    (4, (1, 1, 2), (2, 1, 1)),
    (4, (1, 2, 1), (1, 2, 1)),
    (3, (1, 2, 1), (1, 2, 1)),
    (2, (1, 2, 1), (1, 2, 1)),
    (4, (1, 2, 1), (2, 1, 1)),
    (4, (1, 1, 2), (1, 2, 1)),
    (4, (2, 0, 1), (1, 2, 2)),
    (4, (1, 2, 2), (1, 0, 1)),
    (4, (1, 1, 2), (3, 0, 1)),
]:
    CASES[f"sets S({_n}) {_o} {_i}"] = lambda a=(_n, _o, _i): by_sets(*a)


def by_shifts(sides, out, into):
    shape = tuple(p * prod(sides) * j for p, j in (out, into))
    steps = product(*map(range, sides))
    pairs = [(shift_matrix(sides, s, *out), shift_matrix(sides, s, *into)) for s in steps]
    return Case(Translations(sides, out, into), shape, conjugations(pairs))


def by_windows(sides):
    places = prod(sides)
    projector = Translations(sides, periodic=False)
    return Case(projector, (places, places), None, False, toeplitz_mean(sides))


CASES |= {
    "circulant": lambda: by_shifts((5,), (1, 2), (2, 1)),
    "circulant, images": lambda: by_shifts((2, 3), (1, 2), (1, 1)),
    "Toeplitz": lambda: by_windows((5,)),
    "Toeplitz, images": lambda: by_windows((2, 3)),
}


def pixel_acts(group, k):
    """`[g, k², k²]`: the house's action on images, written out."""
    pixels = k**group.dim
    units = torch.eye(pixels, dtype=F64).reshape(pixels, *[k] * group.dim)
    return [act_on_grid(group, g, units).reshape(pixels, pixels).T for g in group.elements()]


def by_kernels(name, shape):
    group = parse_group(name)
    rest = [(torch.eye(shape[0]).double(), torch.eye(shape[1]).double())] * group.order
    return Case(Kernels(group, shape), shape, conjugations(rest, pixel_acts(group, shape[2])))


def by_fields(name, out, into, k):
    """Regular channels between `(l a j)` axes, kernels that turn with them."""
    group = parse_group(name)
    sides = [((s.before, r(name), s.after) if s.moved else (s.before, ONE),) for s in (out, into)]
    pairs = [tuple(axis_matrix(side, g) for side in sides) for g in group.elements()]
    shape = (*(prod(s.sizes(group.order)) for s in (out, into)), k, k)
    return Case(Fields(group, out, into, (k, k)), shape, conjugations(pairs, pixel_acts(group, k)))


def by_turning(name, out, into, kernel):
    """Any channels, on kernels that turn with them."""
    group = parse_group(name)
    pairs = [tuple(axis_matrix(side, g) for side in (out, into)) for g in group.elements()]
    acts = conjugations(pairs, pixel_acts(group, kernel[0]))
    shape = (*(len(matrix) for matrix in pairs[0]), *kernel)
    return Case(Turning(group, out, into, kernel), shape, acts)


def by_orbits():
    """A permutation of six entries, and its powers."""
    moved = torch.tensor([1, 2, 0, 4, 3, 5])
    one = torch.eye(6, dtype=F64)[moved]
    acts = torch.stack([torch.linalg.matrix_power(one, k) for k in range(6)])
    projector = Orbits(orbits_of(6, [(torch.arange(6), moved)]), 2)
    return Case(projector, (2, 6), torch.stack([kron(torch.eye(2).double(), a) for a in acts]))


def by_steering(name, out, into, k, lattice, slow=None):
    """Steerable kernels, beside the elements that the pixels have."""
    group, exact = parse_group(name), parse_group(lattice)
    sides = ((1, out),), ((1, into),)
    pairs = [tuple(axis_matrix(side, g) for side in sides) for g in exact.elements()]
    acts = conjugations(pairs, pixel_acts(exact, k))
    if slow is not None:
        q, values, _ = torch.linalg.svd(
            steerable_columns(*slow, k, WIDTH, REACH), full_matrices=False
        )
        q = q[:, values > 1e-6 * values.amax()]
        slow = q @ q.T
    return Case(Steerable(group, *sides, k), (out.size, into.size, k, k), acts, False, slow)


CASES |= {
    "kernels C4": lambda: by_kernels("C4", (2, 2, 3, 3)),
    "kernels D2": lambda: by_kernels("D2", (1, 2, 4, 4)),
    "kernels O_h": lambda: by_kernels("O_h", (1, 2, 3, 3, 3)),
    "fields C4": lambda: by_fields("C4", Side(1, 2), Side(2), 3),
    "fields D2, lifted": lambda: by_fields("D2", Side(2, 1), Side(3, moved=False), 3),
    "fields D4, pooled": lambda: by_fields("D4", Side(2, moved=False), Side(1), 2),
    "turning C4": lambda: by_turning("C4", ((2, v("C4")), (1, ONE)), ((1, v("C4")),), (3, 3)),
    "turning D4": lambda: by_turning(
        "D4", ((1, v("D4")), (1, letters(parse_group("D4"))["a"])), ((1, ONE),), (4, 4)
    ),
    "turning C4, regular": lambda: by_turning("C4", ((1, r("C4")),), ((1, r("C4")),), (3, 3)),
    "turning O_h": lambda: by_turning("O_h", ((1, v("O_h")),), ((1, v("O_h")),), (2, 2, 2)),
    "turning O": lambda: by_turning("O", ((1, v("O")),), ((2, ONE),), (3, 3, 3)),
    "orbits": by_orbits,
    "steerable SO(2) 1 1": lambda: by_steering("SO(2)", ONE, ONE, 5, "C4"),
    "steerable SO(2) 1 2": lambda: by_steering("SO(2)", Angular(1), Angular(2), 5, "C4", (1, 2)),
    "steerable SO(2) 2 2": lambda: by_steering("SO(2)", Angular(2), Angular(2), 4, "C4", (2, 2)),
    "steerable SO(2) v 1": lambda: by_steering("SO(2)", v("SO(2)"), ONE, 7, "C4"),
    "steerable O(2) v v": lambda: by_steering("O(2)", v("O(2)"), v("O(2)"), 5, "D4"),
    "steerable C8 r 1": lambda: by_steering("C8", r("C8"), ONE, 5, "C4"),
    "steerable C8 r r": lambda: by_steering("C8", r("C8"), r("C8"), 3, "C4"),
    "steerable D8 1 r": lambda: by_steering("D8", ONE, r("D8"), 3, "D4"),
}


@lru_cache(maxsize=2)
def built(name):
    torch.manual_seed(7)
    case = CASES[name]()
    kind = torch.complex128 if name.split()[-1] in ("U(2)", "SU(2)", "SO+(1,3)") else F64
    return case, dense(case.projector, case.shape, kind)


def obeys(found, acts, mean, slow, orthogonal, rank):
    """The laws, of matrices on flat weights; raises where one fails."""
    close = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(found @ found, found, **close)
    torch.testing.assert_close(found.mH, found, **close)
    assert float(found.trace().real) == pytest.approx(rank, abs=1e-9)
    assert rank == int(rank)
    if acts is not None:
        found = found.to(acts)
        for act in acts[:: max(1, len(acts) // 24)]:
            if orthogonal:
                torch.testing.assert_close(act @ found, found @ act, **close)
            if mean or not orthogonal:
                torch.testing.assert_close(act @ found, found, rtol=0, atol=1e-9)
    if mean:
        torch.testing.assert_close(found, acts.mean(0), **close)
        assert rank == pytest.approx(
            float(acts.diagonal(dim1=1, dim2=2).sum(1).mean().real), abs=1e-8
        )
    if slow is not None:
        torch.testing.assert_close(found, slow.to(found), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_laws(name):
    case, found = built(name)
    obeys(found, case.acts, case.mean, case.slow, case.orthogonal, case.projector.rank)
    assert 0 < case.projector.rank < len(found)


NO_MEAN = ("steerable", "Toeplitz", "blocks O(1,3)", "blocks GL(3)", "blocks SL(2)")


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(NO_MEAN)])
def test_the_mean_square_of_what_moves_is_twice_the_square_of_what_goes(name):
    case, found = built(name)
    assert case.mean
    weight = torch.randn(len(found), dtype=F64).to(case.acts)
    moved = (case.acts @ weight - weight).abs().square().sum(-1).mean()
    gone = (weight - case.projector(weight.reshape(case.shape)).flatten()).abs().square().sum()
    torch.testing.assert_close(moved, 2 * gone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_what_is_done_in_place_is_the_same(name):
    case, found = built(name)
    weight = torch.randn(case.shape, dtype=found.dtype)
    aim = (found @ weight.flatten()).reshape(case.shape)
    for t in (0.0, 0.3, 1.0):
        held = weight.clone()
        case.projector.lerp_(held, t)
        torch.testing.assert_close(held, weight + t * (aim - weight), rtol=0, atol=1e-12)
    again = held.clone()
    case.projector.lerp_(again, 1.0)
    torch.testing.assert_close(again, held, rtol=0, atol=1e-14)
    parameter = torch.nn.Parameter(weight.mT.contiguous().mT if weight.ndim > 1 else weight.clone())
    case.projector.lerp_(parameter, 1.0)
    assert parameter.requires_grad
    assert parameter.grad_fn is None
    torch.testing.assert_close(parameter.detach(), aim, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_the_projection_and_dtypes_stay(name):
    case, found = built(name)
    weight, other = torch.randn(2, *case.shape, dtype=found.dtype)
    weight.requires_grad_()
    (case.projector(weight) * other.conj()).sum().real.backward()
    torch.testing.assert_close(weight.grad, case.projector(other), rtol=0, atol=1e-12)
    exact = case.projector(weight.detach())
    kinds = (
        {torch.complex64: 1e-5}
        if exact.is_complex()
        else {torch.float32: 1e-5, torch.bfloat16: 3e-2}
    )
    for dtype, tolerance in kinds.items():
        rounded = case.projector(weight.detach().to(dtype))
        assert rounded.dtype == dtype
        assert rounded.shape == weight.shape
        gap = (rounded.to(exact) - exact).norm() / weight.detach().norm()
        assert gap < tolerance


@pytest.mark.parametrize("name", CASES)
def test_autocast_does_not_round_a_projection(name):
    case, found = built(name)
    kind = torch.complex64 if found.is_complex() else torch.float32
    weight = torch.randn(case.shape, dtype=kind)
    aim = case.projector(weight)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(case.projector(weight), aim)


def test_what_is_first_used_in_inference_trains_after_it():
    rep = v("D3")
    for projector, shape in [
        (Blocks(parse_group("D3"), ((3, rep * rep),), ((1, rep), (7, ONE))), (12, 9)),
        (Irreps(((3, unitary(5)),), ((1, unitary(5, True)),)), (30, 10)),
        (Sets(7, (1, 1, 1), (1, 2, 1)), (7, 49)),
        (Translations((11,)), (11, 11)),
        (Steerable(parse_group("C5"), ((1, ONE),), ((1, Angular(1)),), 3), (1, 2, 3, 3)),
    ]:
        with torch.inference_mode():
            projector(torch.randn(shape))
        weight = torch.randn(shape, requires_grad=True)
        (projector(weight) - weight).square().sum().backward()
        torch.testing.assert_close(weight.grad, 2 * (weight - projector(weight)).detach())


def several():
    """One of each family of blocks, with its shape."""
    rep = v("D4")
    return [
        (Blocks(parse_group("D4"), ((3, rep), (2, ONE)), ((1, rep, 2), (4, ONE))), (8, 8)),
        (Irreps(((3, unitary(2)), (1, spin(1))), ((2, spin(1)),)), (15, 6)),
        (Sets(3, (1, 1, 2), (1, 2, 1)), (6, 9)),
        (Translations((2, 3)), (6, 6)),
        (Steerable(parse_group("SO(2)"), ((2, ONE),), ((1, Angular(1)),), 3), (2, 2, 3, 3)),
        (Turning(parse_group("D4"), ((2, ONE),), ((1, rep),), (3, 3)), (2, 2, 3, 3)),
    ]


def test_projections_are_values_that_copy_and_pickle():
    for projector, shape in several():
        weight = torch.randn(shape)
        for copied in (copy.deepcopy(projector), pickle.loads(pickle.dumps(projector))):
            assert copied == projector
            assert hash(copied) == hash(projector)
            torch.testing.assert_close(copied(weight), projector(weight), rtol=0, atol=0)


def test_penalties_compile_into_one_graph():
    old = torch.__version__ < "2.10"  # its dynamo traces into lru_cache, and stops at unique
    for projector, shape in several():
        if old and isinstance(projector, (Sets, Translations)):
            continue
        weight = torch.randn(shape)

        def penalty(w, projector=projector):
            return (w - projector(w)).square().sum()

        compiled = torch.compile(penalty, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(weight), penalty(weight))


FINITE = ["C2", "C3", "C4", "D3", "D4", "O", "S(3)"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(FINITE), kernel=st.sampled_from([(), (2,), (1, 2)]))
def test_blocks_of_any_make_are_means_over_the_elements(data, name, kernel):
    group, rep = parse_group(name), v(name)
    atoms = [ONE, rep, rep.dual] + ([r(name)] if name in ("C2", "C3", "C4") else [])
    one = st.tuples(st.integers(1, 2), st.sampled_from(atoms), st.integers(1, 2))
    out, into = (tuple(data.draw(st.lists(one, min_size=1, max_size=3))) for _ in range(2))
    acts = actions(out, into, design(group))
    projector = Blocks(group, out, into, kernel)
    rows, columns = (sum(p * x.size * j for p, x, j in side) for side in (out, into))
    weight = torch.randn(rows, columns, *kernel, dtype=F64)
    flat = weight.reshape(rows * columns, -1)
    torch.testing.assert_close(projector(weight).reshape(flat.shape), acts.mean(0) @ flat)
    traces = acts.diagonal(dim1=1, dim2=2).sum(1).mean()
    assert projector.rank == pytest.approx(float(traces) * prod(kernel))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 4),
    axes=st.tuples(*[st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(1, 2))] * 2),
)
def test_sets_of_any_make_are_means_over_the_permutations(n, axes):
    projector = Sets(n, *axes)
    weight = torch.randn(*[p * n**k * j for p, k, j in axes], dtype=F64)
    every = [torch.tensor(p) for p in permutations(range(n))]
    pairs = [[rows_matrix(p, axis) for axis in axes] for p in every]
    slow = sum(a @ weight @ b.T for a, b in pairs) / len(every)
    torch.testing.assert_close(projector(weight), slow)
    count = sum(a.trace() * b.trace() for a, b in pairs) / len(every)
    assert projector.rank == pytest.approx(float(count))


def test_the_patterns_are_counted_by_the_numbers_of_bell():
    assert [int(patterns(5, k).amax()) + 1 for k in range(5)] == [1, 1, 2, 5, 15]


@settings(max_examples=20, deadline=None)
@given(
    sides=st.sampled_from([(1,), (6,), (3, 4), (1, 5)]),
    axes=st.tuples(*[st.tuples(st.integers(1, 2), st.integers(1, 3))] * 2),
)
def test_the_spectrum_is_the_projection_by_another_road(sides, axes):
    projector = Translations(sides, *axes)
    weight = torch.randn(*[p * prod(sides) * j for p, j in axes], dtype=F64)
    spectrum = projector.spectrum(weight)
    projected = projector(weight)
    torch.testing.assert_close(projector.spectrum(projected), spectrum)
    torch.testing.assert_close(spectrum.norm(), projected.norm())
    m, i = axes[1]
    x = torch.randn(m, *sides, i, dtype=F64)
    waves = torch.fft.fftn(x, dim=tuple(range(1, 1 + len(sides))))
    out = torch.einsum("pjmi...,m...i->p...j", spectrum, waves)
    out = torch.fft.ifftn(out, dim=tuple(range(1, 1 + len(sides)))).real
    torch.testing.assert_close(out.flatten(), projected @ x.flatten())


# dimensions by frequency on rings 0 … 2 and 0 … 3: 3, 4, 4, 2, 2 and 4, 6, 6, 4, 4, 2, 2
@pytest.mark.parametrize(
    ("name", "out", "k", "rank"),
    [
        ("SO(2)", ONE, 5, 3),
        ("SO(2)", ONE, 7, 4),
        ("SO(2)", v("SO(2)"), 5, 4),
        ("SO(2)", Angular(2), 7, 6),
        ("SO(2)", Angular(4), 7, 4),
        ("O(2)", v("O(2)"), 7, 3),
        ("C8", ONE, 7, 4),
        ("C8", r("C8"), 5, 15),
        ("C8", r("C8"), 7, 28),
    ],
)
def test_rings_carry_the_frequencies_that_pixels_resolve(name, out, k, rank):
    projector = Steerable(parse_group(name), ((2, out),), ((3, ONE),), k)
    assert projector.rank == 6 * rank


@pytest.mark.parametrize("k", [3, 4, 5, 6, 7, 9])
def test_steered_kernels_turn_waves_where_free_ones_do_not(k):
    """The figures of the docstring: 0.07 at 8 pixels, 0.12 at 4, 0.7 and more without."""
    for name, out, into in [
        ("SO(2)", ONE, ONE),
        ("SO(2)", v("SO(2)"), ONE),
        ("SO(2)", Angular(2), v("SO(2)")),
        ("O(2)", v("O(2)"), v("O(2)")),
        ("C8", r("C8"), ONE),
    ]:
        projector = Steerable(parse_group(name), ((2, out),), ((3, into),), k)
        weight = torch.randn(2 * out.size, 3 * into.size, k, k, dtype=F64)
        steered = projector(weight)
        assert steering_error(projector, steered) < 0.1
        assert steering_error(projector, steered, 4.0) < 0.15
        assert steering_error(projector, weight) > 0.4


def test_the_steering_error_is_that_of_a_convolution_of_waves():
    """A wave and its turned copy through the taps, element by element."""
    group, k = parse_group("C8"), 5
    rep = r("C8")
    projector = Steerable(group, ((1, rep),), ((1, ONE),), k)
    weight = torch.randn(8, 1, k, k, dtype=F64)
    at = torch.arange(k, dtype=F64) - 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    top, low = 0.0, 0.0
    for angle in torch.arange(32, dtype=F64) * torch.pi / 16 + 0.1:
        p = torch.stack([angle.cos(), angle.sin()]) * 2 * torch.pi / 8
        for g in group.elements():
            q = g @ p
            wave, turned = (torch.exp(-1j * (a[0] * x + a[1] * y)) for a in (p, q))
            answer = torch.einsum("oixy,xy->o", weight + 0j, turned)
            moved = rep.matrix(g).to(answer) @ torch.einsum("oixy,xy->o", weight + 0j, wave)
            top, low = top + (answer - moved).abs().square().sum(), low + moved.abs().square().sum()
    assert steering_error(projector, weight) == pytest.approx(float((top / low).sqrt()))


def test_real_weights_of_complex_groups_stay_real():
    rep = v("U(2)")
    projector = Blocks(parse_group("U(2)"), ((2, rep),), ((1, rep),))
    weight = torch.randn(4, 2, dtype=F64)
    assert projector(weight).dtype == F64
    torch.testing.assert_close(projector(weight + 0j), projector(weight) + 0j)


@dataclass(frozen=True)
class Skewed(Representation):
    """U(2)'s vectors in a basis that is not real: ρ(g) = S g S*."""

    size = 2

    def matrix(self, g):
        basis = torch.tensor([[1, 1], [1j, -1j]], dtype=torch.complex128) / 2**0.5
        return basis @ g @ basis.mH


def test_where_no_real_matrices_commute_weights_are_complex():
    out, into = ((1, Skewed()),), ((2, v("U(2)")),)
    projector = Blocks(parse_group("U(2)"), out, into)
    acts = actions(out, into, design(parse_group("U(2)")))
    obeys(dense(projector, (2, 4), torch.complex128), acts, True, None, True, projector.rank)
    with pytest.raises(SignatureError, match="complex"):
        projector(torch.randn(2, 4))


def test_rotations_as_e3nn_has_them():
    o3 = pytest.importorskip("e3nn.o3")
    into, out = o3.Irreps("2x0e + 1x1o + 2x2e + 1x3o"), o3.Irreps("1x1o + 2x2e + 1x0o + 2x3o")
    sides = [tuple((m, spin(i.l, i.p)) for m, i in side) for side in (out, into)]
    projector = Irreps(*sides)
    weight = projector(torch.randn(out.dim, into.dim, dtype=F64))
    assert projector.rank == 1 + 4 + 2
    for g in parse_group("O(3)").sample(8):
        a, b = (side.D_from_matrix(g.float()).double() for side in (out, into))
        torch.testing.assert_close(a @ weight, weight @ b, rtol=0, atol=1e-4)
    assert weight.norm() > 1


def test_turning_kernels_make_convolutions_that_commute_with_turns():
    """A flow field in, a scalar and a flow field out, on a whole image."""
    group, rep = parse_group("D4"), v("D4")
    projector = Turning(group, ((1, ONE), (1, rep)), ((1, rep),), (3, 3))
    free = torch.randn(3, 2, 3, 3, dtype=F64)
    x = torch.randn(1, 2, 9, 9, dtype=F64)
    gaps = []
    for weight in (free, projector(free)):
        worst = 0.0
        for g in group.elements():
            a, b = axis_matrix(projector.out, g), axis_matrix(projector.into, g)
            turned = act_on_grid(group, g, torch.einsum("ij,bjhw->bihw", b, x))
            left_side = torch.nn.functional.conv2d(turned, weight)
            right_side = act_on_grid(group, g, torch.nn.functional.conv2d(x, weight))
            right_side = torch.einsum("ij,bjhw->bihw", a, right_side)
            worst = max(worst, float((left_side - right_side).abs().max()))
        gaps.append(worst)
    assert gaps[0] > 1 > 1e-12 > gaps[1]


# -- teeth -----------------------------------------------------------------------------------------


def test_a_mean_over_interpolated_rotations_is_no_projection():
    group = Cyclic(8)
    units = torch.eye(25, dtype=F64).reshape(25, 5, 5)
    mean = torch.stack([act_on_grid(group, g, units) for g in group.elements()]).mean(0)
    mean = mean.reshape(25, 25).T
    assert (mean @ mean - mean).norm() / mean.norm() > 0.1
    assert (mean - mean.T).norm() / mean.norm() > 0.02
    with pytest.raises(AssertionError):
        obeys(mean, None, False, None, True, round(float(mean.trace())))


def test_the_laws_reject_the_inverse_on_one_side():
    for name, side in [("C3", ((2, v("C3")),)), ("C4", ((1, r("C4")),))]:
        group = parse_group(name)
        pairs = [(axis_matrix(side, g), axis_matrix(side, g)) for g in group.elements()]
        right, wrong = conjugations(pairs), conjugations([(a, b.mT) for a, b in pairs])
        mean = wrong.mean(0)
        obeys(right.mean(0), right, True, None, True, round(float(right.mean(0).trace())))
        with pytest.raises(AssertionError):
            obeys(mean, right, True, None, True, round(float(mean.trace())))


def test_the_laws_reject_the_projection_of_a_smaller_group():
    """SO(3)'s keeps a map that reflections move; so does SO(2)'s."""
    for big, small in [("O(3)", "SO(3)"), ("O(2)", "SO(2)")]:
        known = letters(parse_group(big))
        out, into = ((1, known["v"]),), ((1, known["v"] * known["v"]),)
        if big == "O(2)":
            into = out
        acts = actions(out, into, design(parse_group(big)))
        wrong = Blocks(parse_group(small), out, into)
        with pytest.raises(AssertionError):
            obeys(
                dense(wrong, tuple(s[0][1].size for s in (out, into))),
                acts,
                True,
                None,
                True,
                wrong.rank,
            )


def test_the_laws_reject_one_mean_for_diagonal_and_rest():
    case = by_sets(4, (1, 1, 1), (1, 1, 1))
    total = torch.full((16, 16), 1 / 16, dtype=F64)
    with pytest.raises(AssertionError):
        obeys(total, case.acts, True, None, True, 1)


def test_the_laws_reject_frequencies_whose_sign_is_lost():
    """m and −m are one irrep, but not in the same basis."""
    right = circle(((1, 2),), ((1, -2),))
    wrong = Irreps(((1, frequency(2)),), ((1, frequency(2)),))
    with pytest.raises(AssertionError):
        obeys(dense(wrong, right.shape), right.acts, True, None, True, wrong.rank)


# -- refusals --------------------------------------------------------------------------------------


def test_weights_of_another_shape_are_refused():
    projector = Blocks(parse_group("O(3)"), ((2, v("O(3)")),), pieces(v("O(3)") + Trivial(2)))
    for shape in [(6, 4), (5, 6), (6,), (6, 5, 3, 3)]:
        with pytest.raises(SignatureError, match=r"of shape \[6, 5\]: the"):
            projector(torch.randn(shape))
    with pytest.raises(SignatureError, match=r"of shape \[6, 1\] or \[6\]: the"):
        Blocks(parse_group("O(3)"), ((2, v("O(3)")),), ((1, ONE),))(torch.randn(5))
    for refused in (Sets(3, (1, 1, 2), (1, 2, 1)), Translations((3,), (2, 1), (1, 3))):
        with pytest.raises(SignatureError, match=r"of shape \[6, 9\]: the"):
            refused(torch.randn(9, 6))
    with pytest.raises(SignatureError, match=r"of shape \[1, 1, 3, 3\]"):
        Steerable(parse_group("C8"), ((1, ONE),), ((1, ONE),), 3)(torch.randn(1, 1, 6, 6))


def test_groups_that_do_not_turn_the_plane_have_no_steerable_kernels():
    for name in ("SO(3)", "S(4)", "SE(2)"):
        with pytest.raises(GroupError, match="steerable"):
            Steerable(parse_group(name), ((1, ONE),), ((1, ONE),), 3)(torch.randn(1, 1, 3, 3))


def test_groups_that_do_not_map_taps_to_taps_have_no_turning_kernels():
    for name, kernel in (("C8", (3, 3)), ("SO(3)", (3, 3, 3)), ("O_h", (3, 3))):
        with pytest.raises(GroupError, match="taps"):
            Turning(parse_group(name), ((1, ONE),), ((1, ONE),), kernel)(torch.randn(1, 1, *kernel))


def test_a_parity_that_is_none_is_refused():
    with pytest.raises(GroupError, match="parity=2"):
        frequency(1, parity=2)
