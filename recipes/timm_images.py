"""timm's resnets, ViT, ConvNeXt and Swin on real images: adapted when frozen, or trained so.

    python recipes/timm_images.py --seeds 3 --json timm_images.json --figure timm_images.svg
    python recipes/timm_images.py --quick                     # ConvNeXt and C4, fewer epochs
    python recipes/timm_images.py --part scratch              # what takes hours on a CPU too
    python recipes/timm_images.py --data FOLDER               # MNIST's t10k files
    python recipes/timm_images.py --write FOLDER              # configs for timm's train.py, no run

Architectures and training are the YAML files of `recipes/configs`, which timm's own train.py takes
by `--config` (through `python -m equiwrap.integrations.timm`). All training images are upright.
*Adapt*: a plain network is trained and frozen, then wrapped in four ways without its labels.
*Scratch*: each wrapped network is trained for the same number of epochs. "Turned" is the accuracy
over all elements of the group, or over turns by U(−45°, 45°), "error" the relative equivariance
error of the logits, "passes" how many passes of the network an image costs in training, in eval.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import study
import yaml
from timm_parts import SETS, SIGNATURE, Row, Task, figure, table, task_of, train
from torch import nn

import equiwrap as ew
from equiwrap.frames import fit_upright
from equiwrap.groups import parse_group

CONFIGS = Path(__file__).parent / "configs"
Config = dict[str, Any]
KEYS = ("part", "name", "set", "method", "seed")
OURS = ("group", "frame")  # what a config says about equivariance, and a method says anew
COSTLY = {  # hours on a CPU: from scratch these run where `--part scratch` asks for them
    "resnet50": {"D4"},
    "swin": {"D4"},
    "vit_small": {"D4", "±45°"},
}


def methods(group: str, side: int) -> dict[str, Config]:
    """`--model-kwargs` of every way to train from scratch, with this group or set."""
    if group == "±45°":
        turns = {"group": "SO(2)", "frame": "partial", "degrees": 45}
        turns["signature"] = "b c h w -> b k"
        return {
            "augmentation": {**turns, "samples": 1},
            "average": {**turns, "samples": 5},
        }
    return {
        "augmentation": {"group": group, "frame": "whole", "stochastic": True},
        "average": {"group": group, "frame": "whole"},
        "canonical": {"group": group, "frame": "key"},
        "penalty": {"group": group, "method": "penalize", "penalty": 1000.0, "example": side},
        "soft": {"group": group, "frame": "whole", "softness": 0.3},
    }


def configs(names: list[str]) -> dict[str, Config]:
    """The YAML files by name.

    Raises:
        SystemExit: there is no such file.
    """
    held = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
    if lost := [name for name in names if name not in held]:
        sys.exit(f"There is no config {', '.join(lost)}: there are {', '.join(held)}.")
    return {name: yaml.safe_load(held[name].read_text()) for name in names or held}


def plainly(config: Config) -> Config:
    """The config of the plain network."""
    own = {k: v for k, v in config["model_kwargs"].items() if k not in OURS}
    return {**config, "model": config["model"].removeprefix("equi_"), "model_kwargs": own}


def wrapped(config: Config, ours: dict[str, Any]) -> Config:
    """The config with another way to be equivariant."""
    return {**config, "model_kwargs": {**plainly(config)["model_kwargs"], **ours}}


@dataclass
class Study:
    """Which images, and how many; frozen networks and priors are made when first asked for."""

    data: Path | None
    limit: int
    made: dict[tuple[object, ...], Any] = field(default_factory=dict)

    def run(self, config: Config, part: str, name: str, over: str, method: str, seed: int) -> Row:
        """One row of a table."""
        task = task_of(config["img_size"], self.data, seed, self.limit)
        if part == "adapt":
            model, passes = self.around(config, name, over, method, seed, task), 0.0
        else:
            ours = methods(over, config["img_size"])[method]
            model, passes = train(wrapped(config, ours), task, seed)
            model = ew.unwrap(model) if method == "augmentation" else model
        return task.row(part, name, over, method, seed, model.eval(), passes)

    def around(
        self, config: Config, name: str, over: str, method: str, seed: int, task: Task
    ) -> nn.Module:
        """The frozen network in one of its wrappings."""
        net = self.once((name, seed), lambda: train(plainly(config), task, seed)[0])
        net.eval().requires_grad_(False)
        if method == "frozen":
            return net
        if over == "±45°":
            return ew.equivariantize(net, "SO(2)", SIGNATURE, frame="partial", degrees=45)
        frame: Any = {"average": "whole", "its confidence": "confidence"}.get(method)
        group = parse_group(over)
        if frame is None:
            size = config["img_size"]
            frame = self.once((over, size, seed), lambda: fit_upright(task.train, group, steps=400))
        return ew.equivariantize(net, group, SIGNATURE, frame=frame)

    def nets(self) -> list[tuple[tuple[str, int], nn.Module]]:
        """The frozen networks by name and seed."""
        return [(key, net) for key, net in self.made.items() if len(key) == 2]  # type: ignore[misc]

    def once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """What was made under this key."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def tabled(part: str, name: str, over: str, every: bool = False) -> list[str]:
    """The rows of a network under a group or set; `every`: the costly ones too."""
    if part == "adapt":
        return ["frozen", "average"] + ["its confidence", "upright prior"] * (over != "±45°")
    found = methods(over, 0)
    return [way for way in found if every or over not in COSTLY.get(name, ())]


def write(folder: Path, chosen: dict[str, Config]) -> None:
    """Every config of the study as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in chosen.items():
        ways = {"plain": plainly(config)}
        for group in SETS:
            for method, ours in methods(group, config["img_size"]).items():
                ways[f"{group.strip('±°')}-{method}"] = wrapped(config, ours)
        for way, each in ways.items():
            (folder / f"{name}-{way}.yaml").write_text(yaml.safe_dump(each, sort_keys=False))


def guards(own: Study, chosen: dict[str, Config]) -> str:
    """What the guard says of the frozen networks of this run."""
    said = []
    for (name, seed), net in own.nets():
        task = task_of(chosen[name]["img_size"], own.data, seed, own.limit)
        found = ew.measure.orbit_accuracy(net, "C4", task.test, task.truth)
        said.append(f"{name}, seed {seed}. The guard says: {found}")
    return "\n\n".join(said)


def main(given: list[str] | None = None) -> None:
    """The command line."""
    asked = study.asked(
        __doc__,
        given,
        seeds=3,
        quick="ConvNeXt, C4, 3 epochs",
        only={"default": "", "help": "configs, comma-separated; all by default"},
        part={"choices": ["adapt", "scratch"], "help": "one, with what is costly"},
        sets={"default": ",".join(SETS), "help": "comma-separated"},
        epochs={"type": int, "help": "instead of the configs' own"},
        limit={"type": int, "default": 600, "help": "images to train on, and to test on"},
        data={"type": Path, "help": "a folder with MNIST's t10k files"},
        write={"type": Path, "help": "write all configs here, and stop"},
    )
    chosen = configs([n for n in (asked.only or "convnext" * asked.quick).split(",") if n])
    if asked.write:
        return write(asked.write, chosen)
    if asked.limit < 1:
        sys.exit(f"--limit {asked.limit} was asked for: it counts images, one at least.")
    for config in chosen.values():
        config["epochs"] = asked.epochs or (3 if asked.quick else config["epochs"])
    sets = ["C4"] if asked.quick else asked.sets.split(",")
    if lost := [each for each in sets if each not in SETS]:
        sys.exit(f"There is no set {', '.join(lost)}: there are {', '.join(SETS)}.")
    done = {tuple(row[k] for k in KEYS) for row in study.read(asked.json)}
    todo = [
        key
        for name, config in chosen.items()
        for seed in asked.seeds
        for part in ([asked.part] if asked.part else ["adapt", "scratch"])
        for over in sets
        for method in tabled(part, name, over, bool(asked.part))
        if (key := (part, name, over, method, seed)) not in done
    ]
    own = Study(asked.data, 450 if asked.quick else asked.limit)
    about = {"data": "MNIST" if asked.data else "digits", "limit": own.limit}
    about["epochs"] = asked.epochs or (3 if asked.quick else "as configured")
    rows = study.gathered(
        asked, todo, lambda key: [study.short(own.run(chosen[key[1]], *key), 5)], config=about
    )
    study.shown(asked, rows, table, figure)
    print(guards(own, chosen))


if __name__ == "__main__":
    main()
