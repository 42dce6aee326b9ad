r"""Relaxed energies of simulated clusters: a torch_geometric model that does not know E(3), framed.

    python recipes/relaxed_energies.py --json docs/assets/relaxed_energies.json \
        --figure docs/assets/relaxed_energies.svg
    python recipes/relaxed_energies.py --quick           # one seed, few clusters, few steps
    python recipes/relaxed_energies.py --table --json docs/assets/relaxed_energies.json

Everything is simulated (`recipes/data/clusters.py`): clusters of 4 to 7 Lennard-Jones atoms of two
kinds start loose and run into a minimum; the energy of the minimum is predicted from the start.
What a quadratic function of the composition tells is subtracted first, and stands in the table.
The network is torch_geometric's SchNet with filters that also see the coordinates as they are.

Forces are gradients of the predicted energy. They are no forces of the clusters, whose starts are
not at rest; what is tested is whether they are forces at all: do they turn with the cluster, is
their circulation zero, and is their work along a path the difference of the energies at its ends?
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import study
import torch
from data.clusters import Clusters, clusters
from relaxed_models import Potential, laws, predict
from study import Row, spread
from torch import Tensor, nn
from torch.nn.functional import l1_loss, smooth_l1_loss
from torch_geometric.data import Batch, Data

import equiwrap as ew

SIGNATURE = "pos: (b n) p | batch, kind: _, edge_index: _ -> b 1"
LEARNT, FRAMES = ("plain", "E(3) augmentation"), ("one frame (axes)", "weighted, stochastic")
METHODS = LEARNT + FRAMES
LAWS = {
    "turned": "F(gx) − g F(x)",
    "differences": "F + difference quotients of E",
    "circulation": "circulation of F",
    "work": "work + difference of E",
    "jump": "largest jump of E",
}


@dataclass(frozen=True)
class Config:
    """Sizes and budget, the same for every method."""

    train: int = 1500
    test: int = 400
    steps: int = 1000
    batch: int = 48
    rate: float = 2e-3
    width: int = 48
    rounds: int = 3
    paths: int = 4  # clusters of five atoms, for the laws of forces
    points: int = 401  # on each path, odd


def framed(net: nn.Module, frame: Any) -> nn.Module:
    return ew.equivariantize(net, "E(3)", SIGNATURE, frame=frame)


def built(method: str, config: Config) -> nn.Module:
    net = Potential(config.width, config.rounds)
    if method == FRAMES[0]:
        return framed(net, "axes")
    return framed(net, ew.frames.Weighted(stochastic=True)) if method == FRAMES[1] else net


# -- data ------------------------------------------------------------------------------------------


def composition(data: Clusters) -> Tensor:
    """*1, n, a, n², na, a²* for n atoms, a of them of the first kind: `[b, 6]`, float64."""
    n, a = (data.kind >= 0).sum(1).double(), (data.kind == 0).sum(1).double()
    return torch.stack([torch.ones_like(n), n, a, n * n, n * a, a * a], 1)


def graphs(data: Clusters, target: Tensor) -> list[Data]:
    """One graph a cluster, all pairs linked."""
    found = []
    for pos, kind, y in zip(data.pos, data.kind, target, strict=True):
        n = int((kind >= 0).sum())
        linked = (1 - torch.eye(n)).nonzero().T
        item = Data(pos=pos[:n].float(), kind=kind[:n], edge_index=linked, y=y.float()[None])
        found.append(item)
    return found


def prepared(config: Config, seed: int) -> tuple[list[Data], Any, float]:
    """Training graphs, the test batch, and the error of the composition alone."""
    data = clusters(config.train + config.test, seed)
    known = composition(data)
    fit = torch.linalg.lstsq(known[config.test :], data.relaxed[config.test :, None]).solution
    rest = data.relaxed - (known @ fit)[:, 0]
    every = graphs(data, rest)
    test = Batch.from_data_list(every[: config.test])
    return every[config.test :], test, float(rest[: config.test].abs().mean())


def moved(batch: Any, rng: torch.Generator) -> Tensor:
    """Positions, every graph turned, perhaps mirrored, and shifted by N(0, 1)."""
    g = ew.groups.parse_group("E(3)").sample(batch.num_graphs, generator=rng).to(batch.pos)
    mine = g[batch.batch]
    return torch.einsum("nij,nj->ni", mine[:, :3, :3], batch.pos) + mine[:, :3, 3]


def train(method: str, data: list[Data], config: Config, seed: int) -> nn.Module:
    """Adam, smooth absolute error, the rate falling to zero as a cosine."""
    torch.manual_seed(seed)
    model, rng = built(method, config), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), config.rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for _ in study.progress(range(config.steps), "step", method):
        pick = torch.randint(len(data), (config.batch,), generator=rng).tolist()
        batch = Batch.from_data_list([data[i] for i in pick])
        pos = moved(batch, rng) if "augmentation" in method else batch.pos
        loss = smooth_l1_loss(predict(model, batch, pos), batch.y, beta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return model.eval()


@torch.no_grad()
def measured(model: nn.Module, test: Any) -> Row:
    """Mean absolute errors, as the clusters lie and moved, and the largest change by the move."""
    here, there = predict(model, test), predict(model, test, moved(test, torch.Generator()))
    change = float((here - there).abs().max() / here.abs().max())
    mae, other = (float(l1_loss(e, test.y)) for e in (here, there))
    return {"mae": mae, "mae_moved": other, "change": change}


def seed_of(config: Config, seed: int) -> list[Row]:
    """Every method of one seed, and two of them averaged after training."""
    data, test, floor = prepared(config, seed)
    five = [graph for graph in test.to_data_list() if len(graph.pos) == 5][: config.paths]
    rows = [{"seed": seed, "method": "composition only", "mae": floor, "mae_moved": floor}]
    for method in METHODS:
        begun = time.process_time()
        model = train(method, data, config, seed)
        spent = time.process_time() - begun
        row = {"seed": seed, "method": method, "seconds": spent, **measured(model, test)}
        rows.append(row | laws(model, five, config.points))
        if method in LEARNT:
            after = framed(model, "weighted")
            rows.append(
                {"seed": seed, "method": f"{method}, then weighted"} | measured(after, test)
            )
    return rows


# -- printing --------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown: errors, mean ± standard deviation over seeds; then the laws, the worst of seeds."""
    lines = [
        "| | test MAE | moved | largest change by the move | s to train |",
        "|---|--:|--:|--:|--:|",
    ]
    kept = [f"| | {' | '.join(LAWS.values())} |", f"|---|{'--:|' * len(LAWS)}"]
    for method in dict.fromkeys(r["method"] for r in rows):
        held = [r for r in rows if r["method"] == method]
        change = f"{max(r['change'] for r in held):.0e}" if "change" in held[0] else ""
        cells = [spread([r[key] for r in held], ".4f") for key in ("mae", "mae_moved")]
        spent = spread([r["seconds"] for r in held], ".0f") if "seconds" in held[0] else ""
        lines.append(f"| {method} | {' | '.join([*cells, change, spent])} |")
        if "work" in held[0]:
            worst = [f"{max(r[key] for r in held):.0e}" for key in LAWS]
            kept.append(f"| {method} | {' | '.join(worst)} |")
    return "\n".join([*lines, "", *kept])


def figure(rows: list[Row], path: Path) -> None:
    """The predicted energies of the first seed along the path on which one frame jumps most."""
    held = [r for r in rows if r["seed"] == rows[0]["seed"] and r["method"] in FRAMES]
    jumps = held[0]["jumps"]
    with study.drawn(path, (6, 3.4)) as ax:
        for row in held:
            e = row["paths"][jumps.index(max(jumps))]
            ax.plot([i / (len(e) - 1) for i in range(len(e))], e, ".-", ms=3, label=row["method"])
        ax.set(xlabel="along a segment of positions", ylabel="predicted energy, ε")
        ax.set_title("Two E(3)-invariant energies (simulated clusters)", fontsize=10)
        ax.legend(fontsize=8)


def main(given: list[str] | None = None) -> list[Row]:
    asked = study.asked(__doc__, given, seeds=3, quick="few clusters, few steps")
    config = Config()
    if asked.quick:
        config = replace(config, train=300, test=100, steps=100, paths=2, points=101)
    done = {row["seed"] for row in study.read(asked.json)}
    todo = [seed for seed in asked.seeds if seed not in done]
    rows = study.gathered(asked, todo, lambda s: seed_of(config, s), config=asdict(config))
    study.shown(asked, rows, table, figure)
    return rows


if __name__ == "__main__":
    main()
