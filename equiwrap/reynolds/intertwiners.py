"""*Hom(ρ_in, ρ_out) = {B : ρ_out(g) B = B ρ_in(g)}*: a null space, for any group by its generators.

The stacked constraints are dρ_out(X) B − B dρ_in(X) = 0 for a basis X of the Lie algebra, and
ρ_out(h) B − B ρ_in(h) = 0 for the discrete generators h; with both, the group is generated.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Group, Product
from ..representations import Representation, Sum

__all__ = ["intertwiners"]

ZERO, CLEAR = 1e-9, 1e-6  # singular values below are zeros, above are not; between is refused


def intertwiners(group: Group, rep_out: Representation, rep_in: Representation) -> Tensor:
    """*A basis of Hom(ρ_in, ρ_out)*: `→ Q[q, o, i]`, float64, Σ_oi Q̄[q]Q[r] = δ_qr.

    For the small parts of a layer: the singular value decomposition has o·i columns. Sums are taken
    part by part. Q is real, complex only where no real matrices span. Remembered by value: do not
    write into it. For connected groups, and finite ones, these are all equivariant maps; compact or
    not, orthogonal or not.

    Error: ‖ρ_out(g) B − B ρ_in(g)‖ = 1e-15 ‖ρ(g)‖, v ⊗ v → v ⊗ v of SO(3), SO(4), SO+(1,3), GL(3).
    Source: Finzi, Welling and Wilson 2021, §4 (generators); the dρ(X) are forward derivatives.

    Raises:
        GroupError: a representation is affine, or the singular values have no clear gap.
    """
    try:
        hash((group, rep_out, rep_in))
    except TypeError:  # a user's own representation need not be a value
        return _found(group, rep_out, rep_in)
    return _remembered(group, rep_out, rep_in)


@torch.inference_mode(False)  # what is remembered must serve training too
def _found(group: Group, rep_out: Representation, rep_in: Representation) -> Tensor:
    outs = rep_out.parts if isinstance(rep_out, Sum) else (rep_out,)
    ins = rep_in.parts if isinstance(rep_in, Sum) else (rep_in,)
    if len(outs) == len(ins) == 1:
        return _null_space(group, rep_out, rep_in)
    rows, at = [], 0
    for out in outs:
        start = 0
        for into in ins:
            part = intertwiners(group, out, into)
            right, below = rep_in.size - start - into.size, rep_out.size - at - out.size
            rows.append(torch.nn.functional.pad(part, (start, right, at, below)))
            start += into.size
        at += out.size
    return torch.cat(rows)


_remembered = lru_cache(maxsize=1024)(_found)


def _null_space(group: Group, rep_out: Representation, rep_in: Representation) -> Tensor:
    """The right singular vectors of the constraints that belong to zero.

    Raises:
        GroupError: the singular values have no clear gap.
    """
    o, i = rep_out.size, rep_in.size
    if not (rep_out.moves or rep_in.moves):
        return torch.eye(o * i, dtype=torch.float64).reshape(-1, o, i)
    rows = [
        torch.kron(a, torch.eye(i).to(a)) - torch.kron(torch.eye(o).to(b), b.mT.contiguous())
        for a, b in _constraints(group, rep_out, rep_in)
    ]
    if not rows:
        return torch.eye(o * i, dtype=torch.float64).reshape(-1, o, i)
    square = torch.linalg.qr(torch.cat(rows), mode="r").R  # the same null space, o·i rows
    _, values, vectors = torch.linalg.svd(square)
    values = values / values.amax().clamp(min=1.0)
    if ((values > ZERO) & (values < CLEAR)).any():
        near = ", ".join(f"{float(v):.1e}" for v in values if v < 1e-3)
        raise GroupError(
            f"The maps from {rep_in} to {rep_out} that commute with {group} were asked for, and "
            f"the constraints have no clear rank: their smallest singular values are {near}. "
            "The matrices of the representation are not exact enough: compute them in float64."
        )
    basis = vectors[values < ZERO].conj()
    return _real(basis).reshape(-1, o, i)


def _real(basis: Tensor) -> Tensor:
    """A real orthonormal basis of the same space, where there is one; the first in that order."""
    if not basis.is_complex():
        return basis
    projector = basis.mT @ basis.conj()
    if projector.imag.abs().amax() > ZERO:
        return basis
    return torch.linalg.eigh(projector.real).eigenvectors.mT[projector.shape[0] - len(basis) :]


def _constraints(
    group: Group, rep_out: Representation, rep_in: Representation
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (a, b) with a B = B b: ρ of the generators, dρ of the Lie algebra."""
    factors = group.factors if isinstance(group, Product) else (group,)
    for place, factor in enumerate(factors):
        maps = [partial(_matrix, rep, group, place) for rep in (rep_out, rep_in)]
        for h in factor.generators():
            yield maps[0](h), maps[1](h)
        for x in factor.algebra():  # dρ(X) = d/dt ρ(1 + tX) at 0
            a, b = (torch.func.jvp(f, (factor.identity(),), (x,))[1] for f in maps)
            yield a, b


def _matrix(rep: Representation, group: Group, place: int, g: Tensor) -> Tensor:
    """ρ(g); in a product, of g at its place among identities.

    Raises:
        GroupError: the representation is affine.
    """
    if isinstance(group, Product):
        whole = group.identity()
        matrix = rep.matrix((*whole[:place], g, *whole[place + 1 :]))
    else:
        matrix = rep.matrix(g)
    if matrix.shape[-1] != rep.size:
        raise GroupError(
            f"{rep} moves affinely: its matrix is {matrix.shape[-1]} × {matrix.shape[-1]} for an "
            f"axis of {rep.size}. Subtract a mean position and use vectors, v."
        )
    return matrix if matrix.is_complex() else matrix.double()
