"""Wide networks and symmetry: free, augmented, averaged and equivariant training, simulated.

    python recipes/mean_field.py --json mean_field.json --figure mean_field.svg
    python recipes/mean_field.py --quick

Teacher and student are means of particles, Φ(x) = 1/N Σ σ(θ_i x), θ_i ∈ R^{d×d}, σ the sigmoid, on
normal inputs; G = cyclic permutations of the coordinates, which acts on θ by PθPᵀ and fixes the
circulants E^G. The student starts on E^G and trains by SGD with steps that grow like N (η = 5/N,
30 N of them: without this the effect of finite N does not vanish). What is printed is
RMD² = Σ|θ − Pθ|² / (Σ|θ|² + Σ|Pθ|²): how far the particles have left E^G.
Source of the set-up: Maass and Fontbona 2024 (arXiv 2405.19995); rates and horizons are ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean

import study
import torch
from study import Row, progress, spread
from torch import Tensor, nn

import equiwrap as ew
from equiwrap.groups import FiniteGroup
from equiwrap.penalty import Target, snap
from equiwrap.reynolds.orbits import Orbits, orbits_of

METHODS = ("vanilla", "augmented", "averaged", "equivariant")
TEACHERS = ("weakly invariant", "arbitrary")


@dataclass(frozen=True)
class Setting:
    """The budget of a study."""

    d: int = 2
    sizes: tuple[int, ...] = (5, 20, 100, 400)
    batch: int = 20
    rate: float = 5.0
    horizon: int = 30


class Particles(nn.Module):
    """*Φ(x) = 1/N Σ σ(θ_i x)*: `x[b, d] → [b, d]`."""

    def __init__(self, theta: Tensor):
        super().__init__()
        self.theta = nn.Parameter(theta.clone())

    def forward(self, x):
        return torch.einsum("nij,bj->bni", self.theta, x).sigmoid().mean(1)


def cyclic(d: int) -> FiniteGroup:
    """The cyclic permutations of d coordinates."""
    return FiniteGroup(f"cyclic({d})", [torch.eye(d, dtype=torch.float64).roll(1, 0)])


def target_of(n: int, d: int) -> Target:
    """P: θ ↦ the circulant of its means along the cyclic diagonals."""
    entries = torch.arange(d * d).reshape(d, d)
    label = orbits_of(d * d, [(entries, entries.roll((1, 1), (0, 1)))])
    return Target("theta", Orbits(label, leading=n), (n, d, d))


def rmd(theta: Tensor, kept: Tensor) -> float:
    """*Σ|θ − Pθ|² / (Σ|θ|² + Σ|Pθ|²)*."""
    square = theta.square().sum() + kept.square().sum()
    return float((theta - kept).square().sum() / square)


def teacher_of(kind: str, d: int, draw: torch.Generator) -> Particles:
    """Five particles of scale 3, and all their images where the law is to be invariant."""
    theta = 3 * torch.randn(5, d, d, generator=draw)
    if kind == "weakly invariant":
        g = cyclic(d).elements().to(theta)
        theta = torch.einsum("gij,njk,glk->gnil", g, theta, g).flatten(0, 1)
    return Particles(theta).requires_grad_(False)


def train(s: Setting, method: str, kind: str, n: int, seed: int) -> tuple[float, float]:
    """(RMD², test MSE) of a student at its end."""
    draw = torch.Generator().manual_seed(1000 * seed + n)
    teacher = teacher_of(kind, s.d, torch.Generator().manual_seed(seed))
    target, group = target_of(n, s.d), cyclic(s.d)
    student = Particles(target.projector(torch.randn(n, s.d, s.d, generator=draw)))
    model = student
    if method == "averaged":
        model = ew.equivariantize(student, group, "b v -> b v", frame="whole")
    elements = group.elements().float()
    optimizer = torch.optim.SGD(student.parameters(), lr=s.rate)  # η N with η = 5/N
    for _ in range(s.horizon * n):
        x = torch.randn(s.batch, s.d, generator=draw)
        y = teacher(x)
        if method == "augmented":
            g = elements[torch.randint(len(elements), (s.batch,), generator=draw)]
            x, y = torch.einsum("bij,bj->bi", g, x), torch.einsum("bij,bj->bi", g, y)
        optimizer.zero_grad()
        (0.5 * (model(x) - y).square().sum(1).mean()).backward()
        optimizer.step()
        if method == "equivariant":
            snap(student, [target])
    with torch.no_grad():
        x = torch.randn(4000, s.d, generator=draw)
        error = float((model(x) - teacher(x)).square().mean())
        theta = student.theta.double()
    return rmd(theta, target.projector(theta)), error


def rows_of(s: Setting, seeds: list[int]) -> list[Row]:
    """Every teacher, method and size."""
    rows = []
    for kind, method, n in progress(list(product(TEACHERS, METHODS, s.sizes)), "size", "students"):
        found = [train(s, method, kind, n, seed) for seed in seeds]
        rmds, errors = zip(*found, strict=True)
        rows.append({"teacher": kind, "method": method, "N": n, "rmd": rmds, "mse": errors})
    return rows


# -- which parameters are shared: a heuristic ------------------------------------------------------


def onto(basis: Tensor, theta: Tensor) -> Tensor:
    """The particles on the span of a basis: `basis[k, d²], theta[n, d, d]`."""
    return (theta.flatten(1) @ basis.T @ basis).reshape(theta.shape)


def discover(d: int, seed: int, n: int = 50, limit: float = 3e-4) -> tuple[Tensor, list[float]]:
    """EXPERIMENTAL. Train from a law on E_j; where the particles leave it, add where they went.

    E_0 = {0}; E_{j+1} = E_j + the first singular direction of (1 − P_{E_j})Θ, while RMD² > `limit`.
    Guards: a batch of 256 (the noise that all particles share drives them out of any subspace), a
    horizon long enough that what can be left is left (ten times that of the table: below, it stops
    one short), and no more than half of the d² parameters. Gives the basis, and RMD² before each
    step. A subspace that it ends at is a suggestion: that of a symmetry is one that fits.
    """
    draw = torch.Generator().manual_seed(seed)
    theta = 3 * torch.randn(5, d, d, generator=draw)
    g = cyclic(d).elements().to(theta)
    teacher = Particles(torch.einsum("gij,njk,glk->gnil", g, theta, g).flatten(0, 1))
    basis, stairs = torch.zeros(0, d * d), []
    while 2 * len(basis) <= d * d:
        start = onto(basis, torch.randn(n, d, d, generator=draw))
        student = Particles(start)
        optimizer = torch.optim.SGD(student.parameters(), lr=5.0)
        for _ in range(60 * n):
            x = torch.randn(256, d, generator=draw)
            optimizer.zero_grad()
            (0.5 * (student(x) - teacher(x).detach()).square().sum(1).mean()).backward()
            optimizer.step()
        found = student.theta.detach()
        rest = found - onto(basis, found)
        stairs.append(rmd(found, found - rest))
        if stairs[-1] < limit:
            break
        new = torch.linalg.svd(rest.flatten(1), full_matrices=False).Vh[:1]
        basis = torch.cat([basis, new])
    return basis, stairs


def staircase(d: int, seed: int) -> str:
    """One line: RMD² before each step, the dimension, and what of it lies outside of E^G."""
    basis, stairs = discover(d, seed)
    projector = target_of(len(basis), d).projector
    outside = basis.reshape(-1, d, d) - projector(basis.reshape(-1, d, d))
    share = float(outside.square().sum() / max(len(basis), 1))
    steps = " → ".join(f"{value:.2g}" for value in stairs)
    return f"| {d} | {seed} | {steps} | {len(basis)} | {d} | {share:.3f} |"


# -- printing --------------------------------------------------------------------------------------


def table(found: Row) -> str:
    """RMD² by N, a part for each teacher, and the staircases."""
    sizes = list(dict.fromkeys(row["N"] for row in found["rows"]))
    lines = []
    for kind in TEACHERS:
        lines += [f"| {kind} teacher | {' | '.join(f'N = {n}' for n in sizes)} | test MSE |"]
        lines += ["|---|" + "--:|" * (len(sizes) + 1)]
        for method in METHODS:
            held = [r for r in found["rows"] if (r["teacher"], r["method"]) == (kind, method)]
            every = [*(r["rmd"] for r in held), held[-1]["mse"]]
            cells = [spread(values, ".1e", ".0e") for values in every]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["| d | seed | RMD² before each step | dimension | of E^G | energy outside |"]
    return "\n".join([*lines, "|--:|--:|---|--:|--:|--:|", *found["stairs"]])


def figure(found: Row, path: Path) -> None:
    """RMD² against N."""
    with study.drawn(path, (8, 3), ncols=2, sharey=True) as axes:
        for ax, kind in zip(axes, TEACHERS, strict=True):
            for method in METHODS[:3]:
                mine = [r for r in found["rows"] if (r["teacher"], r["method"]) == (kind, method)]
                ax.loglog(
                    [r["N"] for r in mine], [mean(r["rmd"]) for r in mine], "o-", label=method
                )
            ax.set(title=f"{kind} teacher", xlabel="particles N")
        axes[0].set_ylabel("RMD²")
        axes[0].legend()


def main(given: list[str] | None = None) -> Row:
    """The command line."""
    asked = study.asked(__doc__, given, seeds=6, few=2, quick="N up to 20, d = 2")
    if asked.table:
        found = json.loads(asked.json.read_text())
    else:
        rows = rows_of(Setting(sizes=(5, 20)) if asked.quick else Setting(), asked.seeds)
        steps = product((2,), range(2)) if asked.quick else product((2, 3), range(5))
        lines = [staircase(d, seed) for d, seed in progress(list(steps), "run", "staircases")]
        found = {"rows": rows, "stairs": lines}
        study.write(asked.json, **found)
    study.shown(asked, found, table, figure)
    return found


if __name__ == "__main__":
    main()
