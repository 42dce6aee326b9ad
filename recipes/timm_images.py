"""timm's resnets, ViT, ConvNeXt and Swin on real images: adapted when frozen, or trained so.

    python recipes/timm_images.py --seeds 3 --json timm_images.json --figure timm_images.svg
    python recipes/timm_images.py --quick                     # ConvNeXt and C4, fewer epochs
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

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from timm_parts import Row, Task, figure, tables, task_of, train
from torch import Tensor, nn
from tqdm import tqdm

import equiwrap as ew
from equiwrap.frames import fit_upright
from equiwrap.groups import parse_group

CONFIGS = Path(__file__).parent / "configs"
SETS = ("C4", "D4", "±45°")
KEYS = ("part", "name", "set", "method", "seed")
OURS = ("group", "frame")  # what a config says about equivariance, and a method says anew


def methods(group: str, side: int) -> dict[str, dict[str, Any]]:
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
        "penalty": {"group": group, "method": "penalize", "penalty": 100.0, "example": side},
        "soft": {"group": group, "frame": "whole", "softness": 0.3},
    }


def configs(names: list[str]) -> dict[str, dict[str, Any]]:
    """The YAML files by name.

    Raises:
        SystemExit: there is no such file.
    """
    held = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
    if lost := [name for name in names if name not in held]:
        sys.exit(f"There is no config {', '.join(lost)}: there are {', '.join(held)}.")
    return {name: yaml.safe_load(held[name].read_text()) for name in names or held}


def plainly(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the plain network."""
    own = {k: v for k, v in config["model_kwargs"].items() if k not in OURS}
    return {**config, "model": config["model"].removeprefix("equi_"), "model_kwargs": own}


def wrapped(config: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The config with another way to be equivariant."""
    return {**config, "model_kwargs": {**plainly(config)["model_kwargs"], **ours}}


def fit_prior(x: Tensor, group: str) -> nn.Module:
    """The upright prior of unlabelled images."""
    return fit_upright(x, parse_group(group), steps=400)


def adapt(
    name: str, config: dict[str, Any], sets: list[str], seed: int, task: Task
) -> Iterator[Row]:
    """A frozen network and what is put around it."""
    net, _ = train(plainly(config), task, seed)
    net.eval().requires_grad_(False)
    for group in sets:
        around: dict[str, nn.Module] = {"frozen": net}
        if group == "±45°":
            partial = ew.frames.Partial(45, samples=5)
            around["average"] = ew.equivariantize(net, "SO(2)", "b c h w -> b k", frame=partial)
        else:
            prior = task.prior(group, fit_prior)
            frames = {"average": "whole", "its confidence": "confidence", "upright prior": prior}
            for method, frame in frames.items():
                around[method] = ew.equivariantize(net, group, "b c h w -> b k", frame=frame)
        for method, model in around.items():
            yield task.row("adapt", name, group, method, seed, model.eval(), 0.0)
    guard = ew.measure.orbit_accuracy(net, "C4", task.test, task.truth)
    tqdm.write(f"{name}, seed {seed}. The guard says: {guard}")


def scratch(
    name: str, config: dict[str, Any], sets: list[str], seed: int, task: Task
) -> Iterator[Row]:
    """The same network trained in each way."""
    for group in sets:
        for method, ours in methods(group, config["img_size"]).items():
            model, passes = train(wrapped(config, ours), task, seed)
            tested = ew.unwrap(model) if method == "augmentation" else model
            yield task.row("scratch", name, group, method, seed, tested.eval(), passes)


def write(folder: Path, chosen: dict[str, dict[str, Any]]) -> None:
    """Every config of the study as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in chosen.items():
        ways = {"plain": plainly(config)}
        for group in SETS:
            for method, ours in methods(group, config["img_size"]).items():
                ways[f"{group.strip('±°')}-{method}"] = wrapped(config, ours)
        for way, each in ways.items():
            (folder / f"{name}-{way}.yaml").write_text(yaml.safe_dump(each, sort_keys=False))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="ConvNeXt, C4, one seed, 4 epochs")
    parser.add_argument("--only", default="", help="configs, comma-separated; all by default")
    parser.add_argument("--part", choices=["adapt", "scratch"], help="one of the two; both if not")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", default="C4,D4,±45°", help="comma-separated")
    parser.add_argument("--epochs", type=int, help="instead of the configs' own")
    parser.add_argument("--data", type=Path, help="a folder with MNIST's t10k files")
    parser.add_argument("--limit", type=int, default=600, help="images to train on, and to test on")
    parser.add_argument("--json", type=Path, help="keep the results here, and add to those there")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--write", type=Path, help="write all configs here, and stop")
    asked = parser.parse_args()
    chosen = configs([n for n in (asked.only or "convnext" * asked.quick).split(",") if n])
    if asked.write:
        return write(asked.write, chosen)
    rows = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    sets = ["C4"] if asked.quick else asked.sets.split(",")
    limit = 450 if asked.quick else asked.limit
    parts = [each for each in (adapt, scratch) if asked.part in (None, each.__name__)]
    for name, config in chosen.items():
        config["epochs"] = asked.epochs or (4 if asked.quick else config["epochs"])
        for seed in range(1 if asked.quick else asked.seeds):
            task = task_of(config["img_size"], asked.data, seed, limit)
            for part in parts:
                for row in tqdm(part(name, config, sets, seed, task), name):
                    rows = [r for r in rows if any(r[k] != row[k] for k in KEYS)] + [row]
                    if asked.json:
                        asked.json.write_text(json.dumps(rows, indent=0) + "\n")
    print(tables(rows))
    if asked.figure:
        figure(rows, asked.figure)


if __name__ == "__main__":
    main()
