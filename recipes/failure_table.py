"""Degenerate inputs: equivariance errors here, beside those of the reference implementation.

    python recipes/failure_table.py --out table.md

Every case is put into one batch with generic samples and run through a dense tanh network without
any symmetry. The error is the largest change of an output under ten random elements, relative to
the largest output of the batch; elements act in float64 and are rounded once. *Reference* is the
authors' code of minimal frame averaging (github.com/divelab/MFA), one sample at a time, as measured
when this project began (float32 / float64); those figures are quoted, not computed here. Boosts
are limited to rapidity 2.
"""

from __future__ import annotations

import argparse
import platform
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from failure_cases import CLOUDS, COMPLEX, GRAPHS, JETS, LINEAR, SETS, Case, D, lorentz
from torch import Tensor, nn

import equiwrap as ew
from equiwrap.signature import Signature


class Dense(nn.Module):
    """A tanh network on the flattened input: no symmetry at all; real, or complex by parts."""

    def __init__(self, like: Tensor, out: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        size = like[0].numel() * (2 if like.is_complex() else 1)
        self.out, self.is_complex = out, like.is_complex() and len(out) == 2
        total = torch.Size(out).numel() * (2 if self.is_complex else 1)
        self.body = nn.Sequential(
            nn.Linear(size, 64, dtype=dtype), nn.Tanh(), nn.Linear(64, total, dtype=dtype)
        )
        self.called = 0

    def forward(self, x: Tensor) -> Tensor:
        """`x[b, …] → [b, *out]`."""
        self.called += len(x)
        flat = torch.view_as_real(x).flatten(1) if x.is_complex() else x.flatten(1)
        y = self.body(flat)
        y = torch.view_as_complex(y.unflatten(-1, (-1, 2))) if self.is_complex else y
        return y.reshape(-1, *self.out)


def error(case: Case, group: str, dtype: torch.dtype, graph: bool, seed: int) -> tuple[float, int]:
    """The largest error over invariant and row outputs, and the calls of the case's own sample.

    Raises:
        FrameError: the sample has no frame.
    """
    torch.manual_seed(seed)
    first = case.cloud()
    others = [case.spread * torch.randn_like(first) for _ in range(2)]
    if graph:
        first = first + first.mT * (first != first.mT)
        others = [(torch.rand_like(first) < 0.5).triu(1).to(D) for _ in range(2)]
        others = [a + a.mT for a in others]
    elif "(1,3)" in group:
        others = [lorentz(0.0, len(first))() for _ in range(2)]
    x = torch.stack([first, *others])
    wide = torch.complex64 if x.is_complex() else torch.float32
    x = x if dtype == D else x.to(wide)
    letter = "c" if group == "S(n)" else "p" if "E(" in group or "Aff" in group else "v"
    left = "b n n" if graph else f"b n {letter}"
    rows = ("b n k", (len(first), 2)) if graph else (left, tuple(first.shape))
    worst, calls = 0.0, 0
    for pattern, shape in [("b k", (4,)), rows]:
        net = Dense(x, shape, dtype)
        frame = "labelled" if graph else "auto"
        model = ew.equivariantize(
            net, group.replace("x", " x "), f"{left} -> {pattern}", frame=frame
        )
        net.called = 0
        model(x[:1])
        calls = max(calls, net.called)
        worst = max(worst, _change(model, model.equiwrap.signature, x, case.spread))
    return worst, calls


def _change(model: nn.Module, signature: Signature, x: Tensor, spread: float) -> float:
    kind, out = signature.inputs[0][1], signature.outputs[0][1]
    group = signature.group.at({"n": x.shape[1]})
    g = group.sample(10, generator=torch.Generator().manual_seed(1))
    if group.affine:
        g = _shifts_of(g, spread)
    with torch.no_grad():
        here = model(x)
        worst = 0.0
        for i in range(10):
            one = tuple(e[i : i + 1] for e in g) if isinstance(g, tuple) else g[i : i + 1]
            exact = torch.complex128 if x.is_complex() else D
            moved = kind.act(one, x.to(exact), 1).to(x.dtype)
            back = out.act(one, here.to(exact) if here.is_complex() == x.is_complex() else here, 1)
            gap = (model(moved) - back).abs().amax()
            worst = max(worst, float(gap / torch.maximum(back.abs().amax(), here.abs().amax())))
    return worst


def _shifts_of(g: Tensor | tuple[Tensor, ...], spread: float) -> Tensor | tuple[Tensor, ...]:
    """The same elements with translations of the size of the cloud."""
    if isinstance(g, tuple):
        return tuple(_shifts_of(e, spread) if e.is_floating_point() else e for e in g)  # type: ignore[misc]
    size = torch.ones_like(g)
    size[..., :-1, -1] = spread
    return g * size


def rounding(case: Case, dtype: torch.dtype) -> float:
    """What the coordinates have lost before any frame sees them: 4 ε · offset / extent."""
    x = case.cloud()
    extent = (x - x.mean(0)).abs().amax()
    return 4 * torch.finfo(dtype).eps * float(x.abs().amax() / extent) if extent > 0 else 0.0


def lines(cases: list[Case], graph: bool = False) -> Iterator[str]:
    """One line of the table for every case and group."""
    for case in cases:
        for group in case.groups.split():
            cells, calls = [], ""
            for dtype in (torch.float32, D):
                try:
                    value, count = error(case, group, dtype, graph, seed=0)
                except ew.FrameError as refusal:
                    cells.append("a sentence")
                    print(f"{case.title}, {group}: {refusal}", file=sys.stderr)
                else:
                    bound = max(1e-4 if dtype != D else 1e-9, rounding(case, dtype))
                    cells.append(f"{value:.0e}" if value <= bound else f"**{value:.0e}**")
                    calls = str(count)
            name = group.replace("x", " x ")
            yield f"| {' | '.join([case.title, name, *cells, calls, case.reference])} |"


PAGE = """# Degenerate inputs

`python recipes/failure_table.py`, torch {torch}, Python {python}, CPU. {missed}

Each case runs in one batch with two generic samples, through a dense network without symmetry,
under ten random elements: the largest change of invariant outputs and of outputs a row, relative
to the largest output. Bold figures are above 1e-4 (float32), 1e-9 (float64) and what the
coordinates themselves have lost to rounding, 4 ε · offset / extent. *Calls*: how often that sample
went through the model. *a sentence*: the sample has no frame, because what fixes it is not compact
or because its dtype cannot resolve it, and the error names it. *Reference*: the code of minimal
frame averaging by its authors (github.com/divelab/MFA), one sample at a time, measured when this
project began and quoted; one entry stands for all the groups of a case.

| input | group | float32 | float64 | calls | reference |
|---|---|--:|--:|--:|---|
{table}
"""


def main() -> int:
    """The command line; 1 where a case misses its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the page here")
    parser.add_argument("--only", help="clouds, jets, complex, linear, sets or graphs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = {"clouds": CLOUDS, "jets": JETS, "complex": COMPLEX, "linear": LINEAR, "sets": SETS}
    parts["graphs"] = GRAPHS
    found = []
    for name, cases in parts.items():
        if options.only in (None, name):
            for text in lines(cases, name == "graphs"):
                print(text, file=sys.stderr, flush=True)
                found.append(text)
    missed = sum("**" in text for text in found)
    said = f"{len(found) - missed} of {len(found)} lines hold their bounds."
    page = PAGE.format(
        torch=torch.__version__.split("+")[0],
        python=platform.python_version(),
        missed=said,
        table="\n".join(found),
    )
    print(page)
    if options.out:
        options.out.write_text(page)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
