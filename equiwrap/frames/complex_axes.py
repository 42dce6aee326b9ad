"""Pivoted complex Gram–Schmidt: the frame of U(d) and SU(d)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Group, Unitary
from .base import Frame, GroupMeasure, TypedInput
from .cloud import SHRINK
from .complex_ties import resolve
from .keys import check_ties
from .reading import cloud

__all__ = ["ComplexAxes"]


class ComplexAxes(Frame):
    """*q_1 along the longest vector, phase included, q_2 along the largest residual, …*

    `vectors[i][b, n_i, d]` (complex) → `elements[b, 1, d, d]`, the columns q; the last column under
    SU(d) is what makes the determinant one. The same set of elements for every order of the
    vectors; each input is scaled to its own size.

    Degenerate: tied vectors give all their frames, of which those with the largest invariant score
    are kept, the stabiliser's coset. Where the vectors span r < d dimensions outputs are averaged
    over a design of what fixes them: under U(d) the phases of order 8 on the complement, exact for
    outputs with up to seven axes v; under SU(d) with d − r = 2 the quaternion group, with d − r ≥ 3
    the Weyl–Heisenberg group, exact for outputs with up to two axes v. Coset members of a design
    share one call. Vectors closer to a span than ε^0.385 (2e-3, 9e-7) count as in it.
    Error: the tests hold 1e-4 relative in complex64 and 1e-9 in complex128.
    `ties="first"` reads nothing from the device, and is exact for generic clouds only; so is
    compiled code. Not continuous.
    Source: pivoted Gram–Schmidt; the groups are those of arXiv 2406.07598.
    """

    def __init__(self, *, ties: str = "average", **options: Any) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.ties = ties

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        found = cloud(group, inputs)[1]
        if mask is not None:
            shown = mask.bool().unsqueeze(-1)
            found = [
                torch.where(shown, x, 0.0) if x.shape[1] == mask.shape[1] else x for x in found
            ]
        return {"vectors": found}

    def forward(self, group: Group, vectors: Sequence[Tensor]) -> GroupMeasure:
        """`vectors[i][b, n_i, d] → elements[b, k, d, d]`.

        Raises:
            GroupError: the group is neither U(d) nor SU(d), or the vectors are real.
        """
        if not isinstance(group, Unitary) or not all(x.is_complex() for x in vectors):
            raise GroupError(
                f"Complex axes were asked for {group}; they are the frame of U(d) and SU(d) on "
                "complex vectors."
            )
        x, eps = _unit(vectors)
        q, flagged = _generic(x, group.special, eps)
        one = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
        flagged = flagged & x.isfinite().flatten(1).all(1)
        single = GroupMeasure(q.unsqueeze(1), one)
        if self.ties == "first" or torch.compiler.is_compiling() or not bool(flagged.any()):
            return single
        where = flagged.nonzero()[:, 0].tolist()
        found = [resolve(x[i], group.special, eps) for i in where]
        width = max(len(g) for g, _ in found)
        elements = [e.unsqueeze(0) for e in q]
        calls = torch.arange(width, device=x.device).repeat(len(x), 1)
        weights = torch.nn.functional.pad(one, (0, width - 1))
        for i, (g, call) in zip(where, found, strict=True):
            elements[i] = g
            calls[i, : len(g)] = call.to(calls)
            weights[i, : len(g)] = 1 / len(g)
        full = [torch.cat([g, g[:1].expand(width - len(g), -1, -1)]) for g in elements]
        return GroupMeasure(torch.stack(full), weights, ragged=True, calls=calls)

    def describe(self, group: Group) -> str:
        return "unitary: 1 element a sample, the stabiliser on symmetric clouds, exact"


def _unit(vectors: Sequence[Tensor]) -> tuple[Tensor, float]:
    """All vectors `[b, n, d]` in complex128, each input scaled to 0.7^i, and ε of their dtype."""
    eps = max(torch.finfo(x.dtype).eps for x in vectors)
    parts: list[Tensor] = []
    for x in vectors:
        wide = x.to(torch.complex128)
        if x.shape[1]:
            size = _lengths(wide).amax(1)
            scale = torch.where(size > 0, 1.0 / torch.where(size > 0, size, 1.0), 1.0)
            parts.append(wide * (SHRINK ** len(parts) * scale)[:, None, None])
    if len(parts) < 2:
        return parts[0], eps
    x = torch.cat(parts, 1)
    top = _lengths(x).amax(1)
    return x / torch.where(top > 0, top, 1.0)[:, None, None], eps


def _lengths(x: Tensor) -> Tensor:
    """‖x‖ of complex vectors `[..., d] → [...]`, constants to the gradient."""
    return torch.view_as_real(x.detach().resolve_conj()).flatten(-2).norm(dim=-1)


def _generic(x: Tensor, special: bool, eps: float) -> tuple[Tensor, Tensor]:
    """`x[b, n, d] → q[b, d, d]`, and the samples `[b]` with a tie or too few dimensions."""
    b, _, d = x.shape
    row = torch.arange(b, device=x.device)
    columns: list[Tensor] = []
    flagged = torch.zeros(b, dtype=torch.bool, device=x.device)
    residual = x
    eye = torch.eye(d, dtype=x.dtype, device=x.device).expand(b, d, d)
    for k in range(d):
        if special and k == d - 1:
            columns.append(_oriented(columns, eye))
            break
        size = _lengths(residual)
        best, index = size.max(1)
        flat = best <= small(eps)
        tied = (size >= (best - eps**0.5).unsqueeze(1)).sum(1) > 1
        flagged = flagged | tied | flat
        spare = remove(eye, columns)
        other = spare[row, spare.abs().square().sum(-1).argmax(1)]
        chosen = remove(residual[row, index].unsqueeze(1), columns, passes=1).squeeze(1)
        pivot = torch.where(flat[:, None], other, chosen)
        q = pivot / pivot.abs().square().sum(-1, keepdim=True).sqrt()
        columns.append(q)
        if k < d - 1:
            residual = remove(residual, [q], passes=1)  # the pivot is cleaned once more
    return torch.stack(columns, -1), flagged


def small(eps: float) -> float:
    """Residuals below it count as zero: what they would cost is their square."""
    return eps**0.385


def remove(x: Tensor, columns: Sequence[Tensor], passes: int = 2) -> Tensor:
    """`x[b, n, d]` without its parts along `q[b, d]`; one pass leaves rounding over residual."""
    for _ in range(passes):
        for q in columns:
            along = x @ q.conj().unsqueeze(-1)
            x = x - along * q.unsqueeze(-2)
    return x


def _oriented(columns: Sequence[Tensor], eye: Tensor) -> Tensor:
    """The last column `[b, d]` of a matrix in SU(d): the conjugate cofactors of the others."""
    if not columns:
        return eye[..., 0]
    others = torch.stack(list(columns), -1)  # [b, d, d − 1]
    d = others.shape[-2]
    minors = []
    for i in range(d):
        keep = [j for j in range(d) if j != i]
        minors.append((-1) ** (i + d - 1) * torch.linalg.det(others[:, keep]))
    return torch.stack(minors, -1).conj()
