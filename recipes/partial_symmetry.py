"""When is symmetry worth it? A breaking of known size in closed form, and digits within ±45°.

    python recipes/partial_symmetry.py --json partial_symmetry.json --figure partial_symmetry.svg
    python recipes/partial_symmetry.py --quick

Sweep (simulated): x ∈ R⁴ are two normal vectors of the plane, C4 turns both, y = f + ε f_⊥ + 0.2 ξ
with f invariant and f_⊥ without invariant part, both of unit size, so that DEE = ε. A linear model
on 400 random features (their scale and ridge chosen once, for the free model) is fitted in closed
form with the penalty λ · MEE²; λ on validation data.
Digits (scikit-learn's): turned by angles from ±45°, so that SO(2) is a symmetry in part; a
classifier is trained and tested inside an average over angles within ±θ (`frames.Partial`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean

import study
import torch
from sklearn.datasets import load_digits
from soft.tasks import even, odd, turned
from study import Row, progress, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

import equiwrap as ew
from equiwrap.measure import data_error, model_error

SIZES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
GRID = (0.0, *(10 ** (k / 4) for k in range(-12, 13)), math.inf)  # λ: free, …, hard
ANGLES = (0, 45, 90, 135, 180)
SIGNATURE = "b (2 v) -> b 1"


# -- the sweep -------------------------------------------------------------------------------------


class Features(nn.Module):
    """*f(x) = w · cos(Ax + b)*, `x[b, 4] → [b, 1]`: A and b are random, w is fitted."""

    def __init__(self, seed: int, count: int = 400):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("a", 0.6 * torch.randn(count, 4, generator=draw).double())
        self.register_buffer("b", 2 * math.pi * torch.rand(count, generator=draw).double())
        self.w = nn.Parameter(torch.zeros(count, 1).double())

    def features(self, x: Tensor) -> Tensor:
        """`x[b, 4] → [b, count]`."""
        return (x @ self.a.T + self.b).cos() * (2 / len(self.b)) ** 0.5

    def forward(self, x):
        return self.features(x) @ self.w

    def fit(self, x: Tensor, y: Tensor, strength: float, ridge: float = 1e-4) -> None:
        """*argmin mean (f − y)² + λ mean |f − Qf|² + ridge |w|²*; λ = ∞ keeps Qf alone."""
        whole = self.features(x)
        kept = torch.stack([self.features(g) for g in turned(x)]).mean(0)
        rest = whole - kept
        used = kept if strength == math.inf else whole
        gram = used.T @ used / len(x) + ridge * torch.eye(len(self.w)).double()
        if strength not in (0.0, math.inf):
            gram = gram + strength * rest.T @ rest / len(x)
        with torch.no_grad():
            self.w.copy_(torch.linalg.solve(gram, used.T @ y / len(x)))


def part(eps: float, count: int, noise: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the sweep."""
    big = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0))
    one, two = (f(big).square().mean().sqrt() for f in (even, odd))
    x = torch.randn(count, 4, generator=draw)
    y = even(x) / one + eps * odd(x) / two + noise * torch.randn(count, generator=draw)
    return x.double(), y.double()[:, None]


def fitted(eps: float, seed: int, n: int) -> dict[str, float]:
    """Free, soft and hard on one draw of the data: test errors, MEE, λ, and the dial's estimate."""
    draw = torch.Generator().manual_seed(1000 + seed)
    trained, held, tested = (part(eps, *p, draw) for p in ((n, 0.2), (n, 0.2), (4000, 0.0)))

    def errors(strength: float) -> tuple[float, float, nn.Module]:
        model = Features(seed)
        model.fit(*trained, strength)
        run = model
        if strength == math.inf:
            run = ew.equivariantize(model, "C4", SIGNATURE, frame="whole")
        with torch.no_grad():
            val, test = (float((run(x) - y).square().mean()) for x, y in (held, tested))
        return val, test, run

    each = {strength: errors(strength) for strength in GRID}
    soft = min(GRID, key=lambda strength: each[strength][0])
    said = data_error(each[0.0][2], "C4", held, signature=SIGNATURE)
    dialled = ew.equivariantize(
        each[0.0][2], "C4", SIGNATURE, frame="whole", softness=said.softness
    )
    with torch.no_grad():
        blend = float((dialled(tested[0]) - tested[1]).square().mean())
    asymmetry = model_error(each[soft][2], "C4", tested[0], signature=SIGNATURE)
    return {
        "free": each[0.0][1],
        "soft": each[soft][1],
        "hard": each[math.inf][1],
        "dial": blend,
        "λ": soft,
        "MEE": float(asymmetry),
        "DEE by the dial": said.value,
    }


def sweep(sizes: tuple[int, ...], seeds: list[int]) -> list[list[Row]]:
    """Every seed of every ε, a list for each n."""
    todo = [(n, eps) for n in sizes for eps in SIZES]
    found: dict[int, list[Row]] = {n: [] for n in sizes}
    for n, eps in progress(todo, "size", "sweep"):
        found[n].append({"n": n, "eps": eps, "runs": [fitted(eps, seed, n) for seed in seeds]})
    return list(found.values())


# -- digits in part of their orientations ----------------------------------------------------------


def digits(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`count` digits to train and 400 to test, on 16 × 16 pixels, turned by U(−45°, 45°)."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images).float().reshape(-1, 1, 8, 8) / 16
    x = pad(interpolate(x, scale_factor=1.5, mode="bilinear"), (2, 2, 2, 2))
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=draw)[: count + 400]
    angle = (torch.rand(len(order), generator=draw) - 0.5) * math.pi / 2
    turn = torch.stack([angle.cos(), -angle.sin(), 0 * angle, angle.sin(), angle.cos(), 0 * angle])
    grid = nn.functional.affine_grid(
        turn.T.reshape(-1, 2, 3), [len(order), 1, 16, 16], align_corners=False
    )
    x = nn.functional.grid_sample(x[order], grid, align_corners=False)
    y = torch.tensor(labels)[order]
    return x[:count], y[:count], x[count:], y[count:]


def accuracy(reach: int, seed: int, steps: int, count: int = 150) -> float:
    """Percent right of a classifier trained and tested inside an average over ±reach degrees."""
    x, y, tested, truth = digits(count, seed)
    torch.manual_seed(seed)
    net: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    if reach:
        partial = ew.frames.Partial(reach, samples=8)
        net = ew.equivariantize(net, "SO(2)", "b c h w -> b k", frame=partial)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(steps):
        pick = torch.randint(count, (64,))
        optimizer.zero_grad()
        cross_entropy(net(x[pick]), y[pick]).backward()
        optimizer.step()
    with torch.no_grad():
        return 100 * float((net.eval()(tested).argmax(-1) == truth).float().mean())


def reaches(seeds: list[int], steps: int) -> list[Row]:
    """Every seed of every θ."""
    return [
        {"reach": angle, "right": [accuracy(angle, seed, steps) for seed in seeds]}
        for angle in progress(ANGLES, "angle", "digits")
    ]


# -- printing --------------------------------------------------------------------------------------


HEAD = "| DEE | free | soft | hard | dial | soft ahead of both | MEE / DEE | λ | DEE, dial |"


def table(found: Row) -> str:
    """A part for each n of the sweep, and the digits."""
    lines = ["Ten digits, 150 to train, 400 to test, percent right", ""]
    lines += ["| average over | " + " | ".join(f"±{a}°" if a else "none" for a in ANGLES) + " |"]
    lines += ["|---|" + "--:|" * len(ANGLES)]
    lines += [f"| right | {' | '.join(spread(r['right'], '.1f') for r in found['digits'])} |"]
    return "\n\n".join([*map(part_of, found["sweep"]), "\n".join(lines)])


def part_of(rows: list[Row]) -> str:
    """One n: a line an ε."""
    seeds = len(rows[0]["runs"])
    lines = [f"n = {rows[0]['n']}, {seeds} seeds, mean ± sd of the test error", ""]
    lines += [HEAD, "|--:|" + "--:|" * 8]
    for row in rows:
        eps, runs = row["eps"], row["runs"]
        cells = [spread([f[k] for f in runs], ".3f") for k in ("free", "soft", "hard", "dial")]
        wins = sum(f["soft"] < min(f["free"], f["hard"]) for f in runs)
        ratio = f"{mean(f['MEE'] for f in runs) / eps:.2f}" if eps else "–"
        strength = sorted(f["λ"] for f in runs)[seeds // 2]
        lines.append(
            f"| {eps:g} | {' | '.join(cells)} | {wins} of {seeds} | {ratio} | {strength:.2g} | "
            f"{mean(f['DEE by the dial'] for f in runs):.2f} |"
        )
    return "\n".join(lines)


def figure(found: Row, path: Path) -> None:
    """Test errors and MEE against DEE, in the middle n."""
    rows = found["sweep"][len(found["sweep"]) // 2]
    eps = [r["eps"] for r in rows]
    with study.drawn(path, (8, 3), ncols=2) as axes:
        for name in ("free", "soft", "hard"):
            axes[0].plot(eps, [mean(f[name] for f in r["runs"]) for r in rows], "o-", label=name)
        axes[1].plot(eps, [mean(f["MEE"] for f in r["runs"]) for r in rows], "o-", label="soft")
        axes[1].plot(eps, eps, "k:", label="MEE = DEE")
        axes[0].set(xlabel="DEE", ylabel="test error")
        axes[1].set(xlabel="DEE", ylabel="MEE")
        for ax in axes:
            ax.legend()


def main(given: list[str] | None = None) -> Row:
    """The command line; digits have four seeds at most."""
    asked = study.asked(__doc__, given, seeds=10, few=2, quick="n = 240, 60 steps")
    if asked.table:
        found = json.loads(asked.json.read_text())
    else:
        swept = sweep((240,) if asked.quick else (60, 240, 1000), asked.seeds)
        few, steps = (1, 60) if asked.quick else (4, 600)
        found = {"sweep": swept, "digits": reaches(asked.seeds[:few], steps)}
        if asked.json:
            asked.json.write_text(json.dumps(found, ensure_ascii=False) + "\n")
    study.shown(asked, found, table, figure)
    return found


if __name__ == "__main__":
    main()
