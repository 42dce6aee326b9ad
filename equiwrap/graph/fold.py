"""Whether one call on k batches folded into one gives what k calls give, and who is to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import BoundArguments
from itertools import chain, islice, product, zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .coupling import SIZES, Axes, Call, alone, batch, first, gap, indexes, isolated, outputs
from .coupling import scaling as scaling_of

__all__ = ["FoldReport", "check_fold"]

MOST = 16  # choices of axes that are tried for one batch size
SAMPLES = 4  # of the example that are folded, where it has more


@dataclass(frozen=True)
class FoldReport:
    """Whether folding was verified, and the batch axes by name, outputs under `return`."""

    axes: Mapping[str, int | None]
    foldable: bool
    reason: str
    culprit: str | None = None
    training_culprits: tuple[str, ...] = ()

    def __str__(self) -> str:
        axes = ", ".join(f"{k} {'none' if a is None else a}" for k, a in self.axes.items())
        rows = [
            ("fold", f"{'yes' if self.foldable else 'no, loop'}: {self.reason}"),
            ("axes", axes),
            ("culprit", self.culprit),
            ("training", "; ".join(self.training_culprits)),
        ]
        return "\n".join(f"{head:10} {text}" for head, text in rows if text)


def check_fold(
    model: nn.Module, *args: Any, factor: int = 3, seed: int = 0, **kwargs: Any
) -> FoldReport:
    """*f([x_1 … x_k]) = [f(x_1) … f(x_k)], k = `factor`*: tried in eval mode, dropout at zero.

    `args` and `kwargs` are those of one call, any nesting of tensors. An axis of an input is its
    batch axis if the model runs with 2, 3 and 5 samples there and some output has these sizes. Of
    several choices the first counts for which the equation holds, leading axes before others; a
    network that acts point by point may therefore fold along its points. Further samples are the
    example's with entries multiplied by numbers in [0.7, 1], so that zeros, signs and infinite
    masks stay; integers are reused. Tensors without such an axis, or of size one there, are shared.

    `culprit` is the first module whose output for one sample moves with the other samples or with
    their number while its inputs do not, or an input whose integers index the batch: relabelling
    rows and integers together changes nothing. `training_culprits` couple samples in training mode
    only, like batch normalisation, whose statistics are then those of the whole fold; one whose
    weights are zero couples nothing yet.

    A copy of the model is run on a few samples, some 30 times, in the caller's grad mode; the
    random state is put back. Where a model cannot be copied, its buffers, modes and dropout rates
    are put back too.

    Error: 1e-9 float64, 1e-4 float32, 2e-2 float16, 0.1 bfloat16 are allowed, relative to the
    largest entry; the coarsest dtype of parameters and inputs decides. Weaker coupling is not seen,
    nor is any on an example of zeros.

    Raises:
        ValueError: `factor` is below two.
    """
    if factor < 2:
        raise ValueError(f"factor={factor} was given; at least two copies are folded.")
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices), isolated(model) as net:
        call = Call(net.eval(), args, kwargs, seed)
        plain, again = outputs(call(call.tensors)), outputs(call(call.tensors, other=1))
        if any(gap(x, again.get(k)) > call.allowed for k, x in plain.items()):
            return FoldReport({}, False, "its output is random in eval, and cannot be compared")
        return _report(call, factor)


def _report(call: Call, factor: int) -> FoldReport:
    guess, reason = _search(call, factor)
    fits = guess is not None and guess.error <= call.allowed
    index = None if fits else _indexing(call)
    named: dict[str, int | None] = {}
    culprit: str | None = None
    training: tuple[str, ...] = ()
    if guess is not None:
        named = dict(zip(call.names, guess.axes, strict=True)) | guess.outputs
        reason = guess.words
    if index is not None:
        culprit, named[index[0]], reason = index
    elif guess is not None and not fits:
        culprit = first(call, guess.axes)
    if guess is not None:
        training = _training(call, guess.axes, culprit, fits)
    return FoldReport(named, fits, reason, culprit, training)


class _Guess(NamedTuple):
    axes: Axes
    outputs: dict[str, int | None]
    error: float
    words: str


def _search(call: Call, factor: int) -> tuple[_Guess | None, str]:
    """The choice of batch axes that folds, or the first that runs, or why none does."""
    best, said = None, ""
    for axes in _choices(call.tensors):
        outs = _probe(call, axes)
        if isinstance(outs, str):
            said = said or outs
            continue
        guess = _Guess(axes, outs, *_verify(call, axes, outs, factor))
        if guess.error <= call.allowed:
            return guess, ""
        best = best or guess
    return best, "" if best else _no_axis(call, said)


def _choices(tensors: Sequence[Tensor]) -> list[Axes]:
    """Axes of one size, one for each tensor that has such; after these, those with exceptions."""
    found: list[tuple[int, Axes]] = []
    columns = chain.from_iterable(zip_longest(*[x.shape for x in tensors]))
    for n in dict.fromkeys(size for size in columns if size):
        places = [[*[a for a, s in enumerate(x.shape) if s == n], None] for x in tensors]
        some = [axes for axes in islice(product(*places), MOST) if set(axes) != {None}]
        free = [len(place) > 1 for place in places]
        found += [
            (sum(a is None and f for a, f in zip(axes, free, strict=True)), axes) for axes in some
        ]
    return [axes for _, axes in sorted(found, key=lambda pair: pair[0])]


def _probe(call: Call, axes: Axes) -> dict[str, int | None] | str:
    """The batch axes of the outputs, or why the choice does not fit."""
    runs = []
    for m in SIZES:
        try:
            runs.append(outputs(call(call.small(axes, range(m)))))
        except Exception as error:
            return f"with {m} samples it raises {type(error).__name__}: {str(error)[:100]}"
    if len({tuple(run) for run in runs}) > 1:
        return "the structure of its output depends on the batch size"
    found: dict[str, int | None] = {}
    for key in runs[0]:
        shapes = [run[key].shape for run in runs]
        scaling = scaling_of(shapes)
        if scaling is None or scaling[1] > 1:
            said = ", ".join(str(list(shape)) for shape in shapes)
            return f"{key} has the shapes {said} at batch sizes {SIZES}"
        found[key] = scaling[0]
    if all(axis is None for axis in found.values()):
        return "no output grows with an axis of the inputs"
    return found


def _verify(call: Call, axes: Axes, outs: dict[str, int | None], factor: int) -> tuple[float, str]:
    """The largest relative difference of one folded call from a call a batch, in words too."""
    n = batch(call.tensors, axes)
    b = n if any(indexes(x, n) for x in call.tensors) else min(n, SAMPLES)
    order = [j * b + i for i in range(b) for j in range(factor)]
    shared, worst, where = [], 0.0, ""
    try:
        folded = outputs(call(call.take(axes, order)))
        loop = [outputs(call(call.take(axes, range(j * b, j * b + b)))) for j in range(factor)]
        for key, axis in outs.items():
            if axis is None:
                shared += [key] * any(gap(folded[key], y[key]) > call.allowed for y in loop)
                continue
            whole = torch.stack([y[key] for y in loop], axis + 1).flatten(axis, axis + 1)
            found = gap(folded[key], whole)
            worst, where = (found, key) if found > worst else (worst, where)
    except Exception as error:
        return torch.inf, f"one call on the fold raises {type(error).__name__}: {str(error)[:100]}"
    sizes = f"one call of {factor * b} samples and {factor} calls of {b}"
    words = f"{sizes} agree to {worst:.0e} ({call.allowed:.0e} allowed)"
    if worst > call.allowed:
        words = f"{where} of {sizes} differ by {worst:.1e} ({call.allowed:.0e} allowed)"
    if shared:
        words += f"; {', '.join(shared)} is one value a call, and all copies enter it"
    return worst, words


def _no_axis(call: Call, said: str) -> str:
    """Why no axis is a batch: a list of samples, or what the first trial met."""
    if any(0 in x.shape for x in call.tensors):
        return "the example is empty"
    for name, value in call.bound.arguments.items():
        if isinstance(value, (list, tuple)) and all(isinstance(x, Tensor) for x in value):
            try:
                there = {**call.bound.arguments, name: value * 2}
                longer = BoundArguments(call.bound.signature, there)
                call.net(*longer.args, **longer.kwargs)
            except Exception:
                continue
            return f"{name} is a list of samples: its length may grow, which no axis may"
    return f"no axis of the inputs is a batch: {said or 'there is no tensor among them'}"


def _indexing(call: Call) -> tuple[str, int | None, str] | None:
    """An input whose integers number the rows of others, its own axis, and the sentence.

    Rows and integers that are relabelled together leave such a model as it is.
    """
    plain = outputs(call(call.tensors))
    for i, x in enumerate(call.tensors):
        sizes = {y.shape[0] for j, y in enumerate(call.tensors) if j != i and y.ndim}
        for n in sorted(size for size in sizes if indexes(x, size)):
            top = int(x.max()) + 1  # no value that has not been there: embeddings have an end
            order = torch.randperm(top, generator=torch.Generator().manual_seed(1))
            order = torch.cat([
                order.roll(int(bool((order.diff() == 1).all()))),
                torch.arange(top, n),
            ])
            order = order.to(x.device)
            named = order.argsort()[x]
            moved = [y[order] if y.ndim and len(y) == n else y for y in call.tensors]
            moved[i] = named[order] if len(x) == n else named
            wrong = list(call.tensors)
            wrong[i] = torch.zeros_like(x)
            there, without = outputs(call(moved)), outputs(call(wrong))
            turned = {k: y[order] if y.ndim and len(y) == n else y for k, y in plain.items()}
            if any(gap(there[k], y) > call.allowed for k, y in turned.items()):
                continue
            if all(gap(without[k], y) <= call.allowed for k, y in plain.items()):
                continue  # not read at all
            rows = [m for m, y in zip(call.names, call.tensors, strict=True) if y.shape[:1] == (n,)]
            words = (
                f"{call.names[i]} holds integers that index axis 0 of {', '.join(rows)}: tiling "
                "without offsets is wrong. Offset them copy by copy, or call in a loop"
            )
            return call.names[i], _grows(call, i), words
    return None


def _grows(call: Call, i: int) -> int | None:
    """The first axis along which an input can be twice as long by itself."""
    for axis in range(call.tensors[i].ndim):
        longer = list(call.tensors)
        longer[i] = torch.cat([longer[i], longer[i]], axis)
        try:
            call(longer)
        except Exception:
            continue
        return axis
    return None


def _training(call: Call, axes: Axes, culprit: str | None, fits: bool) -> tuple[str, ...]:
    """Modules that couple samples in training mode and not in eval."""
    known = {culprit, *alone(call, axes)}
    call.net.train()
    try:
        found = [*alone(call, axes), first(call, axes, 1) if fits else None]
    except Exception as error:
        found = [f"not known, since training mode raises {type(error).__name__}: {str(error)[:99]}"]
    call.net.eval()
    return tuple(dict.fromkeys(name for name in found if name and name not in known))
