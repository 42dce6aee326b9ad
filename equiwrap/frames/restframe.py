"""The Lorentz frame: into the rest frame of the total, and then the axes of space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import GroupError
from ..groups import Group, Lorentz, boost, metric
from ..groups.base import working_dtype
from .axes import Axes
from .base import Frame, GroupMeasure, TypedInput, refuse
from .cloud import gather
from .keys import check_ties
from .reading import cloud

__all__ = ["Conditioning", "Rest"]

PREDICTED = 1e-4  # float32 inputs whose canonical form would be worse than this are refused


class Conditioning(NamedTuple):
    """How well a sample's frame is determined: `gamma[b]`, `angle[b]`, `error[b]`.

    γ of the rest frame; the sine of the angle between the longest rest-frame momentum and the one
    farthest from its line; and ε γ² / sin θ (ε γ² where sin θ < 0.01), the rounding to expect.
    """

    gamma: Tensor
    angle: Tensor
    error: Tensor


class Rest(Frame):
    """*g = Λ(u) diag(1, A): u = P / √(P·P) for the total P, A the axes of the rest-frame momenta.*

    `vectors[i][b, n_i, 1+d] → elements[b, 1, 1+d, 1+d]`, signature (+, −, …, −), in float64. Scale
    free, and the same for every order of the vectors; zero rows (padding) change nothing. Massless
    vectors are ordinary. Groups that reverse time follow the sign of the total energy. Where the
    total is zero or space-like, u is the time-like eigenvector of Σ x_i x_iᵀ η instead, which
    exists for every sample whose vectors span something time-like.

    Degenerate: symmetric configurations keep the coset of their stabiliser in O(d) or SO(d), as in
    `Axes`. A sample without a time-like combination (zero, one massless vector, collinear massless
    ones, space-like ones alone) has a stabiliser that is not compact, and is refused with a
    sentence; compiled code answers NaN for it. So is one whose total is light-like within √ε, and,
    with `check`, a float32 sample whose predicted error (`conditioning`) is above 1e-4.
    Error: about ε γ² / sin θ, ε of the input's dtype.
    Source: rest frames as in arXiv 2406.07598's Lorentz case, without its cut on small masses.
    """

    def __init__(
        self, *, ties: str = "average", rank: int = 2, check: bool = True, **options: Any
    ) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.axes, self.check = Axes(ties=ties, rank=rank), check

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        found = cloud(group, inputs)[1]
        if mask is not None:
            shown = mask.bool().unsqueeze(-1)
            fits = [x.shape[1] == mask.shape[1] for x in found]
            found = [
                torch.where(shown, x, 0.0) if fit else x for x, fit in zip(found, fits, strict=True)
            ]
        return {"vectors": found}

    def forward(self, group: Group, vectors: Sequence[Tensor]) -> GroupMeasure:
        """`vectors[i][b, n_i, 1+d] → elements[b, k, 1+d, 1+d]`.

        Raises:
            GroupError: the group is no Lorentz group.
            FrameError: a sample has no rest frame, or its dtype does not resolve it.
        """
        if not isinstance(group, Lorentz):
            raise GroupError(
                f'frame="lorentz" was asked for {group}; it is the frame of SO+(1,d), SO(1,d) and '
                "O(1,d)."
            )
        x, eps = _unit(vectors)
        u, both, bad = self._time(group, x, eps)
        refuse(bad, lambda i: _sentence(group, i, x[i], eps))
        if self.check:
            state = _conditioning(x, u, eps)
            poor = state.error > PREDICTED
            refuse(poor & ~bad, lambda i: _imprecise(group, i, state))
            bad = bad | poor
        measure = self._around(group, x, u, eps)
        if not torch.compiler.is_compiling() and self.axes.ties != "first" and bool(both.any()):
            measure = _either(measure, self._around(group, x, -u, eps), both)
        g = torch.where(bad[:, None, None, None], torch.nan, measure.elements)
        return measure._replace(elements=g)

    def conditioning(self, vectors: Sequence[Tensor], group: Group) -> Conditioning:
        """γ, angle and predicted error of every sample."""
        x, eps = _unit(vectors)
        u, _, _ = self._time(group, x, eps)
        return _conditioning(x, u, eps)

    def _time(self, group: Group, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """`x[b, n, m] → u[b, m]` with u·u = 1, are both signs of it alike? `[b]`, none? `[b]`."""
        forward = isinstance(group, Lorentz) and group.orthochronous
        total = x.sum(1)
        square, size = _dot(total, total), x.detach().norm(dim=-1).sum(1).square()
        timelike = square > eps**0.5 * total[:, 0].square()
        timelike = timelike & (total.norm(dim=-1) > eps**0.5 * size.sqrt())
        u, both = total, torch.zeros_like(timelike)
        other = (square < -(eps**0.5) * size) | (total.norm(dim=-1) <= eps**0.5 * size.sqrt())
        other = other & ~timelike & (size > 0)
        if not torch.compiler.is_compiling() and self.axes.ties != "first" and bool(other.any()):
            where = other.nonzero()[:, 0]
            axis, found, even = _principal(x[where], eps)
            u = u.index_copy(0, where, axis)
            timelike = timelike.index_copy(0, where, found)
            both = both.index_copy(0, where, even & (not forward))
        bad = ~timelike & x.isfinite().flatten(1).all(1)
        rest = torch.zeros_like(u)
        rest[:, 0] = 1.0
        u = torch.where(timelike[:, None], u, rest)
        u = u / _dot(u, u).sqrt()[:, None]
        if forward:
            u = torch.where(u[:, :1] < 0, -u, u)
        return u, both, bad

    def _around(self, group: Lorentz, x: Tensor, u: Tensor, eps: float) -> GroupMeasure:
        """The measure of the samples whose time axis is u."""
        past = (u[:, 0] < 0)[:, None, None]
        flip = torch.ones(group.dim, dtype=x.dtype, device=x.device)
        flip[: 2 if group.special else 1] = -1.0
        base = boost(torch.where(past[:, 0], -u, u))
        base = torch.where(past, base * flip, base)
        moved = x @ group.inverse(base).mT
        space = moved[..., 1:]
        # a sample at rest is left with rounding, which is no direction
        size = moved.detach().abs().flatten(1).amax(1)
        some = space.detach().abs().flatten(1).amax(1) > eps**0.5 * size
        space = torch.where(some[:, None, None], space, 0.0)
        rotations = group.rotations
        found = gather(rotations, None, None, [space], [])
        noise = torch.full_like(found.tau, eps**0.5)
        inner = self.axes.of_cloud(rotations, found._replace(noise=noise / 8, tau=8 * noise))
        turn = torch.nn.functional.pad(inner.elements, (1, 0, 1, 0))
        corner = torch.zeros(group.dim, group.dim, dtype=x.dtype, device=x.device)
        corner[0, 0] = 1.0
        return inner._replace(elements=base.unsqueeze(1) @ (turn + corner))

    def describe(self, group: Group) -> str:
        return "lorentz: the rest frame, 1 element a sample; exact in float64, about ε γ² otherwise"


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return x[..., 0] * y[..., 0] - (x[..., 1:] * y[..., 1:]).sum(-1)


def _unit(vectors: Sequence[Tensor]) -> tuple[Tensor, float]:
    """All vectors `[b, n, m]` in units of their largest entry, and ε of their dtype."""
    dtype = working_dtype(vectors[0].device)
    eps = max(torch.finfo(x.dtype).eps for x in vectors)
    x = torch.cat([v.to(dtype) for v in vectors], 1)
    size = x.detach().abs().flatten(1).amax(1)
    return x / torch.where(size > 0, size, 1.0)[:, None, None], eps


def _principal(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The time-like eigenvector of Σ x_i x_iᵀ η, whether there is one, and whether the total energy
    along it vanishes.

    `x[f, n, m] → u[f, m], [f], [f]`. It is Xᵀw for the one positive eigenvalue of the Gram matrix
    X η Xᵀ, which exists just where the span has time-like vectors (Sylvester). The derivative is
    that of the eigenvector, by its resolvent.
    """
    gram = x @ (x * metric(x.shape[-1], x.device).diagonal()).mT
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(gram)
        top, w = values[:, -1], vectors[..., -1]
        gap = top[:, None] - values[:, :-1]
        inverse = torch.where(gap > 0, 1 / torch.where(gap > 0, gap, 1.0), 0.0)
        rest = vectors[..., :-1]
    change = (gram - gram.detach()) @ w.unsqueeze(-1)
    w = w + (rest @ (inverse.unsqueeze(-1) * (rest.mT @ change))).squeeze(-1)
    u = (x.mT @ w.unsqueeze(-1)).squeeze(-1)
    u = torch.where(u[:, :1] < 0, -u, u)
    along = _dot(x, u.unsqueeze(1)).detach()
    energy, size = along.sum(1), along.abs().sum(1)
    u = torch.where((energy < 0)[:, None], -u, u)
    size2 = x.detach().square().sum((1, 2))
    return u, top > eps**0.5 * size2, energy.abs() <= eps**0.5 * size


def _either(one: GroupMeasure, two: GroupMeasure, both: Tensor) -> GroupMeasure:
    """Half of each for the samples in `both[b]`, the first alone for the others."""
    k = one.weights.shape[1]
    share = torch.where(both, 0.5, 0.0).to(one.weights.dtype)[:, None]
    weights = torch.cat([one.weights * (1 - share), two.weights * share], 1)
    own = [
        torch.arange(m.weights.shape[1], device=weights.device).expand_as(m.weights)
        if m.calls is None
        else m.calls
        for m in (one, two)
    ]
    elements = torch.cat([one.elements, two.elements], 1)
    return GroupMeasure(elements, weights, True, torch.cat([own[0], own[1] + k], 1))


def _conditioning(x: Tensor, u: Tensor, eps: float) -> Conditioning:
    with torch.no_grad():
        momentum = _rest(x, u)
        length = momentum.norm(dim=-1)
        top = length.argmax(1)
        row = torch.arange(len(x), device=x.device)
        first = momentum[row, top] / length[row, top].clamp(min=1e-300)[:, None]
        across = momentum - (momentum @ first.unsqueeze(-1)) * first.unsqueeze(1)
        angle = across.norm(dim=-1).amax(1) / length[row, top].clamp(min=1e-300)
        gamma = u[:, 0].abs()
        # below 0.01 no axis is taken from the momenta across: they are averaged over
        sine = torch.where(angle > 1e-2, angle, 1.0)
        return Conditioning(gamma, angle, eps * gamma.square() / sine)


def _rest(x: Tensor, u: Tensor) -> Tensor:
    """Momenta in the frame in which u is at rest."""
    forward = torch.where(u[:, :1] < 0, -u, u)
    back = boost(torch.cat([forward[:, :1], -forward[:, 1:]], -1))
    return (x @ back.mT)[..., 1:]


def _sentence(group: Group, i: int, x: Tensor, eps: float) -> str:
    total = x.sum(0)
    if not bool(x.any()):
        why = "all its vectors are zero"
    elif float(_dot(total, total)) > 0:
        gamma = float(total[0].abs() / _dot(total, total).sqrt())
        why = (
            f"its total is light-like within its rounding (γ = {gamma:.0e}): convert the inputs "
            "with x.double() if they are float32"
        )
    else:
        why = "no combination of its vectors is time-like"
    return (
        f"Sample {i} has no frame under {group}: {why}. What fixes such vectors is not compact, "
        "and nothing can be averaged."
    )


def _imprecise(group: Group, i: int, state: Conditioning) -> str:
    return (
        f"Sample {i} is too strongly boosted for its dtype under {group}: γ = "
        f"{float(state.gamma[i]):.1f} and sin θ = {float(state.angle[i]):.1e} leave a relative "
        f"error of about {float(state.error[i]):.0e}. Give float64 inputs (x.double()), or accept "
        "it with ew.frames.Rest(check=False)."
    )
