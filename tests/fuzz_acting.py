"""How elements act, the slow way: a dense matrix for every axis, a loop over pixels, one sample."""

from __future__ import annotations

import functools
from typing import Any

import torch
from fuzz_models import axes_of, length
from torch import Tensor

from equiwrap.frames import TypedInput
from equiwrap.groups import Group, Permutations, Product, Scale, Shifts

__all__ = ["act", "inverse", "leaves", "single", "slow_average", "spread"]


def leaves(sig, out: Any) -> list[Tensor]:
    """The outputs in declared order."""
    if sig.form == "one":
        return [out]
    if sig.form == "tuple":
        return list(out)
    return [out[n] if isinstance(out, dict) else getattr(out, n) for n, _ in sig.outputs]


def spread(x: Tensor) -> float:
    """max |x|, over what is finite."""
    x = x.detach().abs()
    return float(x[x.isfinite()].amax()) if x.isfinite().any() else 0.0


def single(x: Any, pattern: str, i: int) -> Any:
    """Sample i of an argument, its batch axis kept."""
    if not isinstance(x, Tensor):
        return x
    at = 0 if pattern == "_" else axes_of(pattern).index("b")
    return x.narrow(at, i, 1)


def inverse(group: Group, g: Any) -> Any:
    """g⁻¹ of one element."""
    if isinstance(group, Product):
        return tuple(inverse(f, part) for f, part in zip(group.factors, g, strict=True))
    if isinstance(group, Shifts):
        return -g
    if isinstance(group, Permutations):
        return g.argsort(-1)
    return torch.linalg.inv(g) if g.any() else g  # scale 0, of a sample of zeros


def act(drawn, pattern: str, group: Group, g: Any, x: Tensor) -> Tensor:
    """*ρ(g) x* of one element, in double precision, back to the dtype of x."""
    axes, grid = axes_of(pattern), ()
    y = x.to(torch.promote_types(x.dtype, torch.float64))
    if drawn.kind in ("image", "grid", "voxel"):
        grid = ("d", "h", "w") if drawn.kind == "voxel" else ("h", "w")
    if "(h w)" in axes:
        at = axes.index("(h w)")
        y = y.unflatten(at, (drawn.sizes["h"], drawn.sizes["w"]))
        axes[at : at + 1] = ["h", "w"]
    if grid and grid[-1] in axes:
        at = axes.index(grid[0])
        y = _pixels(group, g, y, at, len(grid))
    for i, axis in enumerate(axes):
        if axis in ("b", "(b n)", *grid):
            continue
        matrix, shift = _dense(drawn, axis, group, g)
        if matrix is not None:
            y = (y.movedim(i, -1) @ matrix.to(y.dtype).mT + shift.to(y.dtype)).movedim(-1, i)
    return y.reshape(x.shape).to(x.dtype)


def _dense(drawn, axis: str, group: Group, g: Any) -> tuple[Any, Any]:
    """The matrix and the shift on one axis; None where it rests."""
    terms = axis.strip("()").split("+")
    matrices, shifts, moves = [], [], False
    for term in terms:
        matrix, shift = torch.ones(1, 1, dtype=torch.float64), None
        for name in term.split():
            own = _letter(drawn, name, group, g)
            moves = moves or own is not None
            if own is None:
                own = torch.eye(length(name, drawn, 0), dtype=torch.float64), None
            matrix = torch.kron(matrix.to(own[0].dtype), own[0].contiguous())
            shift = own[1] if shift is None else shift
        if shift is not None and len(term.split()) > 1:
            shift = shift.repeat(len(matrix) // len(shift))
        matrices.append(matrix)
        shifts.append(torch.zeros(len(matrix), dtype=torch.float64) if shift is None else shift)
    if not moves:
        return None, None
    return torch.block_diag(*matrices), torch.cat(shifts)


def _letter(drawn, name: str, group: Group, g: Any) -> Any:
    """(matrix, shift or None) of a letter; None where the group does not move it."""
    if isinstance(group, Product):
        found = [_letter(drawn, name, f, part) for f, part in zip(group.factors, g, strict=True)]
        found = [pair for pair in found if pair is not None]
        if len(found) == 2 and isinstance(group.factors[0], Scale):
            return found[0][0] @ found[1][0], None
        return found[-1] if found else None
    if isinstance(group, Permutations):
        return (torch.eye(len(g), dtype=torch.float64)[g], None) if name == "n" else None
    if isinstance(group, Shifts):
        return None
    if isinstance(group, Scale):
        return (
            (g.reshape(()) * torch.eye(drawn.sizes["v"], dtype=g.dtype), None)
            if name == "v"
            else None
        )
    d = drawn.sizes.get("v", 0)
    linear = g[:d, :d]
    if name == "v":
        return linear, None
    if name == "p" and group.affine:
        return linear, g[:d, d]
    if name == "a" and not linear.is_complex():
        det = torch.linalg.det(linear).round()
        return (det * linear if d == 3 else det.reshape(1, 1)), None
    if name == "r" and group.order is not None:
        table = group.elements()
        index = [int((table - g @ h).abs().flatten(1).sum(1).argmin()) for h in table]
        return torch.eye(len(table), dtype=torch.float64)[:, index].mT.mT[:, :].clone(), None
    return None


def _pixels(group: Group, g: Tensor, x: Tensor, at: int, count: int) -> Tensor:
    """*(g x)(r) = x(g⁻¹ r)*, pixel by pixel."""
    if isinstance(group, Shifts):
        return x.roll(tuple(int(t) for t in g), (at, at + 1))
    sides = tuple(x.shape[at : at + count])
    whole = tuple(int(v) for v in g.round().flatten().tolist())
    index = torch.tensor(_table(whole, sides))
    flat = x.flatten(at, at + count - 1)
    return flat.index_select(at, index).unflatten(at, sides)


@functools.lru_cache(maxsize=512)
def _table(g: tuple[int, ...], sides: tuple[int, ...]) -> list[int]:
    """The flat index that each pixel is read from; coordinates are doubled, x y z."""
    m, found = len(sides), []
    for flat in range(torch.Size(sides).numel()):
        rest, place = flat, []
        for side in reversed(sides):
            place.append(2 * (rest % side) - (side - 1))
            rest //= side
        back = [sum(g[j * m + i] * place[j] for j in range(m)) for i in range(m)]  # gᵀ r
        index = 0
        for axis, side in enumerate(sides):
            index = index * side + (back[m - 1 - axis] + side - 1) // 2
        found.append(index)
    return found


def slow_average(drawn, net, frame, sig, inputs) -> list[Tensor] | None:
    """*Σ_k w_k ρ_out(g_k) f(ρ_in(g_k)⁻¹ x)*: one sample, one element at a time."""
    if drawn.kind == "image" and drawn.group in ("C3", "C8"):
        return None
    rows = None
    if drawn.kind == "ragged":
        batch = inputs[1]
        rows = [batch == i for i in range(int(batch.max()) + 1)]
    parts: list[list[Tensor]] = []
    count = len(rows) if rows is not None else 3
    for i in range(count):
        one = _sample(drawn, inputs, i, rows)
        measure, group = _measure(drawn, frame, sig, one)
        if measure is None:
            return None
        total: list[Any] = [None] * len(sig.outputs)
        weights = measure.weights[0]
        for k in range(len(weights)):
            if float(weights[k]) == 0:
                continue
            g = torch.utils._pytree.tree_map(lambda e, k=k: e[0, k], measure.elements)
            back = inverse(group, g)
            moved = [
                x if p == "_" else act(drawn, p, group, back, x)
                for (_, p), x in zip(drawn.inputs, one, strict=True)
            ]
            outs = leaves(sig, net(*moved))
            for j, ((_, kind), y) in enumerate(zip(sig.outputs, outs, strict=True)):
                y = y.to(torch.promote_types(y.dtype, torch.float64))
                y = act(drawn, str(kind), group, g, y) * float(weights[k])
                total[j] = y if total[j] is None else total[j] + y
        parts.append([t.to(y.dtype) for t, y in zip(total, outs, strict=True)])
    joined = zip(*parts, strict=True)
    axes = [kind.batch or 0 for _, kind in sig.outputs]
    return [torch.cat(rows, axis) for rows, axis in zip(joined, axes, strict=True)]


def _sample(drawn, inputs, i: int, rows) -> list[Any]:
    if rows is not None:
        return [inputs[0][rows[i]], torch.zeros_like(inputs[1][rows[i]])]
    return [single(x, p, i) for (_, p), x in zip(drawn.inputs, inputs, strict=True)]


def _measure(drawn, frame, sig, one) -> tuple[Any, Any]:
    """The frame's measure of one sample; None where it stands for further averages."""
    typed, sizes, mask = [], {}, None
    for (name, kind), x in zip(sig.inputs, one, strict=True):
        if kind.untouched:
            mask = x.bool() if (name or "") == "mask" else mask
            continue
        if kind.ragged:
            typed.append(TypedInput(kind.padded, x[None]))
            mask = torch.ones(1, len(x), dtype=torch.bool)
            continue
        typed.append(TypedInput(kind, kind.to_front(x)))
        sizes |= kind.sizes(kind.to_front(x))
    group = sig.group.at(sizes)
    measure = frame(sig.group, **frame.read(sig.group, typed, mask))
    return (None if measure.orbits is not None else measure), group
