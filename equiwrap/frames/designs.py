"""Finite subgroups that integrate like the whole group: designs of SO(q) and O(q).

A finite subgroup H is exact to order t when averaging over H equals averaging over the group for
all polynomials of degree ≤ t in the matrix entries: then a tensor of rank ≤ t fixed by H is fixed
by the whole group, and averaging ρ(g) f(g⁻¹x) over H projects as the Haar integral would.

==================  =========================  ==================
group               design                     exact to order
==================  =========================  ==================
SO(1), O(1)         {1}, {±1}                  every
SO(2), O(2)         C_m, D_m                   m − 1
SO(3), O(3)         icosahedral, 60 and 120    5
SO(q), O(q), q ≥ 4  signed permutations        3
==================  =========================  ==================
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations, product

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups.base import Device, working_dtype
from ..groups.planar import Cyclic, Dihedral

__all__ = ["cyclic", "dihedral", "exactness", "hyperoctahedral", "icosahedral", "stabilizer"]

LARGEST = 6  # 2⁶·6! = 46080 elements; the next would have 645120


def cyclic(m: int, device: Device = None) -> Tensor:
    """*C_m, the rotations by multiples of 2π/m*: `[m, 2, 2]`, exact to order m − 1."""
    return Cyclic(m).elements(device)


def dihedral(m: int, device: Device = None) -> Tensor:
    """*D_m, C_m and then m reflections*: `[2m, 2, 2]`, exact to order m − 1."""
    return Dihedral(m).elements(device)


@lru_cache(maxsize=16)
def icosahedral(device: Device = None) -> Tensor:
    """*The rotations of the icosahedron*: `[60, 3, 3]`, the identity first, exact to order 5.

    Source: the 120 icosians (Conway and Sloane 1988), of which q and −q turn alike.
    """
    golden = (1 + 5**0.5) / 2
    halves = [0.5 * torch.tensor(s) for s in product((1.0, -1.0), repeat=4)]
    icosians = [*torch.eye(4, dtype=torch.float64).unbind(), *halves]
    base = torch.tensor([golden, 1.0, 1 / golden, 0.0], dtype=torch.float64) / 2
    for order in permutations(range(4)):
        if _parity(order) > 0:
            for sign in product((1.0, -1.0), repeat=3):
                signed = base * torch.tensor([*sign, 1.0], dtype=torch.float64)
                icosians.append(signed[list(order)])
    q = torch.stack([x.double() for x in icosians])
    lead = q.gather(1, (q.abs() > 1e-9).int().argmax(1, keepdim=True))
    q = q[lead[:, 0] > 0]  # one of q, −q
    w, x, y, z = q.unbind(1)
    rows = [
        [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
    ]
    g = torch.stack([torch.stack(row, -1) for row in rows], -2)
    return g.to(device=device, dtype=working_dtype(device))


@lru_cache(maxsize=16)
def hyperoctahedral(d: int, special: bool = False, device: Device = None) -> Tensor:
    """*The signed permutation matrices*: `[2^d d!, d, d]`, half of them if `special`.

    Exact to order 3, not to 4: Σ x_i⁴ is a fourth invariant.

    Raises:
        GroupError: d > 6, where the list would have more than half a million matrices.
    """
    if d > LARGEST:
        raise GroupError(
            f"A design for {'S' if special else ''}O({d}) was asked for, by an input without "
            f"extent in {d} dimensions; the signed permutations are listed up to {LARGEST}. Use "
            'ties="first", or give the frame inputs that span more dimensions.'
        )
    rows = []
    for order in permutations(range(d)):
        parity = _parity(order)
        for sign in product((1, -1), repeat=d):
            if not special or parity * (-1) ** sign.count(-1) > 0:
                rows.append((order, sign))
    place = torch.tensor([r[0] for r in rows], device=device)
    value = torch.tensor([r[1] for r in rows], device=device, dtype=working_dtype(device))
    g = torch.zeros(len(rows), d, d, device=device, dtype=working_dtype(device))
    return g.scatter_(2, place.unsqueeze(-1), value.unsqueeze(-1))


def exactness(q: int, rank: int) -> int:
    """The order to which `stabilizer(q, special, rank)` is exact."""
    return {2: _turns(rank) - 1, 3: 5}.get(q, 3)


def stabilizer(q: int, special: bool, rank: int = 2, device: Device = None) -> Tensor:
    """*A design of SO(q) if `special`, of O(q) otherwise*: `[m, q, q]`, the rotations first.

    With q = d it is a design for the whole group, with q < d for what fixes d − q axes. In the
    plane m is chosen by `rank`, the highest rank of the tensors to be averaged, such that a cloud
    of width M off the axis is averaged to M⁸.
    """
    if q == 1:
        one = torch.ones(1, 1, 1, dtype=working_dtype(device), device=device)
        return one if special else torch.cat([one, -one])
    if q == 2:
        m = _turns(rank)
        return cyclic(m, device) if special else dihedral(m, device)
    if q == 3:
        g = icosahedral(device)
        return g if special else torch.cat([g, -g])
    return hyperoctahedral(q, True, device) if special else _rotations_first(q, device)


@lru_cache(maxsize=16)
def _rotations_first(q: int, device: Device) -> Tensor:
    rotations = hyperoctahedral(q, True, device)
    flip = torch.ones(q, dtype=rotations.dtype, device=device)
    flip[0] = -1.0
    return torch.cat([rotations, rotations * flip])


def _turns(rank: int) -> int:
    return 8 + rank + rank % 2


def _parity(order: tuple[int, ...]) -> int:
    swaps = sum(a > b for i, a in enumerate(order) for b in order[i + 1 :])
    return -1 if swaps % 2 else 1
