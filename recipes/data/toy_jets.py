"""A toy of jets: tops and off-shell partons, showered by isotropic splittings. Only a toy.

Its figures say nothing about real or fully simulated jets. Signal: a top of 173 GeV decays into b
and W, the W into two light quarks; background: one parton off its mass shell, of mass around 120
GeV, splits into two. Showers end in 12 massless constituents. pT ∈ (550, 650) GeV, |η| < 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equiwrap.groups import boost

__all__ = ["boosted", "decay", "jets", "mass", "partons", "shower"]

TOP, BEAUTY, W = 173.0, 4.7, 80.4  # GeV
Jets = tuple[Tensor, Tensor]


def mass(p: Tensor) -> Tensor:
    """*√(E² − |p|²)*: `p[..., 4] → [...]`."""
    return (p[..., 0].square() - p[..., 1:].square().sum(-1)).clamp(min=0).sqrt()


def direction(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Isotropic: `[..., 3]`."""
    n = torch.randn(*shape, 3, generator=rng, dtype=torch.float64)
    return n / n.norm(dim=-1, keepdim=True)


def on_shell(m: Tensor, momentum: Tensor) -> Tensor:
    """`m[...], p[..., 3] → [..., 4]`."""
    return torch.cat([(m.square() + momentum.square().sum(-1)).sqrt()[..., None], momentum], -1)


def decay(p: Tensor, one: Tensor, two: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """*Two bodies of these masses, isotropic at rest*: `p[..., 4] → [..., 4], [..., 4]`.

    |k| = √((M² − (m₁ + m₂)²)(M² − (m₁ − m₂)²)) / 2M.
    """
    m = mass(p)
    room = (m**2 - (one + two) ** 2) * (m**2 - (one - two) ** 2)
    k = (room.clamp(min=0).sqrt() / (2 * m))[..., None] * direction(m.shape, rng)
    back = boost(p / m[..., None])
    first, second = (
        torch.einsum("...ij,...j->...i", back, on_shell(m, k))
        for m, k in ((one.expand_as(k[..., 0]), k), (two.expand_as(k[..., 0]), -k))
    )
    return first, second


def shower(parton: Tensor, rounds: int, rng: torch.Generator) -> Tensor:
    """*Rounds of splittings into massless halves*: `p[b, 4] → [b, 2^rounds, 4]`.

    Before each a parton of energy E gets the mass min(0.02 E e^(0.8 z) 0.7^round, E/2), z normal,
    at its energy and direction: energy is kept, momentum only nearly.
    """
    p = parton[:, None]
    for i in range(rounds):
        energy, way = p[..., 0], p[..., 1:] / p[..., 1:].norm(dim=-1, keepdim=True)
        z = torch.randn(energy.shape, generator=rng, dtype=torch.float64)
        m = torch.minimum(0.02 * energy * (0.8 * z).exp() * 0.7**i, energy / 2)
        momentum = (energy**2 - m**2).sqrt()[..., None] * way
        none = torch.zeros((), dtype=torch.float64)
        off = torch.cat([energy[..., None], momentum], -1)
        p = torch.cat(decay(off, none, none, rng), 1)
    return p


def start(m: Tensor, rng: torch.Generator) -> Tensor:
    """A jet's total `[b, 4]` of mass m[b]: pT ∈ (550, 650), η ∈ (−1, 1), any azimuth."""
    a, b, c = torch.rand(3, len(m), generator=rng, dtype=torch.float64)
    pt, eta, phi = 550 + 100 * a, 2 * b - 1, 2 * torch.pi * c
    return on_shell(m, torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh()], -1))


def partons(count: int, top: bool, rng: torch.Generator) -> list[Tensor]:
    """The three quarks of a top (b, q, q̄) or the two massless halves of an off-shell parton."""
    none = torch.zeros((), dtype=torch.float64)
    if top:
        b, w = decay(start(none + TOP * torch.ones(count), rng), none + BEAUTY, none + W, rng)
        return [b, *decay(w, none, none, rng)]
    z = torch.randn(count, generator=rng, dtype=torch.float64)
    return list(decay(start((120 * (0.45 * z).exp()).clamp(20, 300), rng), none, none, rng))


def jets(count: int, rng: torch.Generator) -> Jets:
    """`x[b, 12, 4]` (GeV, float64, by falling energy), `y[b]`: half tops, half not, mixed."""
    found = []
    for top, rounds in ((True, (2, 2, 2)), (False, (3, 2))):
        quarks = partons(count // 2, top, rng)
        showers = [shower(q, r, rng) for q, r in zip(quarks, rounds, strict=True)]
        found.append(torch.cat(showers, 1))
    x, y = torch.cat(found), torch.arange(2).flip(0).repeat_interleave(count // 2)
    order, mixed = x[..., 0].argsort(1, descending=True), torch.randperm(len(x), generator=rng)
    return x.gather(1, order[..., None].expand_as(x))[mixed], y[mixed]


def boosted(x: Tensor, rapidity: Tensor) -> Tensor:
    """Along x: `x[b, n, 4], rapidity[b or 1] → [b, n, 4]`."""
    none = torch.zeros_like(rapidity)
    g = boost(torch.stack([rapidity.cosh(), rapidity.sinh(), none, none], -1))
    return x @ g.mT
