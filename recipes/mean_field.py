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

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
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


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    return f"{mean(values):.1e} ± {stdev(values) if len(values) > 1 else 0:.0e}"


def study(s: Setting, seeds: int, said: Callable[[str], None]) -> list[dict[str, object]]:
    """Every teacher, method and size."""
    rows: list[dict[str, object]] = []
    for kind in TEACHERS:
        said(f"\n| {kind} teacher | " + " | ".join(f"N = {n}" for n in s.sizes) + " | test MSE |")
        said("|---|" + "--:|" * (len(s.sizes) + 1))
        for method in METHODS:
            found = [[train(s, method, kind, n, seed) for seed in range(seeds)] for n in s.sizes]
            cells = [spread([r for r, _ in each]) for each in found]
            said(f"| {method} | {' | '.join(cells)} | {spread([e for _, e in found[-1]])} |")
            rows += [
                {"teacher": kind, "method": method, "N": n, "rmd": [r for r, _ in each],
                 "mse": [e for _, e in each]}
                for n, each in zip(s.sizes, found, strict=True)
            ]  # fmt: skip
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


def figure(rows: list[dict[str, object]], path: Path) -> None:
    """RMD² against N."""
    from matplotlib import pyplot

    _, axes = pyplot.subplots(1, 2, figsize=(8, 3), sharey=True)
    for ax, kind in zip(axes, TEACHERS, strict=True):
        for method in METHODS[:3]:
            mine = [r for r in rows if r["teacher"] == kind and r["method"] == method]
            ax.loglog([r["N"] for r in mine], [mean(r["rmd"]) for r in mine], "o-", label=method)
        ax.set(title=f"{kind} teacher", xlabel="particles N")
    axes[0].set_ylabel("RMD²")
    axes[0].legend()
    pyplot.tight_layout()
    pyplot.savefig(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="two seeds, N up to 20, d = 2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(sizes=(5, 20)) if asked.quick else Setting()
    rows = study(setting, 2 if asked.quick else asked.seeds, lambda s: print(s, flush=True))
    print("\n| d | seed | RMD² before each step | dimension | of E^G | energy outside |")
    print("|--:|--:|---|--:|--:|--:|")
    lines = [
        staircase(d, seed)
        for d in ((2,) if asked.quick else (2, 3))
        for seed in range(2 if asked.quick else 5)
    ]
    print("\n".join(lines))
    if asked.json:
        asked.json.write_text(
            json.dumps({"rows": rows, "stairs": lines}, ensure_ascii=False) + "\n"
        )
    if asked.figure:
        figure(rows, asked.figure)


if __name__ == "__main__":
    main()
