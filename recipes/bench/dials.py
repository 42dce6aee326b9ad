"""The dials beside those of the soft-equivariance filters: zero, in between, calls, cost, laws.

    python recipes/bench/dials.py --theirs ../soft-equivariance --out dials.md

`--theirs` is a checkout of that repository (its ViT part needs `transformers` below 5); without it
only our columns are printed. C4 on random weights (`dials_parts.shaken`) and smooth noise; errors
are relative, root mean squares over the three turns and four images. `--only zero dial` runs parts.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch
from dials_calls import calls, cost
from dials_laws import laws
from dials_parts import Both, Deit, Theirs, averaged, change, errors, projected, shaken, smooth
from torch import Tensor, nn

import equiwrap as ew

DIAL = (0.0, 0.1, 0.2, 0.5, 0.8, 0.95, 1.0)
WINDOW = {"img_size": 256, "window_size": 8}
ZERO = (
    ("resnet18", 224, {}),
    ("resnet18", 225, {}),
    ("resnet10t", 224, {}),
    ("resnet10t", 225, {}),
    ("efficientnet_b0", 224, {}),
    ("efficientnet_b0", 225, {}),
    ("mobilenetv3_small_050", 224, {}),
    ("mobilenetv3_small_050", 225, {}),
    ("regnetx_002", 224, {}),
    ("regnetx_002", 225, {}),
    ("convnext_atto", 224, {}),
    ("vit_tiny_patch16_224", 224, {}),
    ("swin_tiny_patch4_window7_224", 224, {}),
    ("swin_tiny_patch4_window7_224", 256, WINDOW),
)


def cell(pair: list[float]) -> str:
    return " / ".join(f"{e:.3f}" if e >= 5e-4 else f"{e:.0e}" for e in pair)


# -- zero ------------------------------------------------------------------------------------------


def zero(theirs: Theirs | None) -> list[str]:
    """At b = 0: exact, or refused with the node and the fix."""
    page = [
        "| model | size | plain | theirs, b = 0 | ours, b = 0 | ours, float64 | how |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, size, options in ZERO:
        x = smooth(size)
        model = shaken(Both(name, **options), x)
        row = [name, str(size), cell(errors(model, x)[0])]
        row.append(cell(errors(theirs(model, 0.0), x)[0]) if theirs else "–")
        try:
            ours, how = projected(model, x), "weights"
        except ew.EquivarianceError as error:
            ours, how = averaged(model), f"average; weights refused: {first_reason(error)}"
        row.append(cell(errors(ours, x)[0]))
        model.double()  # which `ours` shares
        row += [cell(errors(ours, x.double())[0]), how]
        page.append("| " + " | ".join(row) + " |")
    return [*page, "", "Each cell: error of the logits / of the last features on their grid."]


def first_reason(error: Exception) -> str:
    """The first node that an error names, and what to do."""
    return next(line.strip() for line in str(error).splitlines() if line.startswith("  "))


# -- in between ------------------------------------------------------------------------------------


def dial(theirs: Theirs | None) -> list[str]:
    """The four tables of the ViT: errors, what is left of the plain error, drift."""
    x = smooth(224)
    model = shaken(Deit(), x)
    kinds = {
        "weights (project)": lambda b: projected(model, x, b or None),
        "function (average)": lambda b: averaged(model, b),
    }
    if theirs:
        filters = {
            "theirs, hard mask": lambda b: theirs(model, b, hard=True),
            "theirs, default mask": lambda b: theirs(model, b),
        }
        kinds = filters | kinds
    with torch.no_grad():
        logits = model(x)[0]
    _, whole = errors(model, x)
    heads = (
        "Error of the features",
        "Error of the logits",
        "Features: the gap in shares of the plain model's",
        "Drift of the upright logits",
    )
    tables = {head: [] for head in heads}
    for kind, make in kinds.items():
        rows: list[list[str]] = [[], [], [], []]
        for b in DIAL:
            net = make(b)
            with torch.no_grad():
                drift = change(logits, net(x)[0])
            relative, gaps = errors(net, x)
            figures = (relative[1], relative[0], gaps[1] / whole[1], drift)
            for row, figure in zip(rows, figures, strict=True):
                row.append(f"{figure:.3f}")
        for head, row in zip(heads, rows, strict=True):
            tables[head].append(f"| {kind} | " + " | ".join(row) + " |")
    page = at_the_same_gap(theirs, kinds, model, x) if theirs else []
    for head, rows in tables.items():
        page += [f"| {head} | " + " | ".join(f"b = {b:g}" for b in DIAL) + " |"]
        page += ["|---|" + "--:|" * len(DIAL), *rows, ""]
    return page[:-1]


def at_the_same_gap(theirs: Theirs, kinds, model: nn.Module, x: Tensor) -> list[str]:
    """What each dial has changed by when the gap of the features is that of theirs."""
    names = list(kinds)[2:]
    page = ["| theirs, b | gap | drift | " + " | ".join(f"{n}, b | drift" for n in names) + " |"]
    page += ["|--:|--:|--:|" + "--:|" * 2 * len(names)]
    whole = errors(model, x)[1][1]
    with torch.no_grad():
        logits = model(x)[0]
        for b in DIAL[1:5]:
            net = theirs(model, b, hard=True)
            share, row = errors(net, x)[1][1] / whole, [change(logits, net(x)[0])]
            for name in names:
                place, found = matched(kinds[name], share, whole, x)
                row += [place, change(logits, found(x)[0])]
            page.append(f"| {b:g} | {share:.3f} | " + " | ".join(f"{v:.3f}" for v in row) + " |")
    return [*page, ""]


def matched(make, share: float, whole: float, x: Tensor) -> tuple[float, nn.Module]:
    """The b whose gap is this share of the plain model's, to a thousandth: false positions."""
    low, high = (0.0, 0.0), (1.0, 1.0)
    for _ in range(9):
        b = low[0] + (share - low[1]) * (high[0] - low[0]) / (high[1] - low[1])
        net = make(b)
        now = errors(net, x)[1][1] / whole
        if abs(now - share) < 1e-3:
            break
        low, high = ((b, now), high) if now < share else (low, (b, now))
    return b, net


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--theirs", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parts = ("zero", "dial", "calls", "cost", "laws")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    theirs = Theirs(chosen.theirs) if chosen.theirs else None
    tables = {
        "zero": lambda: zero(theirs),
        "dial": lambda: dial(theirs),
        "calls": lambda: calls(theirs),
        "cost": lambda: cost(theirs, chosen.rounds),
        "laws": laws,
    }
    page = []
    for part in chosen.only:
        page += [*tables[part](), ""]
    where = f"torch {torch.__version__}, {chosen.threads} thread, {platform.machine()}"
    page.append(f"{where}; theirs: {f'commit {theirs.commit}' if theirs else 'not given'}.")
    print("\n".join(page))
    if chosen.out:
        chosen.out.write_text("\n".join([*page, ""]))


if __name__ == "__main__":
    main()
