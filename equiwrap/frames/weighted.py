"""Weighted frames of clouds: every point may give an axis, with a weight that is continuous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import GroupError
from ..groups import Group
from .axes import cloud_arguments, place
from .base import Frame, GroupMeasure, TypedInput
from .cloud import Cloud, gather
from .designs import dihedral, hyperoctahedral, icosahedral, stabilizer
from .pivots import complete, normalize
from .ties import _embed

__all__ = ["Weighted"]

Rows = tuple[tuple[tuple[float, ...], ...], ...]

NARROW = 1e-2  # clouds whose width about a line is less lean on that line, see `_along`
TINY = 1e-60  # the square of a length that is none: clouds have size one
DOUBLINGS = 5  # the line of a cloud is found by the 32nd power of its second moments


class Weighted(Frame):
    """*Σ_i w_i δ(x_i on the first axis), w_i = |x_i|/Σ_k|x_k|; in space ordered pairs (i, j),
    Gram–Schmidt, with the weight w_i · |P_i x_j|/Σ_k|P_i x_k|, P_i = 1 − x_i x_iᵀ/|x_i|².*

    `positions[b, n, d] → elements[b, k, d, d], weights[b, k]`, homogeneous about the centroid for
    SE(d) and E(d); d = 2 or 3. With m = 10 (8 + rank, made even), k is n under SO(2), n(n−1) + 2m
    under SO(3), and twice that under O(2) and O(3), where both signs of the last axis have half the
    weight each. All typed inputs count, each scaled to its own size; axial vectors count twice
    under O(3). The model is called k times, hidden rows and zero weights included: `chunk` bounds
    the memory, `stochastic` draws one element in training. No size depends on data, nothing is read
    from the device, and it compiles into one graph.

    Continuous: invariant outputs; other outputs wherever the cloud has extent (on narrow clouds up
    to r^(m − rank), below 1e-16; and steep there, since a width of 1e-2 decides). Not continuous:
    other outputs where the cloud shrinks to a point; all outputs where one of several inputs
    vanishes while another does not, because each is scaled to its own size.
    Degenerate: a cloud of width r < 1e-2 about a line is averaged over C_m (D_m under O(3)) about
    that line, both ways along it, with the weight 1 − s, s = 3t² − 2t³ and t = (r/1e-2)². A single
    point, or none, is averaged over a finite group that is exact to `rank`, the highest tensor rank
    of an output: C_{rank+1} in the plane, in space the rotations of the tetrahedron (rank 2), the
    cube (3), the icosahedron (5), with reflections under O; k is at least its order. Gradients are
    finite there. A sample that is not finite gets elements that are NaN.
    Error: the tests hold 1e-4 relative in float32 and 1e-9 in float64 on the clouds of
    tests/clouds.py and on lines of every width. Largest seen: 3e-6 and 1e-13. An offset of the
    cloud from the origin costs its rounding.

    Source: Dym, Lawrence, Siegel 2024 (arXiv 2402.16077), with hierarchical weights; the average
    about the line, which makes vector outputs continuous on collinear clouds, is of this library.
    """

    grows = True

    def __init__(self, *, rank: int = 2, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= rank <= 5:
            raise ValueError(f"rank={rank} was given; the designs are exact to ranks 0 to 5.")
        self.rank, self._turns = rank, _rotations(rank)

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return cloud_arguments(group, inputs, mask)

    def forward(
        self,
        group: Group,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        vectors: Sequence[Tensor] = (),
        axials: Sequence[Tensor] = (),
    ) -> GroupMeasure:
        """`positions[b, n, d], mask[b, n], vectors[i][b, n_i, d], axials[j][b, n_j, d]` → the
        measure.

        Raises:
            GroupError: the group is none of O(d), SO(d), E(d), SE(d) with d = 2 or 3, or the
                inputs' d differs.
        """
        _check(group)
        cloud = gather(group, positions, mask, vectors, axials)
        u, special = _scaled(cloud), not group.reflections
        found = _plane(u) if group.dim == 2 else _space(u, special, self.rank)
        elements, weights = found if special or group.dim == 3 else _both(*found)
        elements, weights = _finish(u, elements, weights, self._point(group, u))
        return GroupMeasure(place(group, elements, cloud.centroid), weights)

    def _point(self, group: Group, like: Tensor) -> Tensor:
        """`[p, d, d]`: what stands for the rotations that a point does not feel."""
        if group.dim == 2:
            turns = dihedral(self.rank + 1, like.device).to(like.dtype)
            return turns if group.reflections else turns[: self.rank + 1]
        g = _matrices(self._turns, like)
        return torch.cat([g, -g]) if group.reflections else g

    def calls(self, group: Group) -> int:
        """Those that do not grow with the number of points (see `describe`)."""
        sides = 2 if group.reflections else 1
        if group.dim == 2:
            return sides * (self.rank + 1)
        return max(2 * len(stabilizer(2, sides == 1, self.rank)), sides * len(self._turns))

    def describe(self, group: Group) -> str:
        sides = "2" if group.reflections else ""
        if group.dim == 2:
            pairs = f"{sides}n"
        else:
            about = 2 * len(stabilizer(2, not group.reflections, self.rank))
            pairs = f"{sides}n(n−1) + {about}"
        return (
            f"weighted: {pairs} elements and calls for n points, {self.calls(group)} at least; "
            "exact and continuous"
        )


def _check(group: Group) -> None:
    """Nothing, or a sentence.

    Raises:
        GroupError: the group acts on neither the plane nor space.
    """
    if group.dim not in (2, 3):
        raise GroupError(
            f"A weighted frame was asked for {group}: it needs an element for every ordered "
            f"(d − 1)-tuple of points and is made for d = 2 and 3. Use Axes(), which has one."
        )


def _scaled(cloud: Cloud) -> Tensor:
    """The points, whose scales are constants to the gradient, with scales that are not.

    Weights depend on them: on how long a vector is beside the longest of its input.
    """
    ends = [p.stop for p in cloud.polar] + [2 * p.stop - p.start for p in cloud.axial]
    found = []
    for part, stop in zip([*cloud.polar, *cloud.axial], ends, strict=True):
        x = cloud.points[:, part.start : stop]
        longest = _polar(x)[0].amax(1)
        some = longest > 0
        one = torch.where(some, longest.detach() / torch.where(some, longest, 1.0), 1.0)
        found.append(x * one[:, None, None])
    return torch.cat(found, 1)


def _polar(v: Tensor) -> tuple[Tensor, Tensor]:
    """`v[..., d] → |v|[...], v/|v|[..., d]`, zero where there is no length, gradients finite."""
    square = v.square().sum(-1)
    some = ~(square <= TINY)  # NaN stays NaN
    safe = torch.where(some, square, 1.0)
    root = safe.sqrt()
    return torch.where(some, root, 0.0), v * torch.where(some, 1 / root, 0.0).unsqueeze(-1)


def _share(part: Tensor) -> Tensor:
    """*a_k / Σ_k a_k* along the last axis, 0 where the sum is."""
    total = part.sum(-1, keepdim=True)
    some = ~(total <= 0)
    return torch.where(some, part / torch.where(some, total, 1.0), 0.0)


def _plane(u: Tensor) -> tuple[Tensor, Tensor]:
    """`u[b, n, 2] → g[b, n, 2, 2], w[b, n]`: the rotation that takes e_1 to x_i."""
    size, unit = _polar(u)
    second = torch.stack([-unit[..., 1], unit[..., 0]], -1)
    return torch.stack([unit, second], -1), _share(size)


def _space(u: Tensor, special: bool, rank: int) -> tuple[Tensor, Tensor]:
    """`u[b, n, 3]` → the pairs with weight s, and what stands about the line with 1 − s."""
    pairs, weights = _pairs(u)
    if not special:
        pairs, weights = _both(pairs, weights)
    about, shares, s = _along(u, stabilizer(2, special, rank, u.device).to(u.dtype))
    elements = torch.cat([pairs, about], 1)
    return elements, torch.cat([weights * s, shares * (1 - s)], 1)


def _pairs(u: Tensor) -> tuple[Tensor, Tensor]:
    """`u[b, n, 3] → g[b, n(n−1), 3, 3], w[b, n(n−1)]`: Gram–Schmidt of every ordered pair."""
    n = u.shape[1]
    k = torch.arange(n * (n - 1), device=u.device)
    i, j = k // max(n - 1, 1), k % max(n - 1, 1)
    j = j + (j >= i)
    size, unit = _polar(u)
    first, rest = unit[:, i], u[:, j]
    for _ in range(2):  # once leaves noise / residual
        rest = rest - first * (first * rest).sum(-1, keepdim=True)
    height, second = _polar(rest)
    g = torch.stack([first, second, torch.linalg.cross(first, second)], -1)
    then = _share(height.reshape(len(u), n, n - 1))
    return g, (_share(size).unsqueeze(-1) * then).flatten(1)


def _both(g: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Both signs of the last axis, half the weight each: a cloud in a plane is its own mirror."""
    mirror = torch.cat([g[..., :-1], -g[..., -1:]], -1)
    return torch.cat([g, mirror], 1), torch.cat([w, w], 1) / 2


def _along(u: Tensor, design: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """*e the line of the cloud, ± e with Σ_i (±⟨e, x_i⟩)₊, and a design about it.*

    `u[b, n, 3], design[m, 2, 2] → g[b, 2m, 3, 3], w[b, 2m], s[b, 1]`: s is 0 on a line, 1 where
    some point is farther than 1e-2 from it, and continuously differentiable between. e is the
    32nd power of the second moments on the farthest point: exact for narrow clouds, which are all
    that it is used for. The other axes are arbitrary. That matters by r^(m − rank): a term of
    degree q in the distances from the line turns about it at most q times.
    """
    moment = torch.einsum("bni,bnj->bij", u, u)
    trace = moment.diagonal(dim1=1, dim2=2).sum(1)
    power = moment / torch.where(trace > 0, trace, 1.0)[:, None, None]
    for _ in range(DOUBLINGS):
        power = power @ power
    far = u.detach().square().sum(-1).argmax(1)
    start = u.detach().gather(1, far[:, None, None].expand(-1, 1, 3))
    e = normalize((power @ start.mT).squeeze(-1))  # [b, 3]
    along = torch.einsum("bni,bi->bn", u, e)
    off = u - along.unsqueeze(-1) * e.unsqueeze(1)
    t = (off.square().sum(-1).amax(1, keepdim=True) / NARROW**2).clamp(max=1.0)
    ends = torch.stack([e, -e], 1)  # [b, 2, 3]
    second = complete(ends.unsqueeze(2))[1]
    base = torch.stack([ends, second, torch.linalg.cross(ends, second)], -1)
    g = base.unsqueeze(2) @ _embed(design, 3)  # [b, 2, m, 3, 3]
    sides = torch.stack([along.clamp(min=0), (-along).clamp(min=0)], 1).sum(-1)
    shares = (_share(sides) / len(design)).repeat_interleave(len(design), 1)
    return g.flatten(1, 2), shares, t * t * (3 - 2 * t)


def _rotations(rank: int) -> Rows:
    """The smallest group of rotations of space that averages tensors of this rank like SO(3)."""
    if rank > 2:
        return _rows(icosahedral() if rank > 3 else hyperoctahedral(3, True))
    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    cycles = torch.stack([torch.eye(3).roll(k, 0) for k in range(3)])
    return _rows((cycles.unsqueeze(1) * signs.unsqueeze(-1)).flatten(0, 1))


def _rows(g: Tensor) -> Rows:
    return tuple(tuple(map(tuple, matrix)) for matrix in g.tolist())


def _matrices(rows: Rows, like: Tensor) -> Tensor:
    """A constant, copied to a device once; tracers must see it made."""
    if torch.compiler.is_compiling() or type(like) is not Tensor:
        return _copied.__wrapped__(rows, like.device, like.dtype)
    with torch.inference_mode(False), torch.no_grad():
        return _copied(rows, like.device, like.dtype)


@lru_cache(maxsize=32)
def _copied(rows: Rows, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(rows, device=device, dtype=dtype)


def _finish(u: Tensor, g: Tensor, w: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Samples without extent get the design `point[p, d, d]`, those that are not finite NaN."""
    short = len(point) - g.shape[1]
    eye = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    if short > 0:
        g = torch.cat([g, eye.expand(len(g), short, *eye.shape)], 1)
        w = pad(w, (0, short))
    none = pad(torch.full_like(point[:, 0, 0], 1 / len(point)), (0, w.shape[1] - len(point)))
    turns = torch.cat([point, eye.expand(w.shape[1] - len(point), *eye.shape)])
    nothing = (u == 0).all(2).all(1, keepdim=True)  # [b, 1]
    g = torch.where(nothing[..., None, None], turns, g)
    w = torch.where(nothing, none, w)
    g = torch.where((w == 0)[..., None, None], eye, g)
    finite = w.isfinite().all(1, keepdim=True)
    g = torch.where(finite[..., None, None], g, torch.nan)
    w = torch.where(finite, w, 1.0)
    return g, w / w.sum(1, keepdim=True)
