"""Laws that anybody's test suite can call: each raises with the figure, none returns a bool."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .errors import EquivarianceError
from .frames import Frame, GroupMeasure
from .groups import Elements, Group, parse_group
from .measure import equivariance_error
from .representations import Representation
from .signature import Signature

__all__ = ["assert_equivariant", "check_frame", "check_group", "check_representation", "tolerance"]

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def tolerance(dtype: torch.dtype) -> float:
    """The relative error that the assertions allow: 1e-9 float64, 1e-4 float32, 2e-2 float16, 0.1
    bfloat16.
    """
    return _TOLERANCES[dtype]


def assert_equivariant(
    model: nn.Module | Any,
    group: str | Group | None,
    *inputs: Any,
    signature: str | Signature | None = None,
    tol: float | None = None,
    elements: int = 8,
    seed: int = 0,
    **kwargs: Any,
) -> None:
    """*‖f(gx) − ρ_out(g) f(x)‖ ≤ tol · ‖f(gx)‖ for every input and element tried.*

    `ew.testing.assert_equivariant(model, "C4", x)` for images and wrapped models;
    `signature="b n p -> b k"` otherwise. The worst input decides, not the mean.

    Raises:
        EquivarianceError: the error is above `tol`; the message has the figure and the worst input.
        SignatureError: there is no signature to be had, or the inputs do not fit it.
    """
    found = equivariance_error(
        model, group, *inputs, signature=signature, elements=elements, seed=seed, **kwargs
    )
    dtype = next(x.dtype for x in inputs if isinstance(x, Tensor) and x.is_floating_point())
    allowed = tolerance(dtype) if tol is None else tol
    if not found.worst <= allowed:
        raise EquivarianceError(
            f"The model is not equivariant: relative error {found.worst:.2e} at input "
            f"{found.worst_input}, {allowed:.0e} allowed. Over all: {found}."
        )


def _refuse_above(gap: Tensor, tol: float, law: str) -> None:
    worst = float(gap.amax()) if gap.numel() else 0.0
    if not worst <= tol:
        raise EquivarianceError(f"{law} fails: {worst:.2e}, {tol:.0e} allowed.")


def check_group(group: str | Group, *, samples: int = 16, tol: float = 1e-10) -> None:
    """*Closed under products and inverses, with a neutral element; a list without repetition.*

    Raises:
        EquivarianceError: the first law that fails, with its figure.
    """
    group = parse_group(group)
    rng = torch.Generator().manual_seed(0)
    g, h = group.sample(samples, generator=rng), group.sample(samples, generator=rng)
    neutral = group.compose(g, group.inverse(g))
    _refuse_above(group.distance(g), tol, f"{group}: samples lie in the group")
    _refuse_above(group.distance(group.compose(g, h)), tol, f"{group}: products lie in the group")
    _refuse_above(group.distance(group.inverse(g)), tol, f"{group}: inverses lie in the group")
    one = group.identity()
    _refuse_above(_gap(neutral, one), tol, f"{group}: g g⁻¹ = 1")
    _refuse_above(group.distance(group.generators()), tol, f"{group}: generators lie in the group")
    if group.order is not None:
        every = group.elements()
        _refuse_above(_gap(_take(every, 0), one), tol, f"{group}: the identity comes first")
        _refuse_above(group.distance(every), tol, f"{group}: listed elements lie in the group")
        parts = every if isinstance(every, tuple) else (every,)
        flat = torch.cat([part.flatten(1) for part in parts], 1)
        distinct = len(torch.unique((flat * 1e8).round(), dim=0))
        if distinct != group.order or len(flat) != group.order:
            raise EquivarianceError(
                f"{group} lists {len(flat)} elements, {distinct} distinct; its order is "
                f"{group.order}."
            )


def _take(g: Elements, i: int) -> Elements:
    return tuple(part[i] for part in g) if isinstance(g, tuple) else g[i]


def _gap(g: Elements, h: Elements) -> Tensor:
    if isinstance(g, tuple):
        return torch.stack([_gap(a, b).amax() for a, b in zip(g, h, strict=True)])
    return (g - h).abs()


def check_representation(
    rep: Representation, group: str | Group, *, samples: int = 16, tol: float = 1e-9
) -> None:
    """*ρ(gh) = ρ(g) ρ(h), ρ(1) = 1, and ρ(g) is invertible by ρ(g⁻¹)*, all through `act`.

    Raises:
        EquivarianceError: the first law that fails, with its figure.
    """
    group = parse_group(group)
    rng = torch.Generator().manual_seed(0)
    g, h = group.sample(samples, generator=rng), group.sample(samples, generator=rng)
    rep = rep.of_size(rep.size or 3)
    x = torch.randn(samples, 3, rep.size, generator=rng, dtype=torch.float64)
    x = x + 1j * x.roll(1, 0) if group.complex else x
    both = rep.act(group.compose(g, h), x)
    _refuse_above(
        (both - rep.act(g, rep.act(h, x))).abs(), tol, f"{rep} of {group}: ρ(gh) = ρ(g)ρ(h)"
    )
    back = rep.act(group.inverse(g), rep.act(g, x))
    _refuse_above((back - x).abs(), tol, f"{rep} of {group}: ρ(g⁻¹)ρ(g) = 1")


def check_frame(
    frame: Frame,
    group: str | Group,
    x: Tensor,
    *,
    signature: str = "b n v -> b k",
    samples: int = 4,
    tol: float | None = None,
) -> None:
    """*μ_{hx} = h_* μ_x as sets with weights; the support lies in G; weights sum to one.*

    `x` fits the one input of `signature`, which the frame reads. Elements that act alike on x are
    different elements: a design around a stabiliser is compared through the averages it gives, so
    use `assert_equivariant` on symmetric inputs.

    Raises:
        EquivarianceError: the first law that fails, with its figure.
    """
    from .frames import read_inputs

    group = parse_group(group)
    sig = Signature.parse(signature, group)
    kind = sig.inputs[0][1]
    allowed = tolerance(x.dtype) if tol is None else tol

    def measure(value: Tensor) -> GroupMeasure:
        typed = read_inputs({"x": kind}, (value,))
        return frame(group, **frame.read(group, typed, None))

    mu = measure(x)
    sums = mu.weights.sum(-1)
    _refuse_above((sums - 1).abs(), 1e-6, "weights sum to one")
    supported = group.distance(mu.elements) * (mu.weights > 0)
    _refuse_above(supported, max(allowed, 1e-6), "the support lies in the group")
    rng = torch.Generator().manual_seed(0)
    for i in range(samples):
        h = group.sample(1, generator=rng, device=x.device)
        front = kind.to_front(x)
        moved = kind.from_front(
            kind.act(h, front.to(torch.promote_types(x.dtype, torch.float64)), 1).to(x.dtype),
            kind.leading(x),
        )
        there = measure(moved)
        expected = group.compose(h, mu.elements)
        _refuse_above(
            _set_gap(expected, mu.weights, there), allowed * 10, f"μ_hx = h μ_x (sample {i})"
        )


def _set_gap(elements: Tensor, weights: Tensor, other: GroupMeasure) -> Tensor:
    """How far every supported element is from its like in the other measure, and the weight
    there.
    """
    apart = elements.unsqueeze(2) - other.elements.unsqueeze(1)
    apart = apart if apart.is_complex() else apart.double()  # indices of permutations too
    gap = apart.flatten(3).norm(dim=-1)  # [b, k, k']
    absent = torch.full_like(gap, float("inf"))
    near = torch.where(other.weights.unsqueeze(1) > 0, gap, absent).amin(-1)
    far = torch.where(weights.unsqueeze(2) > 0, gap, absent).amin(1)
    return torch.cat(
        [
            torch.where(weights > 0, near, torch.zeros_like(near)),
            torch.where(other.weights > 0, far, torch.zeros_like(far)),
        ],
        -1,
    )
