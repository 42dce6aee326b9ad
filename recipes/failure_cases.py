"""Inputs on which frames fail: clouds, jets, complex clouds, sets and graphs, with their like.

Imported by `failure_table.py`. Each case quotes what the authors' code of minimal frame averaging
did with it, one sample at a time (float32 / float64).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

D = torch.float64
CUBE = torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=D)
TETRAHEDRON = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=D)
OCTAHEDRON = torch.cat([torch.eye(3, dtype=D), -torch.eye(3, dtype=D)])
_G = (1 + 5**0.5) / 2
_UP = torch.tensor([[0.0, a, b * _G] for a in (-1, 1) for b in (-1, 1)], dtype=D)
ICOSAHEDRON = torch.cat([_UP, _UP.roll(1, 1), _UP.roll(2, 1)])
SQUARE = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]], dtype=D)


class Case(NamedTuple):
    """A degenerate cloud, the groups it is tried under, and what the reference does with it."""

    title: str
    cloud: Callable[[], Tensor]
    groups: str
    reference: str
    spread: float = 1.0  # translations and generic companions have this size


def gauss(n: int, d: int = 3) -> Callable[[], Tensor]:
    """A generic cloud."""
    return lambda: torch.randn(n, d, dtype=D)


def close(gap: float) -> Callable[[], Tensor]:
    """Six points, the first two as far apart as `gap`."""

    def cloud() -> Tensor:
        x = torch.randn(6, 3, dtype=D)
        x[1] = x[0] + gap * torch.randn(3, dtype=D)
        return x

    return cloud


def planar(thickness: float, offset: float = 0.0) -> Callable[[], Tensor]:
    """Twenty points of a plane."""

    def cloud() -> Tensor:
        x = torch.randn(20, 3, dtype=D)
        x[:, 2] = thickness * x[:, 2] + offset
        return x

    return cloud


def line(offset: float) -> Tensor:
    """Five collinear points."""
    return torch.randn(5, 1, dtype=D) * torch.randn(1, 3, dtype=D) + offset * torch.randn(
        3, dtype=D
    )


def isotropic(equal: int) -> Tensor:
    """Ten points with `equal` singular values the same."""
    u, s, v = torch.linalg.svd(torch.randn(10, 3, dtype=D), full_matrices=False)
    s[:equal] = s[0]
    return u * s @ v


def padded(zero: int, n: int) -> Tensor:
    """Rows of zeros before the others."""
    return torch.cat([torch.zeros(zero, 3, dtype=D), torch.randn(n - zero, 3, dtype=D)])


ALL = "O(3) SO(3) E(3) SE(3)"
CLOUDS = [
    Case("generic, N = 20", gauss(20), ALL, "2e-7 / 6e-16"),
    Case("N = 3 (water)", gauss(3), ALL, "SE(3) crashes"),
    Case("N = 2", gauss(2), ALL, "SO(3) crashes"),
    Case("N = 1", gauss(1), ALL, "ok"),
    Case("planar", planar(0.0), ALL, "SO(3), SE(3) crash"),
    Case("planar, off the origin", planar(0.0, 3.0), ALL, "SE(3) crashes"),
    Case("collinear", lambda: line(0.0), ALL, "ok"),
    Case("collinear, off the origin", lambda: line(1.0), ALL, "SO(3) crashes"),
    Case("all points zero", lambda: torch.zeros(6, 3, dtype=D), ALL, "E(3), SE(3): 1.1 / 1.1"),
    Case("6 equal points", lambda: torch.randn(1, 3, dtype=D).repeat(6, 1), ALL, "E(3): 1.9 / 1.6"),
    Case("5 points, each 4 times", lambda: gauss(5)().repeat(4, 1), ALL, "ok"),
    Case("square", lambda: SQUARE, ALL, "SO(3), SE(3) crash"),
    Case("cube", lambda: CUBE, ALL, "ok (eigenvector frames: 1.0 / 1.7)"),
    Case("tetrahedron", lambda: TETRAHEDRON, ALL, "ok (eigenvector frames: 1.8 / 0.9)"),
    Case("octahedron", lambda: OCTAHEDRON, ALL, "ok (eigenvector frames: 1.8 / 1.5)"),
    Case("icosahedron", lambda: ICOSAHEDRON, ALL, "ok (eigenvector frames: 1.4 / 1.4)"),
    Case("isotropic covariance", lambda: isotropic(3), ALL, "ok (eigenvector frames: 1.3 / 0.6)"),
    Case(
        "two equal singular values", lambda: isotropic(2), ALL, "ok (eigenvector frames: 0.8 / 0.2)"
    ),
    Case("two points 1e-5 apart", close(1e-5), ALL, "3.9e-3 / 8e-11"),
    Case("two points 1e-6 apart", close(1e-6), ALL, "1.5 / 1.5"),
    Case("planar within 1e-6", planar(1e-6), ALL, "SO(3), SE(3) crash"),
    Case("planar within 1e-7", planar(1e-7), ALL, "SO(3), SE(3) crash"),
    Case("scale 1e-8", lambda: 1e-8 * gauss(20)(), ALL, "E(3): 1.9 / 1e-8; SE(3) crashes", 1e-8),
    Case("offset 1e4", lambda: gauss(20)() + 1e4, "E(3) SE(3)", "ok"),
    Case("10 of 20 leading rows zero", lambda: padded(10, 20), ALL, "34 ms a call"),
    Case("60 of 100 leading rows zero", lambda: padded(60, 100), ALL, "6.4 s a call"),
]


def lorentz(mass: float, n: int = 30, pt: float | None = None) -> Callable[[], Tensor]:
    """Constituents of a jet of transverse momentum `pt`, or momenta of size one."""

    def cloud() -> Tensor:
        p = torch.randn(n, 3, dtype=D)
        if pt is not None:
            share = torch.rand(n, 1, dtype=D) + 0.1
            p = pt * share / share.sum() * (torch.tensor([1.0, 0, 0], dtype=D) + 0.2 * p)
        energy = (p.square().sum(-1, keepdim=True) + mass**2).sqrt()
        return torch.cat([energy, p], -1)

    return cloud


def spacelike() -> Tensor:
    """A space-like row first, then time-like ones."""
    return torch.cat([torch.tensor([[0.0, 1, 0, 0]], dtype=D), lorentz(1.0, 5)()])


def lower(n: int) -> Tensor:
    """Momenta in a plane: rank 3 of 4."""
    x = lorentz(0.0, n)()
    x[:, 3] = 0
    x[:, 0] = x[:, 1:].norm(dim=-1)
    return x


BOOSTS = "O(1,3) SO(1,3) SO+(1,3)"
JETS = [
    Case("mass 1, N = 30", lorentz(1.0), BOOSTS, "1.7e-6 / 1e-14"),
    Case("mass 0.14", lorentz(0.14), BOOSTS, "2.3e-4 / 6e-12"),
    Case("mass 0.05", lorentz(0.05), BOOSTS, "output identically 0"),
    Case("massless", lorentz(0.0), BOOSTS, "output identically 0"),
    Case("scale 1e-2", lambda: 1e-2 * lorentz(1.0)(), BOOSTS, "output identically 0"),
    Case("massless jet, pT = 1000", lorentz(0.0, 30, 1000.0), BOOSTS, "2 of 30 fail / output 0"),
    Case("massless jet, pT = 5000", lorentz(0.0, 30, 5000.0), BOOSTS, "30 of 30 fail / output 0"),
    Case("pion jet, pT = 5000", lorentz(0.14, 30, 5000.0), BOOSTS, "29 of 30 / 23 of 30 fail"),
    Case("space-like row first", spacelike, BOOSTS, "assertion"),
    Case("rank 3 of 4", lambda: lower(6), BOOSTS, "SO(1,3) crashes"),
]


def unitary(n: int, rank: int) -> Callable[[], Tensor]:
    """A complex cloud of this rank."""

    def cloud() -> Tensor:
        rows = torch.randn(n, rank, dtype=torch.complex128)
        return rows @ torch.randn(rank, 3, dtype=torch.complex128)

    return cloud


def mirrored() -> Tensor:
    """Real points in a complex dtype, the first three of them left-handed."""
    x = torch.randn(6, 3, dtype=D)
    x[:, 0] *= -torch.linalg.det(x[:3]).sign()
    return x + 0j


def near_complex() -> Tensor:
    """Two complex points 1e-6 apart."""
    x = torch.randn(6, 3, dtype=torch.complex128)
    x[1] = x[0] + 1e-6 * torch.randn(3, dtype=torch.complex128)
    return x


def complex_cloud(n: int) -> Callable[[], Tensor]:
    """A generic cloud of C^3."""
    return lambda: torch.randn(n, 3, dtype=torch.complex128)


BOTH = "U(3) SU(3)"
COMPLEX = [
    Case("generic, N = 20", complex_cloud(20), BOTH, "2e-7 / 2e-15"),
    Case("rank 2", unitary(6, 2), BOTH, "U: 2.2; SU crashes"),
    Case("rank 1", unitary(6, 1), BOTH, "U: 2.0; SU: 2.1"),
    Case("N = 2", complex_cloud(2), BOTH, "U: 2.2; SU crashes"),
    Case("all points zero", lambda: 0 * complex_cloud(4)(), BOTH, "U: 1.7"),
    Case("real, det < 0", mirrored, BOTH, "SU: 2.7 / 2.7"),
    Case("two points 1e-6 apart", near_complex, BOTH, "U: 1.7 / 0.58"),
]

LINEAR = [
    Case("generic", gauss(8), "GL(3) SL(3) Aff(3)", "1e-6 / 5e-15"),
    Case("scale 1e-2", lambda: 1e-2 * gauss(8)(), "GL(3) SL(3) Aff(3)", "assertion", 1e-2),
    Case("scale 1e-6", lambda: 1e-6 * gauss(8)(), "GL(3) SL(3) Aff(3)", "assertion", 1e-6),
    Case("rank 2", planar(0.0), "GL(3) SL(3)", "assertion"),
    Case("affine plane", planar(0.0, 3.0), "Aff(3)", "crash"),
    Case("N = 3 under Aff(3)", gauss(3), "Aff(3)", "crash"),
]


def repeated(count: int, times: int, n: int) -> Callable[[], Tensor]:
    """`count` different rows, each `times` times, then generic ones: n rows."""
    return lambda: torch.cat([gauss(count)().repeat(times, 1), gauss(n - count * times)()])


def lattice() -> Tensor:
    """Eight different points of the half-integer lattice."""
    every = torch.tensor(list(product((-1.0, -0.5, 0.0, 0.5, 1.0), repeat=3)), dtype=D)
    return every[torch.randperm(len(every))[:8]]


JOINT = "S(n)xO(3) S(n)xSO(3)"
SETS = [
    Case("generic, N = 20", gauss(20), "S(n)", "0 / 0"),
    Case("4 equal rows", repeated(1, 4, 8), "S(n)", "1.5e-7 / 4e-16 in 24 calls"),
    Case("3 rows, 3 times each", repeated(3, 3, 9), "S(n)", "2e-6 / 7e-15 in 216 calls"),
    Case("8 equal rows", repeated(1, 8, 12), "S(n)", "2.8 s a call"),
    Case("12 zero rows", lambda: padded(12, 20), "S(n)", "the process dies"),
    Case("cube", lambda: CUBE, JOINT, "5e-7 / 1e-15"),
    Case("cube, Gram on a 0.05 grid", lambda: CUBE * (0.05 / 1.0) ** 0.5, JOINT, "8.6 / 7.5"),
    Case("scale 0.1, N = 8", lambda: 0.1 * gauss(8)(), JOINT, "over 18 s a call"),
    Case("half-integer lattice, N = 8", lattice, JOINT, "22 of 40 clouds fail"),
    Case("water-like, N = 3", gauss(3), "S(n)xSO(3) S(n)xSE(3)", "crash"),
]


# -- graphs ----------------------------------------------------------------------------------------


def rook() -> Tensor:
    """The 4 × 4 rook's graph."""
    cell = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    same = (cell[:, None] == cell).sum(-1)
    return (same == 1).to(D)


def shrikhande() -> Tensor:
    """Z4 × Z4, linked by ±(0,1), ±(1,0), ±(1,1)."""
    cell = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    step = (cell[:, None] - cell) % 4
    steps = [(0, 1), (0, 3), (1, 0), (3, 0), (1, 1), (3, 3)]
    return torch.stack([(step == torch.tensor(s)).all(-1) for s in steps]).any(0).to(D)


def star(n: int) -> Tensor:
    """One node linked to n − 1 others."""
    a = torch.zeros(n, n, dtype=D)
    a[0, 1:] = a[1:, 0] = 1
    return a


def circle(n: int) -> Tensor:
    """The cycle."""
    eye = torch.eye(n, dtype=D)
    return eye.roll(1, 0) + eye.roll(-1, 0)


def petersen() -> Tensor:
    """Pairs of five, linked where disjoint."""
    pairs = [{a, b} for a in range(5) for b in range(a)]
    return torch.tensor([[float(not p & q) for q in pairs] for p in pairs], dtype=D)


GRAPHS = [
    Case("random, n = 32", lambda: (torch.rand(32, 32) < 0.3).triu(1).to(D), "S(n)", "0, 1 call"),
    Case("cycle C20", lambda: circle(20), "S(n)", "1e-15, 40 calls"),
    Case("Petersen", petersen, "S(n)", "9e-16, 120 calls"),
    Case("rook's graph 4 × 4", rook, "S(n)", "4e-15, 1152 calls"),
    Case("Shrikhande", shrikhande, "S(n)", "never ends (wrong automorphisms)"),
    Case("K7", lambda: 1 - torch.eye(7, dtype=D), "S(n)", "4e-14, 5040 calls"),
    Case("star of 8", lambda: star(8), "S(n)", "over 30 s for 6 calls"),
    Case("no edges, n = 10", lambda: torch.zeros(10, 10, dtype=D), "S(n)", "never ends"),
]
