"""Data, training and tables of `timm_images.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import study
import timm
import torch
from data import images
from study import Row
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import equiwrap as ew
import equiwrap.integrations.timm
from equiwrap.groups import parse_group
from equiwrap.signature import TensorType

SETS = ("C4", "D4", "±45°")
SIGNATURE = "b c h w -> b k"


@cache
def task_of(side: int, folder: Path | None, seed: int, limit: int) -> Task:
    """One split of the images; networks of one size share it, and its priors."""
    return Task.split(*images.load(side, folder), seed, limit)


@dataclass
class Task:
    """Upright images to train on and to test on, and the priors fitted to the former."""

    train: Tensor
    labels: Tensor
    test: Tensor
    truth: Tensor
    priors: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def split(cls, x: Tensor, y: Tensor, seed: int, limit: int) -> Task:
        """Two thirds in a random order to train, the rest to test; `limit` of each at the most."""
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        cut = 2 * len(x) // 3
        one, two = order[: min(cut, limit)], order[cut : cut + limit]
        return cls(x[one], y[one], x[two], y[two])

    def prior(self, group: str, fit: Callable[[Tensor, str], Any]) -> Any:
        """The prior of this group, fitted when it is first asked for."""
        if group not in self.priors:
            self.priors[group] = fit(self.train, group)
        return self.priors[group]

    @torch.no_grad()
    def row(
        self, part: str, name: str, over: str, method: str, seed: int, model: nn.Module, cost: float
    ) -> Row:
        """The figures of one model, per cent."""
        draw = torch.Generator().manual_seed(seed)
        if over == "±45°":
            law: Any = ew.measure.PartialSet("SO(2)", 45)
            moved = images.turned(self.test, 90 * torch.rand(len(self.test), generator=draw) - 45)
        else:
            law, kind = over, TensorType.parse("b c h w", parse_group(over))
            pick = torch.randint(kind.group.order, (len(self.test), 1), generator=draw)
            front = self.test.unsqueeze(1)
            moved = kind.act(kind.group.elements()[pick], front, 1).squeeze(1)
        error = ew.measure.equivariance_error(model, law, self.test[:32], signature=SIGNATURE)
        return {
            "part": part, "name": name, "set": over, "method": method, "seed": seed,
            "upright": self.right(model, self.test), "turned": self.right(model, moved),
            "error": float(error), "passes": [cost, counted(model, self.test[:8])],
        }  # fmt: skip

    def right(self, model: nn.Module, x: Tensor) -> float:
        """Per cent right."""
        answers = torch.cat([model(part).argmax(-1) for part in x.split(100)])
        return 100 * float((answers == self.truth).float().mean())


def counted(model: nn.Module, x: Tensor) -> float:
    """Passes of the network for each image of `x`."""
    seen = [0]
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    hook = first.register_forward_pre_hook(lambda m, given: seen.append(len(given[0])))
    model(x)
    hook.remove()
    return sum(seen) / len(x)


def train(config: dict[str, Any], task: Task, seed: int) -> tuple[nn.Module, float]:
    """A network of a config, trained as it says, and its passes an image; timm's own parts."""
    torch.manual_seed(seed)
    model = timm.create_model(
        config["model"], num_classes=config["num_classes"], **config["model_kwargs"]
    )
    optimizer = create_optimizer_v2(
        model, opt=config["opt"], lr=config["lr"], weight_decay=config["weight_decay"]
    )
    count = max(len(task.train) // config["batch_size"], 1)
    schedule, epochs = create_scheduler_v2(
        optimizer,
        num_epochs=config["epochs"],
        warmup_epochs=config["warmup_epochs"],
        step_on_epochs=False,
        updates_per_epoch=count,
    )
    step = 0
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(task.train))
        for pick in order.split(config["batch_size"])[:count]:
            loss = cross_entropy(model(task.train[pick]), task.labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
    return model, counted(model.train(), task.train[:8])


def table(rows: list[Row]) -> str:
    """A table a part and set: mean ± standard deviation over seeds."""
    said = []
    rows = sorted(rows, key=lambda r: (r["part"], SETS.index(r["set"])))
    for part, group in dict.fromkeys((r["part"], r["set"]) for r in rows):
        said += [f"\n### {part.capitalize()}, {group}\n"]
        said += ["| network | method | passes | upright % | turned % | error | seeds |"]
        said += ["|---|---|--:|--:|--:|--:|--:|"]
        here = [r for r in rows if (r["part"], r["set"]) == (part, group)]
        for name, method in dict.fromkeys((r["name"], r["method"]) for r in here):
            each = [r for r in here if (r["name"], r["method"]) == (name, method)]
            made, used = each[0]["passes"]
            passes = f"{made:g}, {used:g}" if made else f"{used:g}"
            cells = [study.spread([r[k] for r in each], ".1f") for k in ("upright", "turned")]
            error = max(r["error"] for r in each)
            figures = [name, method, passes, *cells, f"{error:.0e}", str(len(each))]
            said.append(f"| {' | '.join(figures)} |")
    return "\n".join(said)


def figure(rows: list[Row], path: Path) -> None:
    """Accuracy over C4, a dot a seed, a bar at the mean: a line a part, a column a network."""
    here = [r for r in rows if r["set"] == "C4"]
    parts, names = (list(dict.fromkeys(r[k] for r in here)) for k in ("part", "name"))
    size = (2 + 1.7 * len(names), 0.6 + 2 * len(parts))
    grid = {"nrows": len(parts), "ncols": len(names), "sharey": "row", "squeeze": False}
    with study.drawn(path, size, **grid) as axes:
        for line, part in zip(axes, parts, strict=True):
            ways, first = dict.fromkeys(r["method"] for r in here if r["part"] == part), True
            for ax, name in zip(line, names, strict=True):
                mine = [r for r in here if (r["part"], r["name"]) == (part, name)]
                shown = {w: [r["turned"] for r in mine if r["method"] == w] for w in ways}
                ax.set(xlim=(0, 103), xlabel="% right, over C4", title=f"{part}: {name}")
                if all(shown.values()):
                    study.dots(ax, shown)
                    ax.tick_params(labelleft=first)
                    first = False
                else:
                    ax.set_axis_off()
                    ax.set_title("")
