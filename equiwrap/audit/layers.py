"""Layer by layer in one folded pass: what has accumulated at a node, and what the node itself adds.

    [x, g x] ──▶ node ──▶ [h(x), h(g x)]      accumulated: ‖h(gx) − ρ h(x)‖ / ‖h(gx)‖
                ρ inputs of h(x) ──▶ node     own:         ‖f(ρ·) − ρ f(·)‖ / ‖f(ρ·)‖

Functional nodes and residual adds are nodes like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..graph.kinds import Kind, Untyped
from ..graph.propagate import Site, Typing
from ..graph.rules import Const
from ..graph.snap import folded
from ..graph.twin import held_random
from ..graph.walk import Visit
from ..groups import Elements, Group
from ..measure import infinitesimal
from ..measure.lie import drift

__all__ = ["Key", "Row", "added", "breaks", "layerwise", "lie_layerwise"]

Key = tuple[str, int, str]
DEAD = 1e-6  # an output that varies less than this over inputs says nothing


@dataclass(frozen=True)
class Row:
    """The numbers of one node; None where they cannot be had, `dead` where it gives one value."""

    error: float | None
    own: float | None
    dead: bool


class _Sums:
    """Squares of many nodes, kept on the device and read once."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.found: list[Tensor] = []

    def add(self, key: Key, *numbers: Tensor) -> None:
        self.keys.append(key)
        self.found.append(torch.stack([n.detach().double() for n in numbers]))

    def read(self) -> dict[Key, list[float]]:
        if not self.found:
            return {}
        return dict(zip(self.keys, torch.stack(self.found).tolist(), strict=True))


def layerwise(
    twin: nn.Module, typing: Typing, g: Elements, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[Key, Row]:
    """Accumulated and own error of every typed node under one element.

    `typing` was propagated on a folded example of this size. Costs the folded pass, half of it
    again for the own errors, and the comparisons. A node whose outputs do not vary over the inputs
    is dead: it has no error, rather than none.

    Error: rounding; agrees with two separate runs to 1e-6 in float32.
    """
    sums = _Sums()

    def visitor(visit: Visit, run: Callable[[], Any]) -> Any:
        site = typing.sites.get(visit.at.key)
        held = _held(visit, site)
        value = run()
        if site is None or site.kind is None:
            return value
        kind, tensor = _first(site.kind, value)
        if kind is None:
            return value
        try:
            here, there = kind.part(tensor, 0, 2), kind.part(tensor, 1, 2)
            moved = kind.act(typing.group, g, here)
        except Untyped:
            return value
        size = _square(there)
        own = _own(typing, g, visit, site, held, moved) if breaks(site) else (size * 0, size)
        parts = own if own is not None else (size * torch.nan, size)
        sums.add(visit.at.key, _square(there - moved), size, *_variation(kind, here), *parts)
        return value

    pair = folded(typing, g, inputs, kwargs)
    with torch.no_grad(), held_random(), typing.walk.visited(twin, visitor):
        twin(*pair[0], **pair[1])
    return {key: _row(numbers) for key, numbers in sums.read().items()}


def _row(numbers: list[float]) -> Row:
    gap, size, spread, one, own, power = numbers
    dead = not spread > DEAD**2 * one
    return Row(
        None if dead or not size > 0 else (gap / size) ** 0.5,
        None if dead or not power > 0 or own != own else (own / power) ** 0.5,
        dead,
    )


def breaks(site: Site) -> bool:
    """True where an operation may break the symmetry by itself: it samples a grid, or has weights.

    All others are equivariant by their rules, which the probe of the audit has checked.
    """
    return bool(site.weights or site.broken) or site.operation in _SAMPLES


def _variation(kind: Kind, here: Tensor) -> tuple[Tensor, Tensor]:
    """How much two inputs differ at a node, and the size of one; one input tells nothing."""
    axis = _batch_axis(kind)
    if here.shape[axis] < 2:
        one = _square(here)
        return one, one
    a, b = here.select(axis, 0), here.select(axis, here.shape[axis] // 2)
    return _square(a - b), _square(a)


_SAMPLES = """MaxPool2d AvgPool2d AdaptiveAvgPool2d AdaptiveMaxPool2d max_pool2d avg_pool2d pad
adaptive_avg_pool2d adaptive_max_pool2d interpolate Upsample conv2d Conv2d conv_transpose2d roll
ConvTranspose2d boolean_dispatch ZeroPad2d ReflectionPad2d ReplicationPad2d ConstantPad2d
MultiheadAttention PixelShuffle lp_pool2d upsample"""


def added(
    typing: Typing, g: Elements, visit: Visit, run: Callable[[], Any]
) -> tuple[Any, float | None]:
    """The value of a node, and ‖f(ρ·) − ρ f(·)‖ of the operation itself; None without a type."""
    site = typing.sites.get(visit.at.key)
    held = _held(visit, site)
    value = run()
    kind, tensor = _first(site.kind, value) if site is not None else (None, None)
    if site is None or kind is None or tensor is None:
        return value, None
    if visit.inner or not breaks(site):
        return value, 0.0
    try:
        moved = kind.act(typing.group, g, kind.part(tensor, 0, 2))
    except Untyped:
        return value, None
    own = _own(typing, g, visit, site, held, moved)
    return value, None if own is None else float(own[0]) ** 0.5


def _held(visit: Visit, site: Site | None) -> Any:
    """Arguments that an operation in place would overwrite."""
    name = visit.at.operation
    if (
        site is None
        or not breaks(site)
        or visit.inner
        or not (name.endswith("_") or _inplace(visit))
    ):
        return None
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in visit.args)


def _inplace(visit: Visit) -> bool:
    module = visit.run if isinstance(visit.run, nn.Module) else None
    return bool(getattr(module, "inplace", False)) or visit.kwargs.get("inplace", False)


def _own(
    typing: Typing, g: Elements, visit: Visit, site: Site, held: Any, moved: Tensor
) -> tuple[Tensor, Tensor] | None:
    """(‖f(ρ·) − ρ f(·)‖², ‖f(ρ·)‖²) of the operation itself; None for containers and refusals."""
    if visit.inner:
        return None
    given = held if held is not None else visit.args
    kind = _first(site.kind, moved)[0]
    size = (moved.shape[_batch_axis(kind)] if kind is not None else 0, moved.dim())
    for halved in (None, size):  # constants as they are, or those repeated for every sample halved
        try:
            args = _moved(typing, g, site.inputs, given, halved)
            pairs = [(k, site.keywords.get(k), v) for k, v in visit.kwargs.items()]
            named = {name: _moved(typing, g, k, v, halved) for name, k, v in pairs}
            found = _first(site.kind, visit.run(*args, **named))[1]
        except (Untyped, RuntimeError, TypeError, ValueError, IndexError):
            continue
        if isinstance(found, Tensor) and found.shape == moved.shape:
            return _square(found - moved), _square(found)
    return None


def _moved(
    typing: Typing, g: Elements, kind: Any, value: Any, halved: tuple[int, int] | None
) -> Any:
    """ρ on the first half of an argument, following the structure of its type.

    `halved`: the number of samples and of axes of constants that were repeated for every sample.

    Raises:
        Untyped: a tensor among the arguments has no type.
    """
    if isinstance(value, Tensor):
        if isinstance(kind, Kind):
            return kind.act(typing.group, g, kind.part(value, 0, 2))
        if isinstance(kind, Const):
            half, rank = halved or (0, -1)
            repeated = value.dim() == rank and value.shape[0] == 2 * half
            return value[:half] if repeated else value
        raise Untyped("has an argument without a type")
    if isinstance(value, (tuple, list)):
        kinds = kind if isinstance(kind, (tuple, list)) else [None] * len(value)
        pairs = zip(kinds, value, strict=False)
        return type(value)(_moved(typing, g, k, v, halved) for k, v in pairs)
    return value


def _first(kind: Any, value: Any) -> tuple[Kind | None, Any]:
    """The first typed tensor of a result."""
    if isinstance(value, (tuple, list)):
        kinds = kind if isinstance(kind, (tuple, list)) else [kind] * len(value)
        for k, v in zip(kinds, value, strict=False):
            if isinstance(k, Kind) and isinstance(v, Tensor):
                return k, v
        return None, None
    typed = isinstance(kind, Kind) and isinstance(value, Tensor) and value.is_floating_point()
    return (kind, value) if typed else (None, None)


def _batch_axis(kind: Kind) -> int:
    return next(i for i, axis in enumerate(kind.axes) for a in axis[0] if a.name == "b")


def _square(x: Tensor) -> Tensor:
    flat = x.detach().flatten()
    return torch.dot(flat, flat) if flat.is_contiguous() else flat.square().sum()


# -- derivatives -----------------------------------------------------------------------------------


def lie_layerwise(
    twin: nn.Module, typing: Typing, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[Key, float]:
    """*‖dρ(X) h − J_h dρ(X) x‖ / ‖h‖* per radian, where a grid is sampled, weighed or added up.

    For a continuous planar group; one pass in forward mode, in which every value carries its
    derivative along the rotation of the input. Nodes with a plain grid, or none.

    Error: 1e-6 relative in float32.
    Source: Gruver et al. 2023 (layerwise LEE), with exact tangents instead of double backward.
    """
    group = typing.group
    x_dot = group.algebra(inputs[0].device)[0]  # type: ignore[attr-defined]
    sums = _Sums()

    def visitor(visit: Visit, run: Callable[[], Any]) -> Any:
        value = run()
        site = typing.sites.get(visit.at.key)
        told = site is not None and (breaks(site) or site.operation.startswith("add"))
        kind, tensor = _first(site.kind, value) if site is not None and told else (None, None)
        if kind is None or tensor is None:
            return value
        plain, pushed = forward_ad.unpack_dual(tensor)
        turned = _turned(kind, group, x_dot, plain)
        if turned is not None:
            gap = turned - (pushed if pushed is not None else torch.zeros_like(plain))
            sums.add(visit.at.key, _square(gap), _square(plain))
        return value

    kinds = [kind for _, kind in typing.signature.inputs]
    with (
        torch.no_grad(),
        held_random(),
        sdpa_kernel(SDPBackend.MATH),
        forward_ad.dual_level(),
        typing.walk.visited(twin, visitor),
    ):
        duals = [
            forward_ad.make_dual(x, infinitesimal(kind, x_dot, x))
            if isinstance(x, Tensor) and not kind.untouched
            else x
            for x, kind in zip(inputs, kinds, strict=False)
        ]
        twin(*duals, *inputs[len(duals) :], **kwargs)
    found = sums.read()
    return {key: (gap / size) ** 0.5 for key, (gap, size) in found.items() if size > 0}


def _turned(kind: Kind, group: Group, x_dot: Tensor, value: Tensor) -> Tensor | None:
    """dρ(X) of a value with a plain grid; zero without one; None where the grid is cut."""
    if not kind.moves:
        return torch.zeros_like(value)
    places = kind.plain_grid()
    if places is None:
        return None
    return drift(group, x_dot, value.movedim(places, (-2, -1))).movedim((-2, -1), places)
