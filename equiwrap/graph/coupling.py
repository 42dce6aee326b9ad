"""Modules in which the samples of a batch meet: found by changing all samples but the first."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import BoundArguments, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_unflatten,
)

from ..testing import tolerance

__all__ = ["SIZES", "Axes", "Call", "alone", "batch", "first", "gap", "indexes", "isolated"]
__all__ += ["outputs", "scaling"]

SIZES = (2, 3, 5)  # coprime, so that an axis of features is not taken for the batch

Axes = tuple[int | None, ...]
Key = tuple[str, str, int, int]  # "in" or "out", the module, its call, the leaf


class Call:
    """One call whose tensors can be replaced: `tensors` in order, and their `names`."""

    def __init__(self, net: nn.Module, args: Any, kwargs: Any, seed: int) -> None:
        self.net, self.seed = net, seed
        self.bound = signature(net.forward).bind(*args, **kwargs)
        found, self.spec = tree_flatten_with_path(dict(self.bound.arguments))
        self.leaves = [leaf for _, leaf in found]
        self.places = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor)]
        self.names = [re.sub(r"^\['(\w+)'\]", r"\1", keystr(found[i][0])) for i in self.places]
        self.tensors = [self.leaves[i].detach() for i in self.places]
        kinds = {x.dtype for x in (*net.parameters(), *self.tensors)}
        real = {kind.to_real() for kind in kinds if kind.is_floating_point or kind.is_complex}
        self.state = [
            (m, n, b.clone()) for m in net.modules() for n, b in m.named_buffers(recurse=False)
        ]
        self.allowed = max([tolerance(kind) for kind in real], default=tolerance(torch.float32))

    def __call__(self, tensors: Sequence[Tensor], other: int = 0) -> Any:
        leaves = list(self.leaves)
        for i, x in zip(self.places, tensors, strict=True):
            leaves[i] = x.clone().requires_grad_(leaves[i].requires_grad)
        arguments = tree_unflatten(leaves, self.spec)
        bound = BoundArguments(self.bound.signature, arguments)  # type: ignore[arg-type]
        for module, name, buffer in self.state:  # every call begins with the same statistics
            setattr(module, name, buffer.clone())
        torch.manual_seed(self.seed + other)
        return self.net(*bound.args, **bound.kwargs)

    def take(self, axes: Axes, index: Sequence[int]) -> list[Tensor]:
        """The samples of these numbers: the example's own, and varied ones after them."""
        pairs = zip(self.tensors, axes, strict=True)
        return [x if a is None else _samples(x, a, index) for x, a in pairs]

    def small(self, axes: Axes, index: Sequence[int]) -> list[Tensor]:
        """`take`, with integers that may index the batch kept below its least size."""
        n, top = batch(self.tensors, axes), min(SIZES) - 1
        return [x.clamp(max=top) if indexes(x, n) else x for x in self.take(axes, index)]


def _samples(x: Tensor, axis: int, index: Sequence[int]) -> Tensor:
    n, parts = x.shape[axis], []
    for i in index:
        one = x.narrow(axis, i % n, 1)
        if i >= n and (x.is_floating_point() or x.is_complex()):
            rng = torch.Generator().manual_seed(i)
            noise = 1 - 0.3 * torch.rand(one.shape, generator=rng, dtype=torch.float64)
            one = one * noise.to(x.device, x.dtype)
        elif i >= n and x.ndim > 1 and x.dtype != torch.bool:
            one = one.roll(i // n, -1 if axis < x.ndim - 1 else 0)
        parts.append(one)
    return torch.cat(parts, axis)


def batch(tensors: Sequence[Tensor], axes: Axes) -> int:
    """The number of samples."""
    return next(x.shape[a] for x, a in zip(tensors, axes, strict=True) if a is not None)


def indexes(x: Tensor, n: int) -> bool:
    """Whether these could be numbers of n rows."""
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool or not x.numel():
        return False
    return int(x.min()) >= 0 and 0 < int(x.max()) < n


def outputs(y: Any) -> dict[str, Tensor]:
    """The tensors of an output by name: `return`, `return[0]`, `return['energy']`."""
    found = tree_flatten_with_path(y)[0]
    return {f"return{keystr(p)}": x.detach() for p, x in found if isinstance(x, Tensor)}


def gap(a: Tensor, b: Tensor | None) -> float:
    """*max |a − b| / max |b|*, infinite for other shapes and for integers that differ."""
    if b is None or a.shape != b.shape or a.dtype != b.dtype:
        return torch.inf
    same = (a == b) | ((a != a) & (b != b))
    if bool(same.all()):
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return torch.inf
    a, b = (x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in (a, b))
    size = torch.where(b.isfinite(), b.abs(), 0.0).amax()
    return float((torch.where(same, 0.0, (a - b).abs()).nan_to_num(torch.inf) / size).amax())


def scaling(shapes: Sequence[torch.Size]) -> tuple[int | None, int] | None:
    """The axis that grows with `SIZES`, and its entries a sample; None for anything else."""
    if len({len(shape) for shape in shapes}) > 1:
        return None
    moving = [a for a, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
    if not moving:
        return None, 0
    per = shapes[0][moving[0]] // SIZES[0]
    fits = all(s[moving[0]] == per * m for s, m in zip(shapes, SIZES, strict=True))
    return (moving[0], per) if fits and len(moving) == 1 else None


def first(call: Call, axes: Axes, tries: int = max(SIZES)) -> str | None:
    """The first module whose output for one sample moves, its inputs for that sample being the
    same: the other samples are changed, then all equal to it, then fewer; `tries` samples in turn.
    """
    where = _places(call, axes)

    def own(key: Key, x: Tensor) -> Tensor | None:
        axis, per = where.get(key, (None, 0))
        return x.detach().select(axis, 0).clone() if axis is not None and per == 1 else None

    def run(index: Sequence[int]) -> dict[Key, tuple[str, Tensor]]:
        return _trace(call, call.small(axes, index), own)

    for i in range(tries):
        every = [(i + j) % max(SIZES) for j in range(max(SIZES))]
        base = run(every)
        for there in ([i, *range(5, 9)], [i] * len(every), every[: SIZES[1]], every[: SIZES[0]]):
            moved = run(there)
            for key, (owner, x) in base.items():
                if key in moved and gap(moved[key][1], x) > call.allowed:
                    return _title(call.net, owner)
    return None


def alone(call: Call, axes: Axes) -> list[str]:
    """The smallest modules that couple samples, each tried by itself on what it is given.

    All samples of its inputs but the first are multiplied by three.
    """
    where = _places(call, axes)
    seen: Counter[str] = Counter()
    found: dict[str, None] = {}
    busy: list[str] = []

    def try_alone(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if busy:  # a part of the module that is tried
            return
        seen[name] += 1
        leaves, spec = tree_flatten((args, kwargs))
        state = {n: b.clone() for n, b in module.named_buffers(recurse=False)}

        def run(factor: int) -> list[Tensor]:
            given = []
            for i, x in enumerate(leaves):
                axis, per = where.get(("in", name, seen[name], i), (None, 0))
                if isinstance(x, Tensor):
                    x = x.clone()
                    if axis is not None and (x.is_floating_point() or x.is_complex()):
                        x.narrow(axis, per, x.shape[axis] - per).mul_(factor)
                given.append(x)
            again, named = tree_unflatten(given, spec)
            torch.manual_seed(call.seed)
            out = tree_leaves(module.forward(*again, **named))
            for n, b in state.items():
                setattr(module, n, b.clone())
            places = [where.get(("out", name, seen[name], i)) for i in range(len(out))]
            return [x.narrow(*p[:1], 0, p[1]) for x, p in zip(out, places, strict=True) if p]

        busy.append(name)
        try:
            pairs = list(zip(run(1), run(3), strict=True))
        except Exception:  # it refuses the changed samples
            return
        finally:
            busy.clear()
        if any(gap(b, a) > call.allowed for a, b in pairs):
            found[name] = None

    small = [(n, m) for n, m in call.net.named_modules() if _small(m)]
    hooks = [m.register_forward_pre_hook(partial(try_alone, n), with_kwargs=True) for n, m in small]
    try:
        call(call.small(axes, range(max(SIZES))))
    finally:
        for hook in hooks:
            hook.remove()
    inner = [
        n for n in found if not any(m != n and m.startswith(f"{n}." if n else n) for m in found)
    ]
    return [_title(call.net, name) for name in inner]


def _places(call: Call, axes: Axes) -> dict[Key, tuple[int, int]]:
    """The batch axis of everything that enters or leaves a module, and its entries a sample."""
    runs = [_trace(call, call.small(axes, range(m)), lambda _, x: x.shape) for m in SIZES]
    common = [key for key in runs[0] if all(key in run for run in runs)]
    found = {key: scaling([run[key][1] for run in runs]) for key in common}
    return {k: (s[0], s[1]) for k, s in found.items() if s is not None and s[0] is not None}


def _trace(
    call: Call, tensors: Sequence[Tensor], keep: Callable[[Key, Tensor], Any]
) -> dict[Key, tuple[str, Any]]:
    """What `keep` gives for every tensor that enters or leaves a module, and whose code made it."""
    kept: dict[Key, tuple[str, Any]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    stack: list[str] = []

    def note(kind: str, name: str, owner: str, tree: Any) -> None:
        seen[kind, name] += 1
        for i, x in enumerate(tree_leaves(tree)):
            key = (kind, name, seen[kind, name], i)
            value = keep(key, x) if isinstance(x, Tensor) else None
            if value is not None:
                kept[key] = owner, value

    def before(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        note("in", name, stack[-1] if stack else name, (args, kwargs))
        stack.append(name)

    def after(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        note("out", name, stack.pop(), out)

    hooks = []
    for name, module in call.net.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(before, name), with_kwargs=True))
        hooks.append(module.register_forward_hook(partial(after, name), with_kwargs=True))
    try:
        call(tensors)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def _small(module: nn.Module) -> bool:
    """No children, or statistics of its own, as a normalisation that holds its activation."""
    return not any(module.children()) or any(True for _ in module.buffers(recurse=False))


def _title(net: nn.Module, name: str) -> str:
    module = net.get_submodule(name)
    kind = type(module).__name__
    own = "" if _small(module) else ", in its own forward"
    return f"{name} ({kind}){own}" if name else f"{kind}{own}"


@contextmanager
def isolated(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model without dropout; the model itself, put back after, if none can be had."""
    try:
        net = copy.deepcopy(model)
    except Exception:  # tensors of a graph, locks, handles
        net = model
    modes = [(m, m.training) for m in net.modules()]
    kept = [(m, n, b, b.clone()) for m, _ in modes for n, b in m.named_buffers(recurse=False)]
    rates = [
        (m, name, value)
        for m, _ in modes
        for name, value in vars(m).items()
        if isinstance(value, float)
        and ("drop" in name or (name == "p" and "drop" in type(m).__name__.lower()))
    ]
    try:
        for m, name, _ in rates:
            setattr(m, name, 0.0)
        yield net
    finally:
        for m, name, rate in rates:
            setattr(m, name, rate)
        for m, mode in modes:
            m.training = mode
        with torch.no_grad():
            for m, name, buffer, value in kept:
                setattr(m, name, buffer.copy_(value))
