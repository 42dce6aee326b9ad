"""The comparison that a plan must pass: outputs, gradients, buffers and random numbers, bitwise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .install import install_plans
from .level import said
from .plan import Plan
from .twin import fresh, seed_all, twin_of

__all__ = ["faithful"]

DIFFERS = "its graph does not give what its forward gives"
RANDOM = "cannot be compared: the model does not repeat itself"


def faithful(
    model: nn.Module, training: bool, args: Any, kwargs: Any, plans: dict[str, list[Plan]]
) -> dict[str, str]:
    """The paths whose plans do not give what the original forward gives, and the reason.

    All plans run at once; halves of them only where that differs, until each culprit is found.
    """

    def trace(paths: list[str]) -> list[Any]:
        return _trace(model, training, args, kwargs, {path: plans[path] for path in paths})

    def wrong(paths: list[str]) -> list[str]:
        if _equal(trace(paths), wanted):
            return []
        if len(paths) == 1:
            return paths
        middle = len(paths) // 2
        return wrong(paths[:middle]) + wrong(paths[middle:])

    wanted, paths = trace([]), list(plans)
    if not paths or _equal(trace(paths), wanted):
        return {}
    if not _equal(trace([]), wanted):
        return dict.fromkeys(paths, RANDOM)
    found = wrong(paths)
    kept = [path for path in paths if path not in found]
    if not found or not _equal(trace(kept), wanted):
        found = paths  # they differ only together
    return dict.fromkeys(found, DIFFERS)


def _trace(
    model: nn.Module, training: bool, args: Any, kwargs: Any, plans: dict[str, list[Plan]]
) -> list[Any]:
    """Everything that a call leaves: outputs, gradients, buffers, the next random number."""
    twin = twin_of(model, training)
    for path, some in plans.items():
        install_plans(twin.get_submodule(path), some)
    args, kwargs = fresh((args, kwargs))
    seed_all(0)
    found: list[Any] = []
    try:
        with torch.enable_grad():
            out = tree_flatten(twin(*args, **kwargs))[0]
            found += [*out, torch.rand(4)]
            found += _gradients(twin, out)
    except Exception as error:
        found.append(said(error))
    state = sorted(twin.named_buffers(), key=lambda item: item[0])
    return found + [value for _, value in state]


def _gradients(twin: nn.Module, out: list[Any]) -> list[Any]:
    """Of a random functional of all differentiable outputs, over all parameters."""
    parameters = [p for p in twin.parameters() if p.requires_grad]
    scores = [
        (leaf * torch.randn_like(leaf)).abs().sum()
        for leaf in out
        if isinstance(leaf, Tensor)
        and leaf.requires_grad
        and (leaf.is_floating_point() or leaf.is_complex())
    ]
    if not scores or not parameters:
        return []
    return list(torch.autograd.grad(sum(scores), parameters, allow_unused=True))  # type: ignore[arg-type]


def _equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.shape == y.shape and x.dtype == y.dtype and torch.equal(*map(_bits, (x, y)))
    return type(x) is type(y) and (not _plainly(x) or x == y)


def _plainly(x: Any) -> bool:
    return x is None or isinstance(x, (bool, int, float, str))


def _bits(x: Tensor) -> Tensor:
    """NaNs compare equal to themselves."""
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj())
    return torch.nan_to_num(x) if x.is_floating_point() else x
