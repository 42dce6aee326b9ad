"""Types through one model of every timm family: what is typed, what is misaligned, what is exact.

    python recipes/survey_types.py --out types.md                    # every family, C4
    python recipes/survey_types.py --group D4 --families resnet,swin_transformer

Each model has random weights and statistics, is propagated at the aligned size next to the smallest
one that runs, projected in float64 and probed at every typed node. `typed` counts nodes with a
type, `first reason` is why the first other one has none. Windows are made even where a model takes
their size. OMP_NUM_THREADS=1 is fastest on few cores.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from survey_capture_zoo import HUGGING, VISION, hugging_model, vision_model
from survey_timm import build, create, randomise, smallest, works
from torch import Tensor, nn

from equiwrap.graph.advice import fixes, size_to_use
from equiwrap.graph.propagate import propagate
from equiwrap.graph.snap import snap_and_probe
from equiwrap.groups import parse_group
from equiwrap.signature import Signature


@dataclass
class Row:
    """One model: how many nodes, how many with a type, and what the probe said."""

    model: str
    size: int = 0
    nodes: int = 0
    typed: int = 0
    misaligned: int = 0
    label: str = "failed"
    error: float = float("nan")
    reason: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        cells = (
            self.model,
            self.size or "",
            self.nodes,
            self.typed,
            self.misaligned,
            self.label,
            f"{self.error:.0e}",
            self.reason,
        )
        return "| " + " | ".join(map(str, cells)) + " |"


HEAD = """| model | size | nodes | typed | misaligned | class | error, projected | first reason |
|---|---|---|---|---|---|---|---|"""


def survey(name: str, net: nn.Module, x: Tensor, group: str) -> Row:
    """One model on one image."""
    start = time.perf_counter()
    net = positional(net)
    signature = Signature.parse("b c h w -> b k", parse_group(group))
    typing = propagate(net, signature, (torch.cat([x, x]),), {})
    probed = snap_and_probe(net, typing, (x,), {})
    reasons = [line for line in fixes(typing, None) if line[1] not in ("stride", "padding")]
    reasons += fixes(typing, None)
    reason = f"`{reasons[0][0]}`: {reasons[0][2]}" if reasons else ""
    if not reason and probed.label == "UNSOUND" and probed.failing:
        reason = f"`{probed.failing[0].name}` fails"
    typed = len(typing.sites) - len(typing.untyped)
    found = Row(name, x.shape[-1], len(typing.sites), typed, len(typing.misaligned))
    found.label, found.error, found.reason = probed.label, probed.output, reason
    found.seconds = time.perf_counter() - start
    return found


class _First(nn.Module):
    """A Hugging Face model by position, its logits (or its pooled or last states' mean)."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(**{self.name: x})
        for name in ("logits", "pooler_output", "image_embeds"):
            if getattr(out, name, None) is not None:
                return getattr(out, name)
        return out[0].mean(1)


def positional(net: nn.Module) -> nn.Module:
    """The model called by position."""
    takes = getattr(net, "main_input_name", None)
    return _First(net, takes) if takes else net


def best(name: str, group: str) -> Row:
    """At a small size; if that leaves something, at the model's own."""
    rows: list[Row] = []
    for own in (False, True):
        torch.manual_seed(0)
        if own and timm.get_pretrained_cfg_value(name, "input_size")[-1] > 256:
            break
        net, size = aligned(name, group, own)
        if rows and size == rows[0].size:
            break
        randomise(net)
        rows.append(survey(name, net.eval(), torch.randn(1, channels_of(net), size, size), group))
        if rows[-1].label == "EXACT" or sum(p.numel() for p in net.parameters()) > 1e8:
            break
    return max(rows, key=lambda row: (row.label == "EXACT", row.typed / max(row.nodes, 1)))


def aligned(name: str, group: str, own: bool = False) -> tuple[nn.Module, int]:
    """A model of timm at the aligned size next to a small one (or its own), its windows even."""
    net, size = build(name)
    size = max(size, 64)  # below, the last grids have one pixel
    if own:
        net = create(name)
        size = net.default_cfg["input_size"][-1]
        return net, found_size(net, size, group)
    for window in ({"window_size": 8 if size % 64 == 0 else 4}, {}):
        try:
            net = create(name, img_size=size, **window)
            net(torch.randn(1, channels_of(net), size, size))
            break
        except Exception:
            continue
    else:
        net, smallest_size = build(name)
        size = size if works(net, size) else smallest_size
    return net, found_size(net, size, group)


def found_size(net: nn.Module, size: int, group: str) -> int:
    """The aligned size next to this one, or this one."""
    signature = Signature.parse("b c h w -> b k", parse_group(group))
    x = torch.randn(2, channels_of(net), size, size)
    return size_to_use(net, propagate(net, signature, (x,), {}), (x,), {}) or size


def channels_of(net: nn.Module) -> int:
    """The channels of its images."""
    return getattr(net, "default_cfg", {}).get("input_size", (3,))[0]


def others(group: str) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Torchvision's classifiers and Hugging Face's image models."""
    for name, size in VISION.items():
        if name.split("_")[0] not in ("fcn", "deeplabv3", "lraspp"):
            yield name, lambda n=name, s=size: _other(n, vision_model(n, s), group)
    for name in HUGGING:
        if set(HUGGING[name][-1](1)[1]) == {"pixel_values"}:
            yield name, lambda n=name: _other(n, hugging_model(n), group)


def _other(name: str, made: tuple[nn.Module, Any], group: str) -> Row:
    net, call = made
    net = positional(net.eval())
    args, kwargs = call(1)
    size = found_size(net, (args or tuple(kwargs.values()))[0].shape[-1], group)
    return survey(name, net, torch.randn(1, 3, size, size), group)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", default="C4")
    parser.add_argument("--families", help="of timm, comma-separated; all without it, or none")
    parser.add_argument("--others", action="store_true", help="torchvision and Hugging Face too")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    every = timm.list_modules()
    some = every if options.families is None else options.families.split(",")
    names = [smallest(f) if f in every else f for f in some if f != "none"]
    cases = [(n, partial(best, n, options.group)) for n in names]
    cases += others(options.group) if options.others else []
    rows = []
    for name, run in cases:
        try:
            rows.append(run())
        except Exception as error:
            rows.append(Row(name, reason=f"{type(error).__name__}: {str(error)[:80]}"))
        print(rows[-1], f"{rows[-1].seconds:.0f} s", file=sys.stderr, flush=True)
    text = "\n".join([HEAD, *map(str, rows), "", totals(rows)])
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def totals(rows: list[Row]) -> str:
    """How many of each class."""
    labels = [row.label for row in rows]
    parts = ", ".join(f"{labels.count(label)} {label}" for label in sorted(set(labels)))
    nodes, typed = sum(r.nodes for r in rows), sum(r.typed for r in rows)
    return f"{len(rows)} models: {parts}; {typed} of {nodes} nodes typed."


if __name__ == "__main__":
    main()
