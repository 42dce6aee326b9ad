"""Slow roads to projections: designs of the groups, actions written out, null spaces by samples."""

from __future__ import annotations

from functools import lru_cache, reduce
from itertools import product

import torch
from torch import Tensor

from equiwrap.grids import act_on_grid
from equiwrap.groups import Cyclic, Dihedral, Group, Lorentz, Orthogonal, Permutations, Unitary
from equiwrap.representations import Regular, Representation

F64 = torch.float64


def dense(projector, shape: tuple[int, ...], dtype=F64) -> Tensor:
    """`[N, N]`: column c is P of the c-th unit weight."""
    size = torch.Size(shape).numel()
    units = torch.eye(size, dtype=dtype).reshape(size, *shape)
    return torch.stack([projector(unit).flatten() for unit in units], 1)


def kron(*factors: Tensor) -> Tensor:
    return reduce(torch.kron, [f.contiguous() for f in factors])


def axis_matrix(side, g) -> Tensor:
    """ρ(g) of an axis of pieces (l, ρ) or (l, ρ, j), written out."""
    blocks = []
    for before, rep, *after in side:
        matrix = rep.matrix(g)
        matrix = matrix if matrix.is_complex() else matrix.double()
        one = [torch.eye(n).to(matrix) for n in (before, *after)]
        blocks.append(kron(one[0], matrix, *one[1:]))
    kind = torch.complex128 if any(b.is_complex() for b in blocks) else F64
    return torch.block_diag(*[b.to(kind) for b in blocks])


def conjugations(pairs, pixels: Tensor | None = None) -> Tensor:
    """`[g, N, N]`: W ↦ ρ_out W ρ_in⁻¹ on flat W, for pairs (ρ_out, ρ_in), beside the pixels."""
    extra = [torch.eye(1)] * len(pairs) if pixels is None else pixels
    return torch.stack([
        kron(a, torch.linalg.inv(b).mT, x.to(a)) for (a, b), x in zip(pairs, extra, strict=True)
    ])


def actions(out, into, elements, kernel: int = 1) -> Tensor:
    """The action of every element on weights between two axes of pieces; pixels rest."""
    pairs = [(axis_matrix(out, g), axis_matrix(into, g)) for g in elements]
    return conjugations(pairs, [torch.eye(kernel)] * len(pairs))


def null_by_samples(group: Group, rep_out: Representation, rep_in: Representation) -> Tensor:
    """`[N, N]`: the orthogonal projection onto what a few random elements leave, no generators."""
    g = group.sample(8, generator=torch.Generator().manual_seed(5))
    many = [tuple(f[i] for f in g) for i in range(8)] if isinstance(g, tuple) else list(g)
    acts = actions(((1, rep_out),), ((1, rep_in),), many)
    rows = (acts - torch.eye(acts.shape[-1]).to(acts)).flatten(0, 1)
    _, values, vectors = torch.linalg.svd(rows, full_matrices=True)
    null = vectors[values < 1e-9 * values.amax().clamp(min=1.0)]
    return null.mT @ null.conj()


def times(p: Tensor, q: Tensor) -> Tensor:
    """The product of quaternions `[..., 4]`."""
    (a, b, c, d), (e, f, g, h) = p.unbind(-1), q.unbind(-1)
    parts = [a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g]
    return torch.stack([*parts, a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e], -1)


@lru_cache(maxsize=2)
def quaternions(kind: str) -> Tensor:
    """The binary groups of the tetrahedron [24, 4] and of the icosahedron [120, 4].

    Means over them are Haar's on SU(2) below spin 3, below spin 6.
    """
    golden = (1 + 5**0.5) / 2
    third = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=F64)
    other = {"T": [0.0, 1, 0, 0], "I": [golden / 2, 1 / (2 * golden), 0.5, 0]}[kind]
    found = torch.tensor([[1.0, 0, 0, 0]], dtype=F64)
    while True:
        every = [found, times(found, third), times(found, torch.tensor(other, dtype=F64))]
        more = torch.cat(every)
        keep = (more * 1e6).round().unique(dim=0, return_inverse=True)[1]
        first = [int((keep == k).nonzero()[0]) for k in range(int(keep.max()) + 1)]
        if len(first) == len(found):
            return found
        found = more[first]


def left(q: Tensor) -> Tensor:
    """x ↦ q x on (1, i, j, k)."""
    return torch.stack([times(q, unit) for unit in torch.eye(4, dtype=F64)], -1)


def right(q: Tensor) -> Tensor:
    return torch.stack([times(unit, q) for unit in torch.eye(4, dtype=F64)], -1)


def special_unitary(q: Tensor) -> Tensor:
    """The matrix of x ↦ q x on a + jb ↦ (a, b)."""
    a, b, c, d = q
    top, low = torch.complex(a, b), torch.complex(c, -d)
    return torch.stack([torch.stack([top, -low.conj()]), torch.stack([low, top.conj()])])


def design(group: Group) -> list[Tensor]:
    """Elements whose mean is the group's on tensors of low rank (at least 3); finite: all."""
    if group.order is not None:
        g = group.elements()
        return [tuple(x) for x in zip(*g, strict=True)] if isinstance(g, tuple) else list(g)
    if group == Orthogonal(2, True):
        return list(Cyclic(16).elements())
    if group == Orthogonal(2):
        return list(Dihedral(16).elements())
    if isinstance(group, Orthogonal) and group.d == 3:
        turns = [rotation(q) for q in quaternions("I")]
        return turns if group.special else turns + [-g for g in turns]
    if group == Orthogonal(4, True):
        every = product(quaternions("T"), repeat=2)
        return [left(p) @ right(q) for p, q in every]
    if isinstance(group, Unitary) and group.d == 2:
        turns = [special_unitary(q) for q in quaternions("T")]
        eighths = torch.polar(torch.ones(8, dtype=F64), torch.arange(8, dtype=F64) * torch.pi / 4)
        phases = [1.0] if group.special else eighths
        return [p * g for p in phases for g in turns]
    raise ValueError(f"no design of {group}")


def rotation(q: Tensor) -> Tensor:
    conjugate = q * torch.tensor([1.0, -1, -1, -1], dtype=F64)
    return (left(q) @ right(conjugate))[1:, 1:]


def compact_dual(group: Lorentz) -> list[Tensor]:
    """The elements of SO(4), time multiplied by i: their generators are i times the boosts."""
    assert group.dim == 4
    twist = torch.tensor([1j, 1, 1, 1], dtype=torch.complex128)
    return [twist[:, None] * g / twist for g in design(Orthogonal(4, True))]


def wigner(degree: int, q: Tensor) -> Tensor:
    """The real irrep of SO(3) of size 2l + 1 at the rotation of q: an exponential."""
    size = 2 * degree + 1
    m = torch.arange(-degree, degree + 1, dtype=F64)
    up = torch.diag(((degree - m[:-1]) * (degree + m[:-1] + 1)).sqrt(), -1) + 0j
    spins = [(up + up.mT) / 2, (up - up.mT) / 2j, torch.diag(m) + 0j]
    real = torch.zeros(size, size, dtype=torch.complex128)
    real[degree, degree] = 1.0
    for k in range(1, degree + 1):
        sign, root = (-1) ** k, 2**-0.5
        real[degree + k, degree + k], real[degree - k, degree + k] = sign * root, root
        real[degree + k, degree - k], real[degree - k, degree - k] = -1j * sign * root, 1j * root
    algebra = [real.mH @ (-1j * s) @ real for s in spins]
    assert max(float(x.imag.abs().max()) for x in algebra) < 1e-12
    angle = 2 * torch.atan2(q[1:].norm(), q[0])
    axis = q[1:] / q[1:].norm().clamp(min=1e-12)
    return torch.matrix_exp(angle * sum(n * x.real for n, x in zip(axis, algebra, strict=True)))


def turn(angle: float | Tensor, m: int) -> Tensor:
    """The rotation by m times an angle."""
    a = torch.as_tensor(angle, dtype=F64) * m
    return torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])


def rows_matrix(p: Tensor, axis: tuple[int, int, int]) -> Tensor:
    """A permutation on an axis (l nᵏ j)."""
    before, order, after = axis
    one = Permutations(len(p)).linear(p)
    return kron(torch.eye(before, dtype=F64), *[one] * order, torch.eye(after, dtype=F64))


def shift_matrix(sides: tuple[int, ...], steps: tuple[int, ...], before: int, after: int) -> Tensor:
    """A periodic shift on an axis (l x j)."""
    rolls = [torch.eye(n, dtype=F64).roll(s, 0) for n, s in zip(sides, steps, strict=True)]
    return kron(torch.eye(before, dtype=F64), *rolls, torch.eye(after, dtype=F64))


def toeplitz_mean(sides: tuple[int, ...]) -> Tensor:
    """`[N, N]` on flat W[x, y]: the mean over pairs of equal difference, pair by pair."""
    places = list(product(*map(range, sides)))
    gap = [tuple(a - b for a, b in zip(x, y, strict=True)) for x in places for y in places]
    same = torch.tensor([[float(a == b) for a in gap] for b in gap], dtype=F64)
    return same / same.sum(1, keepdim=True)


def steerable_columns(m_out: int, m_in: int, k: int, width: float, reach: float) -> Tensor:
    """`[N, c]`: κ(x) = R(m_out θ) B R(m_in θ)⁻¹ R_j(|x|), SO(2)'s kernels, written down.

    B = I, J turns with m_out − m_in, B = S, SJ with m_out + m_in; ring j takes at most 2j.
    """
    at = torch.arange(k, dtype=F64) - (k - 1) / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    radius, angle = (x * x + y * y).sqrt().flatten(), torch.atan2(y, x).flatten()
    quarter = torch.tensor([[0.0, -1], [1, 0]], dtype=F64)
    flip = torch.tensor([[1.0, 0], [0, -1]], dtype=F64)
    bases = [(torch.eye(2, dtype=F64), m_out - m_in), (quarter, m_out - m_in)]
    bases += [(flip, m_out + m_in), (flip @ quarter, m_out + m_in)]
    columns = []
    for basis, wave in bases:
        for ring in [r for r in at.tolist() if r >= 0 and abs(wave) <= 2 * r]:
            taps = [turn(a, m_out) @ basis @ turn(-a, m_in) for a in angle]
            size = (-((radius - ring) ** 2) / (2 * width**2)).exp() * (radius <= at[-1] + reach)
            size = size * (radius > 0) if wave else size
            columns.append((torch.stack(taps, -1) * size).flatten())
    return torch.stack(columns, 1)


def fields_mean(group: Group, out, into, weight: Tensor) -> Tensor:
    """*mean_g ρ_out(g) (g·W) ρ_in(g)⁻¹* of regular channels, each element's matrices written out.

    `out` and `into` are (before, after), or a number of channels that rest; `weight[o, i, *sides]`
    in float64, or `[o]`.
    """
    rep, total = Regular(group), torch.zeros_like(weight)
    for g in group.elements():
        rows, columns = (
            torch.eye(side, dtype=F64)
            if isinstance(side, int)
            else axis_matrix(((side[0], rep, side[1]),), g)
            for side in (out, into)
        )
        if weight.ndim == 1:
            total += rows @ weight
            continue
        moved = act_on_grid(group, g, weight) if weight.ndim > 2 else weight
        moved = moved.reshape(*weight.shape[:2], -1)
        total += torch.einsum("po,oix,qi->pqx", rows, moved, columns).reshape(weight.shape)
    return total / len(group.elements())
