"""Whole models on projected weights: what stays of their error, and what the folded copy costs.

    python recipes/survey_projection.py --out projection.md          # the small ones, some minutes
    python recipes/survey_projection.py --slow --out projection.md   # and the large ones
    python recipes/survey_projection.py --only resnet18 --groups D4

Random weights and statistics. *Nodes* are those that pass 1e-9 in float64 after projection, of all
that have a type; *output* is the error of the logits, relative; *before* is the same without the
projection. *Regular* counts the layers whose channels move. *Fold* says whether the plain copy with
the projected weights gives the very same bits as the projected model, and its time over the model's
own: the median ratio of processor times of interleaved runs on one thread.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from survey_timm import randomise
from torch import Tensor, nn

import equiwrap as ew
from equiwrap.errors import EquivarianceError
from equiwrap.graph.hidden import channels_of
from equiwrap.graph.layout import Layout, lay_out
from equiwrap.groups import parse_group
from equiwrap.signature import Signature


class Entry(NamedTuple):
    """A model at one size, and whether it takes long."""

    name: str
    size: int
    options: dict[str, int] = {}  # noqa: RUF012  never written to
    slow: bool = False


ENTRIES = [
    Entry("resnet18", 65),
    Entry("resnet18", 64),
    Entry("convnext_atto", 64),
    Entry("efficientnet_b0", 65),
    Entry("efficientnet_b0", 64),
    Entry("mobilenetv3_small_100", 65),
    Entry("vit_tiny_patch16_224", 64, {"img_size": 64}),
    Entry("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 8}),
    Entry("regnetx_002", 65),
    Entry("mixer_s32_224", 64, {"img_size": 64}),
    Entry("resnet18", 225, slow=True),
    Entry("resnet18", 224, slow=True),
    Entry("resnet50", 65, slow=True),
    Entry("resnet50", 225, slow=True),
    Entry("resnet50", 224, slow=True),
    Entry("vgg11_bn", 64, slow=True),
    Entry("vit_small_patch16_224", 64, {"img_size": 64}, slow=True),
    Entry("resnext50_32x4d", 65, slow=True),
    Entry("densenet121", 61, slow=True),
]
HEAD = (
    "| model | size | group | hidden | class | nodes | output | before | regular | fold | cost |\n"
    "|---|--:|---|---|---|--:|--:|--:|--:|---|--:|"
)


def built(entry: Entry) -> nn.Module:
    """The model in eval mode, nothing in it trivial."""
    torch.manual_seed(0)
    net = timm.create_model(entry.name, num_classes=7, **entry.options)
    randomise(net)
    return net.eval()


def regular(layout: Layout) -> str:
    """Layers whose channels move, of all that mix channels."""
    kinds = [site.kind for site in layout.typing.sites.values()]
    axes = [axis for kind in kinds for axis in getattr(kind, "axes", ())]
    found = {p for axis in axes for atom in channels_of(axis) for p in atom.origin}
    return f"{len(found)} of {len(layout.typing.hidden.sizes)}"


def cost(net: nn.Module, folded: nn.Module, x: Tensor, repeats: int) -> float:
    """The folded copy's time over the model's, interleaved."""
    ratios = []
    with torch.no_grad():
        for n in range(repeats):
            taken = {}
            for model in (net, folded, folded, net)[2 * (n % 2) :][:2]:
                start = time.process_time()
                model(x)
                taken[model is folded] = time.process_time() - start
            ratios.append(taken[True] / taken[False])
    return statistics.median(ratios)


def row(entry: Entry, group: str, hidden: str, repeats: int) -> str:
    """One line of the table."""
    net = built(entry)
    x = torch.randn(1, 3, entry.size, entry.size)
    signature = Signature.parse("b c h w -> b k", parse_group(group))
    layout = lay_out(net, signature, (x,), {}, hidden)
    probed = layout.probed
    passed = sum(error <= 1e-9 for error in probed.errors.values())
    before = float(
        ew.measure.equivariance_error(net, group, x.repeat(2, 1, 1, 1), signature=signature)
    )
    bits, ratio = "", ""
    try:
        exact = ew.equivariantize(net, group, signature, method="project", hidden=hidden, example=x)
    except EquivarianceError:
        exact = None
    if exact is not None:
        folded = exact.equiwrap.fold()
        with torch.no_grad():
            bits = "same bits" if torch.equal(folded(x), exact(x)) else "differs"
        ratio = f"{cost(net, folded, x, repeats):.2f}"
    cells = (
        entry.name, entry.size, group, hidden, layout.label, f"{passed} of {len(probed.errors)}",
        f"{probed.output:.0e}", f"{before:.0e}", regular(layout), bits, ratio,
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--groups", default="C4,D4")
    parser.add_argument("--hidden", default="trivial,regular")
    parser.add_argument("--only", default="")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start, lines = time.time(), [HEAD]
    chosen = [e for e in ENTRIES if args.only in e.name and (args.slow or not e.slow)]
    if not chosen:
        parser.error(f"--only {args.only} is part of no model's name here (some need --slow).")
    for entry in chosen:
        for group in args.groups.split(","):
            for hidden in args.hidden.split(","):
                lines.append(row(entry, group, hidden, args.repeats))
                print(lines[-1], file=sys.stderr)
    head = (
        f"`python recipes/survey_projection.py{' --slow' if args.slow else ''}`, torch "
        f"{torch.__version__.split('+')[0]}, timm {timm.__version__}, Python "
        f"{platform.python_version()}, CPU, one thread, {time.time() - start:.0f} s."
    )
    text = f"{head}\n\n" + "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
