"""What looking inside costs: the layerwise profile and the layerwise Lie derivative.

    python recipes/bench/layers.py --threads 1 --out layers.md

Ratios to one plain forward of the doubled batch [x, g x]; runs take turns, the fastest counts, in
process time. The types are propagated once, before.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import timm
import torch
from torch import nn

import equiwrap as ew
from equiwrap.audit import layerwise, lie_layerwise
from equiwrap.graph.propagate import propagate
from equiwrap.graph.twin import twin_of
from equiwrap.signature import Signature

MODELS = (
    ("resnet18", 64, 16),
    ("resnet18", 224, 4),
    ("efficientnet_b0", 65, 16),
    ("vit_small_patch16_224", 224, 4),
)


def measured(name: str, size: int, batch: int, rounds: int) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    x = torch.randn(batch, 3, size, size)
    doubled = torch.cat([x, x.rot90(1, (2, 3))])
    group = ew.groups.parse_group("C4")
    typing = propagate(model, Signature.parse("b c h w -> b k", group), (doubled,), {})
    turning = Signature.parse("b c h w -> b k", ew.groups.parse_group("SO(2)"))
    rotating = propagate(model, turning, (x,), {})
    twin = twin_of(model, False)
    g = group.generators()[0]
    runs = {
        "plain": lambda: model(doubled),
        "profile": lambda: layerwise(twin, typing, g, (x,), {}),
        "lie": lambda: lie_layerwise(twin, rotating, (x,), {}),
        "naive": lambda: stored(model, x),
    }
    times: dict[str, list[float]] = {key: [] for key in runs}
    with torch.no_grad():
        for _ in range(rounds):
            for key, run in runs.items():
                start = time.process_time()
                run()
                times[key].append(time.process_time() - start)
    best = {key: min(found[1:]) for key, found in times.items()}
    parts = [f"{best[key] / best['plain']:.2f}" for key in ("profile", "lie", "naive")]
    nodes = sum(site.kind is not None for site in typing.sites.values())
    return f"| {name} | {size} | {batch} | {nodes} | " + " | ".join(parts) + " |"


def stored(model: nn.Module, x: torch.Tensor) -> None:
    """Two forwards that keep every module's output: what hooks alone would do, before comparing."""
    for value in (x, x.rot90(1, (2, 3))):
        kept: list[torch.Tensor] = []
        hooks = [
            m.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o.clone()))
            for m in model.modules()
        ]
        model(value)
        for hook in hooks:
            hook.remove()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    head = [
        "| model | size | batch | nodes | profile | Lie derivative | two forwards with hooks |",
        "|---|---|---|---|---|---|---|",
    ]
    table = [*head, *(measured(*model, chosen.rounds) for model in MODELS)]
    where = f"torch {torch.__version__}, {chosen.threads} thread, {platform.machine()}"
    text = "\n".join([*table, "", f"In plain forwards of the doubled batch; {where}."])
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
