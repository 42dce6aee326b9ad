"""Ties and missing dimensions of complex clouds, one sample at a time."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

__all__ = ["heisenberg", "phases", "quaternions", "resolve"]

PHASES = 8  # roots of unity on the complement: exact for seven axes v
MOST = 4096  # partial frames that are followed at once


def resolve(x: Tensor, special: bool, eps: float) -> tuple[Tensor, Tensor]:
    """Every tied frame of `x[n, d]`, times a design of what fixes the vectors.

    `→ elements[k, d, d], calls[k]`. Vectors that reach a little into the complement are averaged
    over the design as they are, so that only the square of what they reach is left.
    """
    d, tau = x.shape[-1], eps**0.5
    frames = [x.new_zeros(0, d)]  # rows are columns q so far
    steps = d - 1 if special else d
    best = 0.0
    for _ in range(steps):
        residuals = [_without(x, q) for q in frames]
        sizes = [r.detach().abs().square().sum(-1).sqrt() for r in residuals]
        best = max(float(s.amax()) for s in sizes)
        if best <= eps**0.385:
            break
        longer: list[Tensor] = []
        for q, r, s in zip(frames, residuals, sizes, strict=True):
            for i in (s >= best - tau).nonzero()[:, 0].tolist():
                extended = torch.cat([q, (r[i] / r[i].abs().square().sum().sqrt())[None]])
                longer.append(extended)
        frames = _best(x, _distinct(longer, 100 * eps)[:MOST], tau)
    else:
        best = 0.0
    elements, calls = _complete(frames, d, special)
    if best > 100 * eps:
        calls = torch.arange(len(elements), device=x.device)
    return elements, calls


def _without(x: Tensor, q: Tensor) -> Tensor:
    """The vectors less their parts along the rows of q, twice."""
    for _ in range(2):
        x = x - (x @ q.mH) @ q
    return x


def _distinct(frames: list[Tensor], tolerance: float) -> list[Tensor]:
    """Frames that differ by more than the tolerance."""
    with torch.no_grad():
        every = torch.stack(frames).flatten(1)
        gap = (every.unsqueeze(1) - every).abs().amax(-1)
        first = (gap <= max(tolerance, 1e-9)).to(torch.int8).argmax(1)
        kept = sorted(set(first.tolist()))
    return [frames[i] for i in kept]


def _best(x: Tensor, frames: list[Tensor], tau: float) -> list[Tensor]:
    """The frames in which the cloud scores highest; the score ignores the order of the points."""
    with torch.no_grad():
        q = torch.stack(frames)
        along = torch.einsum("nd,fkd->fnk", x, q.conj())
        k = torch.arange(1, q.shape[1] + 1, device=x.device, dtype=torch.float64)
        weight = torch.polar(1 / k, 0.7 + 1.3 * k * k)
        z = (along * weight).sum(-1).real
        score = (z**3 + 0.7 * z**4 + 0.3 * z**5).sum(-1)
        kept = (score >= score.amax() - tau * len(x)).nonzero()[:, 0].tolist()
    return [frames[i] for i in kept]


def _complete(frames: list[Tensor], d: int, special: bool) -> tuple[Tensor, Tensor]:
    """Full matrices, over the design of the complement's group."""
    rank = len(frames[0])
    missing = d - rank
    first = frames[0]
    if special and missing == 1:
        design = torch.ones(1, 1, 1, dtype=first.dtype)
    elif missing == 0:
        design = torch.zeros(1, 0, 0, dtype=first.dtype)
    elif not special:
        design = phases(missing)
    else:
        design = quaternions() if missing == 2 else heisenberg(missing)
    design = design.to(first)
    elements: list[Tensor] = []
    calls: list[int] = []
    for q in frames:
        rest = _complement(q, d, special)  # [missing, d]
        calls += [len(elements)] * len(design)
        elements += [torch.cat([q, s.mT @ rest]).mT for s in design]
    return torch.stack(elements), torch.tensor(calls, device=first.device)


def _complement(q: Tensor, d: int, special: bool) -> Tensor:
    """Orthonormal rows across q, `[d − r, d]`; with special they bring the determinant to one."""
    with torch.no_grad():
        eye = torch.eye(d, dtype=q.dtype, device=q.device)
        rows: list[Tensor] = []
        while len(rows) < d - len(q):
            left = _without(eye, torch.stack([*q, *rows]) if len(q) or rows else q)
            size = left.abs().square().sum(-1)
            i = int(size.argmax())
            rows.append(left[i] / size[i].sqrt())
        rest = torch.stack(rows) if rows else q.new_zeros(0, d)
    if special and len(rest):
        det = torch.linalg.det(torch.cat([q, rest]))
        rest = torch.cat([rest[:-1], rest[-1:] * det.conj() / det.abs()])
    return rest


def phases(q: int) -> Tensor:
    """*ω^k · 1, ω the eighth root of unity*: averages v ⊗ … ⊗ v as U(q) does, up to seven times."""
    angle = torch.arange(PHASES, dtype=torch.float64) * (2 * torch.pi / PHASES)
    unit = torch.polar(torch.ones_like(angle), angle)
    return unit[:, None, None] * torch.eye(q, dtype=torch.complex128)


def quaternions() -> Tensor:
    """*±1, ±i, ±j, ±k in SU(2)*: averages v and v ⊗ v as SU(2) does."""
    one = torch.eye(2, dtype=torch.complex128)
    i = torch.tensor([[1j, 0], [0, -1j]])
    j = torch.tensor([[0, 1], [-1, 0]]) + 0j
    units = torch.stack([one, i.to(one), j.to(one), (i @ j.to(i)).to(one)])
    return torch.cat([units, -units])


def heisenberg(q: int) -> Tensor:
    """*ω^c X^a Z^b, X the shift and Z the clock, in SU(q)*: averages v and v ⊗ v as SU(q) does.

    For even q, X and Z have determinant −1 and are multiplied by a root of −1.
    """
    omega = _unit(2 * torch.pi / q)
    shift = torch.eye(q, dtype=torch.complex128).roll(1, 0)
    clock = torch.diag(omega ** torch.arange(q))
    root = _unit(0.0 if q % 2 else torch.pi / q)
    shift, clock = shift * root, clock * root
    found = []
    for a, b, c in product(range(q), repeat=3):
        power = torch.linalg.matrix_power
        found.append(omega**c * power(shift, a) @ power(clock, b))
    return torch.stack(found)


def _unit(angle: float) -> Tensor:
    """*e^{i angle}*."""
    one = torch.ones((), dtype=torch.float64)
    return torch.polar(one, angle * one)
