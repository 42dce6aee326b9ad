"""Lie derivatives: how fast a model leaves equivariance, by forward-mode differentiation."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import CaptureError, GroupError
from ..grids import disk
from ..groups import Elements, Group, Orthogonal, Product, Shifts
from ..representations import Representation
from ..signature import Signature, TensorType
from .acting import wide
from .estimate import Estimate, of_mean, of_ratio
from .trial import Trial, subtract

__all__ = ["LieDerivative", "drift", "infinitesimal", "lie_derivative", "lie_terms"]


@dataclass(frozen=True)
class LieDerivative:
    """For each generator X, `lee` = E‖L_X f‖² / dim(out) and `relative` = rms(L_X f) / rms(f)."""

    group: str
    generators: tuple[str, ...]
    lee: tuple[Estimate, ...]
    relative: tuple[Estimate, ...]
    unit: str

    def __float__(self) -> float:
        """The largest relative rms."""
        return max(float(e) for e in self.relative)

    def __str__(self) -> str:
        one = self.relative[0]
        floor = f"floor {one.floor:.0e}"
        floor += f", differences {one.interpolation:.1e}" if one.interpolation else ""
        first = f"Lie derivative under {self.group}, per {self.unit}, {one.samples} inputs, {floor}"
        rows = zip(self.generators, self.relative, self.lee, strict=True)
        each = [f"  {x}: relative {r.interval}, LEE {e.interval}" for x, r, e in rows]
        return "\n".join([first, *each])


def lie_derivative(
    model: Any,
    group: str | Group | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    **kwargs: Any,
) -> LieDerivative:
    """*L_X f(x) = dρ_out(X) f(x) − J_f(x)[dρ_in(X) x]*, one X for each vector of the algebra.

    One forward-mode pass of the model for each X: nothing is interpolated, and no step is chosen.
    Zero for every x just where f is equivariant under the connected part of the group: reflections
    are not seen. Images turn by u ∂_v − v ∂_u in central differences (per radian, inside the
    disk), and shift by −∂ (T(2), per pixel, round the edges): see `infinitesimal`. Put the model in
    eval mode first.

    Error: 7e-7 relative in float32 (images), 1.4e-7 (clouds); on images also the difference
    quotient, measured on the input (`interpolation`).
    Source: Gruver et al. 2023, eq. 4 (LEE); theirs differentiates bilinear interpolation.

    Raises:
        GroupError: the group is finite, so that it has no Lie algebra.
        SignatureError: no signature is to be had, or the inputs do not fit it.
        CaptureError: the model cannot be differentiated in forward mode.
    """
    trial = Trial.of(model, group, signature, inputs, kwargs)
    plain = trial.run()
    size = trial.dot(plain, plain)
    ones = [torch.ones_like(y) for y in plain]
    entries = float(trial.dot(ones, ones).mean())
    names, lee, relative = [], [], []
    facts: dict[str, Any] = {**trial.floors, "elements": 1, "interpolation": 0.0}
    for name, x in algebra(trial.group, trial.device):
        found = lie_terms(trial, x)
        square = trial.dot(found, found)
        facts["interpolation"] = max(0.0, *(_roughness(k, x, v) for k, v in trial.typed))
        names.append(name)
        relative.append(of_ratio(square, size, root=True, what="relative rms", **facts))
        lee.append(of_mean(square / entries, what="LEE", **{**facts, "floor": 0.0}))
    pixels = isinstance(trial.group, Shifts)
    unit = (
        "pixel"
        if pixels
        else "radian"
        if isinstance(trial.group, Orthogonal)
        else "unit of t in exp(tX)"
    )
    return LieDerivative(str(trial.group), tuple(names), tuple(lee), tuple(relative), unit)


def algebra(group: Group, device: torch.device) -> list[tuple[str, Elements]]:
    """The basis of the Lie algebra with names; of each factor of a product, beside zeros.

    Raises:
        GroupError: the group is finite.
    """
    if isinstance(group, Product):
        zero = [_zeros(factor.identity(device)) for factor in group.factors]
        found = []
        for i, factor in enumerate(group.factors):
            if factor.order is None and not factor.permutes:
                for name, x in algebra(factor, device):
                    pair: Elements = (*zero[:i], x, *zero[i + 1 :])
                    found.append((f"{factor} {name}", pair))
        basis: list[tuple[str, Elements]] = found
    elif isinstance(group, Shifts):
        basis = list(zip(("down", "right"), torch.eye(2, device=device), strict=True))
    else:
        basis = [(f"X{i + 1}", x) for i, x in enumerate(group.algebra(device))]
        basis = [] if group.permutes else basis
    if not basis:
        raise GroupError(
            f"{group} is finite, so that it has no Lie algebra: measure it element by element "
            '(ew.measure.model_error), or name a continuous group, as "SO(2)".'
        )
    return basis


def _zeros(g: Elements) -> Elements:
    return tuple(map(_zeros, g)) if isinstance(g, tuple) else torch.zeros_like(g)


def lie_terms(trial: Trial, x: Elements) -> list[Tensor]:
    """*L_X f*, output by output, in front order and float64.

    Raises:
        CaptureError: the model cannot be differentiated in forward mode.
    """
    moving = [i for i, k in enumerate(trial.kinds) if k is not None and not k.untouched and k.moves]
    tangents = []
    for i in moving:
        kind = trial.kinds[i]
        assert kind is not None
        tangents.append(infinitesimal(kind, x, trial.inputs[i]))

    def f(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(moving, values, strict=True))
        full = [given.get(i, v) for i, v in enumerate(trial.inputs)]
        out = trial.sig.flatten(trial.model(*full, **trial.kwargs))
        pairs = zip([kind for _, kind in trial.sig.outputs], out, strict=True)
        return tuple(y for k, y in pairs if not k.untouched)

    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            primals = tuple(trial.inputs[i] for i in moving)
            plain, pushed = torch.func.jvp(f, primals, tuple(tangents))[:2]
    except (NotImplementedError, RuntimeError) as error:
        raise CaptureError(
            "The Lie derivative needs forward-mode differentiation, and this model refused it: "
            f"{str(error).splitlines()[0]} Measure finite elements (ew.measure.model_error), or "
            "put the model in eval mode if it updates buffers."
        ) from error
    turned = [infinitesimal(k, x, y.to(wide(y))) for k, y in zip(trial.outputs, plain, strict=True)]
    rows = [k.to_front(y) for k, y in zip(trial.outputs, turned, strict=True)]
    moved = [k.to_front(y).to(wide(y)) for k, y in zip(trial.outputs, pushed, strict=True)]
    return [y.detach() for y in subtract(rows, moved)]


# -- the derivative of an action ------------------------------------------------------------------


def infinitesimal(kind: TensorType, x: Elements, value: Tensor) -> Tensor:
    """*dρ(X) v = d/dt ρ(exp tX) v at t = 0*: linear in X, affine in v where positions move.

    `X[m, m]` (a tuple for products, `[2]` pixels for T(2)), `v` and the result in pattern order.
    On axes: the exact derivative of the representation, whatever it is. On pixels: −(X r)·∇v by
    central differences, a linear operator; zero outside the inscribed disk; round the edges for
    T(2).

    Error: rounding on axes; on pixels κ²/6 relative at κ radians per pixel (4e-2 at κ = 1/2).
    """
    front = kind.to_front(value)
    if not kind.moves:
        return torch.zeros_like(value)
    exact = front.to(wide(front))
    total = torch.zeros_like(exact)
    for i, axis in enumerate(kind.inner):
        at = i - len(kind.inner)
        if kind.grid and axis.name == "h":
            there = drift(kind.group, x, exact.movedim((at, at + 1), (-2, -1)))
            total = total + there.movedim((-2, -1), (at, at + 1))
        elif kind.grid and axis.terms == (("h", "w"),):
            side = isqrt(exact.shape[at])
            square = exact.movedim(at, -1).unflatten(-1, (side, side))
            total = total + drift(kind.group, x, square).flatten(-2).movedim(-1, at)
        elif not (kind.grid and axis.name == "w") and kind.axis_moves(axis):
            rep = kind.representation(axis, exact.shape[at])
            one = kind.group.at(kind.sizes(front)).identity(value.device)
            total = total + _push(rep, one, x, exact.movedim(at, -1)).movedim(-1, at)
    return kind.from_front(total.to(value.dtype), kind.leading(value))


def _push(rep: Representation, one: Elements, x: Elements, v: Tensor) -> Tensor:
    """The derivative of g → ρ(g) v at 1 along X; factors of integers stand still."""
    parts = one if isinstance(one, tuple) else (one,)
    along = x if isinstance(x, tuple) else (x,)
    free = [i for i, p in enumerate(parts) if p.is_floating_point() or p.is_complex()]

    def moved(*found: Tensor) -> Tensor:
        given = dict(zip(free, found, strict=True))
        g = tuple(given.get(i, p) for i, p in enumerate(parts))
        return rep.act(g if isinstance(one, tuple) else g[0], v)

    primal = tuple(parts[i] for i in free)
    tangent = tuple(along[i].to(parts[i]) for i in free)
    return torch.func.jvp(moved, primal, tangent)[1]


def drift(group: Group, x: Tensor, image: Tensor, step: int = 1) -> Tensor:
    """*−(X r)·∇ image*, `[..., h, w]`, by differences over 2·step pixels."""
    n, m = image.shape[-1], x.to(image.device, image.dtype)
    if n < 2 * step + 1:
        return torch.zeros_like(image)
    round_edges = isinstance(group, Shifts)
    if step == 1 and not round_edges:  # one-sided at the edges, which the disk touches
        by_down, by_right = torch.gradient(image, dim=(-2, -1))
    else:
        by_down, by_right = (
            (image.roll(-step, d) - image.roll(step, d)) / (2 * step) for d in (-2, -1)
        )
    if round_edges:
        return -(m[0] * by_down + m[1] * by_right)
    r = torch.arange(n, dtype=image.dtype, device=image.device) - (n - 1) / 2
    right, down = r.expand(n, n), r.unsqueeze(-1).expand(n, n)
    u, v = (m[i, 0] * right + m[i, 1] * down for i in (0, 1))  # X r
    return -(u * by_right + v * by_down) * disk(n, image)


def _roughness(kind: TensorType, x: Elements, value: Tensor) -> float:
    """*‖D₂ v − D₁ v‖ / (3 ‖D₁ v‖)*, well inside the disk: what differences of one pixel miss."""
    if not kind.grid or [axis.name for axis in kind.inner][-2:] != ["h", "w"]:
        return 0.0
    image = kind.to_front(value).double() if value.device.type != "mps" else kind.to_front(value)
    near, far = drift(kind.group, x, image), drift(kind.group, x, image, step=2)
    if not isinstance(kind.group, Shifts):
        inside = torch.nn.functional.pad(disk(max(image.shape[-1] - 4, 0), image), (2, 2, 2, 2))
        near, far = near * inside, far * inside
    return float((far - near).norm() / (3 * near.norm()).clamp(min=1e-300))
