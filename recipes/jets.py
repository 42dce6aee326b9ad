"""Toy jets under boosts: a tagger in the lab, with boost augmentation, and in the rest frame.

    python recipes/jets.py --json docs/assets/jets.json --figure docs/assets/jets.svg
    python recipes/jets.py --quick                        # one seed, few steps, half a minute
    python recipes/jets.py --data train.h5                # the reference files of top tagging

The jets are simulated, and the simulation is a toy: its numbers say nothing about taggers on real
or fully simulated jets. Signal: a top of 173 GeV decays into b and W, the W into two light quarks;
background: one parton off its mass shell decays into two. Each parton is showered by a few rounds
of isotropic splittings into 12 massless constituents in all. pT ∈ (550, 650) GeV, |η| < 1.

A sum over constituents of a perceptron reads the four-vectors as they are in the lab. What is
measured is the share of right answers on test jets that are boosted by β along x. Beside it stands
what the mass of the jet alone tells, which any invariant model can read.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import study
import torch
from data import top_tagging
from data.toy_jets import boosted, jets, mass
from study import Row, spread
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu

import equiwrap as ew

BETAS = (0.0, 0.3, 0.6, 0.9, 0.99)
METHODS = ("plain", "boost augmentation", "Lorentz frame")
Jets = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Config:
    """Sizes and budget, the same for every method."""

    sizes: tuple[int, ...] = (500, 4000)
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    test: int = 2000
    steps: int = 2000
    batch: int = 64
    rate: float = 1e-3
    width: int = 64
    constituents: int = 12


# -- taggers ---------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """*ρ(Σ_i φ(p_i / 50 GeV))*, in the precision of its weights; rows of zeros do not count."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, width), nn.Linear(width, width)
        self.three, self.out = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x[b, n, 4] → [b, 1]`."""
        there = (x != 0).any(-1, keepdim=True)
        h = relu(self.two(relu(self.one((x / 50).to(self.out.weight.dtype)))))
        return self.out(relu(self.three((h * there).sum(1))))


def tagger(method: str, width: int) -> nn.Module:
    """The same network for all; in the rest frame for one, with the frame in float64."""
    net = Tagger(width)
    if method != "Lorentz frame":
        return net
    return ew.equivariantize(net, "SO+(1,3)", "b n v -> b k")


def train(method: str, data: Jets, config: Config, seed: int) -> nn.Module:
    """Adam, the rate falling to zero as a cosine."""
    torch.manual_seed(seed)
    model, rng = tagger(method, config.width), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), config.rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for _ in range(config.steps):
        pick = torch.randint(len(data[1]), (config.batch,), generator=rng)
        x, y = data[0][pick], data[1][pick]
        if method == "boost augmentation":  # along ±x, up to the strongest of the test
            most = torch.tensor(BETAS[-1], dtype=torch.float64).atanh()
            x = boosted(x, most * (2 * torch.rand(len(x), generator=rng, dtype=most.dtype) - 1))
        loss = binary_cross_entropy_with_logits(model(x)[:, 0], y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return model.eval()


def auc(score: Tensor, y: Tensor) -> float:
    """*P(score of a top > score of another)*, ties half (Mann and Whitney)."""
    gap = score[y == 1][:, None] - score[y == 0]
    return float((gap > 0).double().mean() + (gap == 0).double().mean() / 2)


@torch.no_grad()
def tested(model: nn.Module, data: Jets) -> Row:
    """Percent right at every β, and the AUC at rest."""
    x, y = data
    rapidity = torch.tensor(BETAS, dtype=torch.float64).atanh()
    scores = [model(boosted(x, r[None]))[:, 0] for r in rapidity]
    right = [round(100 * float(((s > 0) == (y == 1)).double().mean()), 4) for s in scores]
    return {"accuracy": right, "auc": auc(scores[0], y)}


def mass_only(data: Jets, test: Jets) -> Row:
    """Nearness to the usual mass of the signal; the threshold is the best on training jets."""
    near = mass(data[0][data[1] == 1].sum(1)).median()
    one, two = (-(mass(x.sum(1)) - near).abs() for x in (data[0], test[0]))
    cuts = one.sort().values
    right = [float(((one > cut) == (data[1] == 1)).double().mean()) for cut in cuts]
    cut = cuts[int(torch.tensor(right).argmax())]
    found = round(100 * float(((two > cut) == (test[1] == 1)).double().mean()), 4)
    return {"accuracy": [found] * len(BETAS), "auc": auc(two, test[1])}


def sets(args: argparse.Namespace, config: Config, seed: int) -> tuple[Jets, Jets]:
    """Jets to train and to test: drawn, or from a file, the tested behind those of every seed."""
    most = max(config.sizes)
    if args.data is None:
        rng = torch.Generator().manual_seed(1000 + seed)
        return jets(most, rng), jets(config.test, rng)
    train = top_tagging.load(args.data, most, seed * most, config.constituents)
    after = len(config.seeds) * most
    return train, top_tagging.load(args.data, config.test, after, config.constituents)


def seed_of(train_set: Jets, test: Jets, config: Config, seed: int) -> list[Row]:
    """Every size and method of one seed; a smaller set is the beginning of a larger one."""
    found = []
    for size in config.sizes:
        data = (train_set[0][:size], train_set[1][:size])
        about = {"seed": seed, "jets": size}
        found.append(about | {"method": "mass only"} | mass_only(data, test))
        for method in METHODS:
            model = train(method, data, config, seed)
            found.append(about | {"method": method} | tested(model, test))
    return found


# -- printing --------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown: percent right, mean ± standard deviation over seeds."""
    lines = [f"| jets | method | {' | '.join(f'β = {b:g}' for b in BETAS)} | AUC, β = 0 |"]
    lines.append(f"|--:|---|{'--:|' * (len(BETAS) + 1)}")
    for size, method in dict.fromkeys((r["jets"], r["method"]) for r in rows):
        held = [r for r in rows if (r["jets"], r["method"]) == (size, method)]
        cells = [spread([r["accuracy"][i] for r in held], ".1f") for i in range(len(BETAS))]
        last = spread([r["auc"] for r in held], ".3f")
        lines.append(f"| {size} | {method} | {' | '.join(cells)} | {last} |")
    return "\n".join([*lines, "", *verdicts(rows)])


def verdicts(rows: list[Row]) -> list[str]:
    """How flat the frame is, and how far above the plain network, in the worst seed."""
    said = []
    for size in dict.fromkeys(r["jets"] for r in rows):
        held = {(r["method"], r["seed"]): r["accuracy"] for r in rows if r["jets"] == size}
        seeds = sorted({seed for _, seed in held})
        flat = max(max(a) - min(a) for (m, _), a in held.items() if m == METHODS[-1])
        lead = [held[METHODS[-1], s][0] - held["plain", s][0] for s in seeds]
        said.append(
            f"- {size} jets: the frame's accuracy moves by at most {flat:.2g} points over all β, "
            f"and is {mean(lead):.1f} points above plain at β = 0 (least {min(lead):.1f})."
        )
    return said


def figure(rows: list[Row], path: Path) -> None:
    """Percent right against β: the mean, and the range over seeds."""
    sizes, at = list(dict.fromkeys(r["jets"] for r in rows)), range(len(BETAS))
    grid = {"ncols": len(sizes), "sharey": True, "squeeze": False}
    with study.drawn(path, (4.2 * len(sizes), 3.4), **grid) as axes:
        for ax, size in zip(axes[0], sizes, strict=True):
            for method in ("mass only", *METHODS):
                held = [r["accuracy"] for r in rows if (r["jets"], r["method"]) == (size, method)]
                each = list(zip(*held, strict=True))
                style = "--" if method == "mass only" else "-o"
                (line,) = ax.plot(at, [mean(e) for e in each], style, ms=4, label=method)
                low, high = [min(e) for e in each], [max(e) for e in each]
                ax.fill_between(at, low, high, alpha=0.2, color=line.get_color())
            ax.set(xticks=at, xticklabels=BETAS, xlabel="β of the boost of the test jets")
            ax.set_title(f"{size} training jets (toy)", fontsize=10)
        axes[0, 0].set_ylabel("% right")
        axes[0, 0].legend(fontsize=8, loc="center left")


def main(given: list[str] | None = None) -> list[Row]:
    asked = study.asked(
        __doc__,
        given,
        seeds=4,
        quick="few jets, few steps",
        data={"type": Path, "help": "a file of the top tagging reference set"},
        constituents={"type": int, "default": 40, "help": "read from the file, per jet"},
    )
    config = Config(seeds=tuple(asked.seeds))
    if asked.quick:
        config = replace(config, sizes=(500,), steps=400)
    if asked.data:
        config = replace(config, constituents=asked.constituents)
    done = {row["seed"] for row in study.read(asked.json)}
    rows = study.gathered(
        asked,
        [seed for seed in config.seeds if seed not in done],
        lambda seed: seed_of(*sets(asked, config, seed), config, seed),
        config={k: v for k, v in asdict(config).items() if k != "seeds"},
    )
    study.shown(asked, rows, table, figure)
    return rows


if __name__ == "__main__":
    main()
