"""The dials beside those of the soft-equivariance filters: zero, in between, calls, cost, laws.

    python recipes/bench/dials.py --theirs ../soft-equivariance --out dials.md

`--theirs` is a checkout of that repository (its ViT part needs `transformers` below 5); without it
only our columns are printed. C4 on random weights (`dials_parts.shaken`) and smooth noise; errors
are relative, root mean squares over the three turns and four images. `--only zero dial` runs parts.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from pathlib import Path
from statistics import median

import torch
from dials_laws import laws
from dials_parts import Both, Deit, Theirs, change, errors, quiet, shaken, smooth
from torch import Tensor, nn

import equiwrap as ew

SIGNATURE = "b c h w -> b k, b c h w"
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


def projected(model: nn.Module, x: Tensor, b: float | None = None) -> nn.Module:
    """The dial of the weights."""
    return ew.equivariantize(model, "C4", SIGNATURE, method="project", softness=b, example=x)


def averaged(model: nn.Module, b: float | None = None) -> nn.Module:
    """The dial of the function."""
    return ew.equivariantize(model, "C4", SIGNATURE, frame="whole", softness=b)


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
    page = []
    for head, rows in tables.items():
        page += [f"| {head} | " + " | ".join(f"b = {b:g}" for b in DIAL) + " |"]
        page += ["|---|" + "--:|" * len(DIAL), *rows, ""]
    return page[:-1]


# -- calls and keys --------------------------------------------------------------------------------


def calls(theirs: Theirs | None) -> list[str]:
    """What five calls, a checkpoint, a copy and an exporter meet at b = 0.5."""
    page = []
    for name, size in (("DeiT-Ti (transformers)", 224), ("resnet18", 225)):
        x = smooth(size, 2)
        model = shaken(Deit() if size == 224 else Both(name), x)
        nets = {"plain": lambda m=model: copy.deepcopy(m)}
        if theirs:
            nets["theirs, default mask"] = lambda m=model: theirs(m, 0.5)
            nets["theirs, hard mask"] = lambda m=model: theirs(m, 0.5, hard=True)
        nets["ours, weights"] = lambda m=model, x=x: projected(copy.deepcopy(m), x, 0.5)
        nets["ours, function"] = lambda m=model: averaged(copy.deepcopy(m), 0.5)
        facts = {kind: met(make, model, x) for kind, make in nets.items()}
        page += [f"| {name} | " + " | ".join(facts) + " |", "|---|" + "--:|" * len(facts)]
        for what in facts["plain"]:
            page.append(f"| {what} | " + " | ".join(f[what] for f in facts.values()) + " |")
        page.append("")
    return page[:-1]


@torch.no_grad()
def met(make, plain: nn.Module, x: Tensor) -> dict[str, str]:
    """What one network does."""
    net, other = make(), make()
    first, before = net(x)[0], copy.deepcopy(net.state_dict())
    outs = [net(x)[0] for _ in range(4)]
    start, now = make().state_dict(), net.state_dict()
    state = max(change(start[k], now[k]) for k in start if start[k].is_floating_point())
    keys = set(plain.state_dict())
    return {
        "logits, 1st to 2nd call": f"{change(first, outs[0]):.2%}",
        "logits, 1st to 5th call": f"{change(first, outs[-1]):.2%}",
        "`state_dict`, by eval calls": f"{state:.0%}",
        "keys added": str(len(set(before) - keys)),
        "strict load of the plain checkpoint": tried(
            lambda: other.load_state_dict(plain.state_dict())
        ),
        "its checkpoint into the plain model": tried(
            lambda: copy.deepcopy(plain).load_state_dict(before)
        ),
        "`deepcopy`, the same output": tried(lambda: same(copy.deepcopy(net)(x)[0], net(x)[0])),
        "`torch.export`": tried(lambda: torch.export.export(make(), (x,))),
    }


def same(a: Tensor, b: Tensor) -> None:
    """Nothing.

    Raises:
        ValueError: the bits differ.
    """
    if not torch.equal(a, b):
        raise ValueError("the outputs differ")


def tried(call) -> str:
    """Yes, or the kind of the error."""
    try:
        with quiet():
            call()
    except Exception as error:
        return f"no ({type(error).__name__})"
    return "yes"


# -- cost ------------------------------------------------------------------------------------------


def cost(theirs: Theirs | None, rounds: int) -> list[str]:
    """Forward passes in shares of the plain one, and how long it takes to get there."""
    page = [
        "| model | batch | what | forward | to build (s) |",
        "|---|--:|---|--:|--:|",
    ]
    for name, size in (("resnet18", 225), ("DeiT-Ti", 224)):
        x = smooth(size, 8)
        model = shaken(Deit() if name == "DeiT-Ti" else Both(name), x)
        nets, built = {"plain": model}, {}
        makers = {
            "weights, b = 0.5": lambda m=model, x=x: projected(m, x[:1], 0.5),
            "weights, folded": lambda n=nets: n["weights, b = 0.5"].equiwrap.fold(),
            "function, b = 0.5": lambda m=model: averaged(m, 0.5),
        }
        if theirs:
            makers = {"theirs, b = 0.5": lambda m=model: theirs(m, 0.5)} | makers
        for kind, make in makers.items():
            start = time.process_time()
            nets[kind] = make()
            built[kind] = time.process_time() - start
        for batch in (1, 8):
            found = turns(nets, x[:batch], rounds)
            for kind in built:
                shares = [a / b for a, b in zip(found[kind], found["plain"], strict=True)]
                page.append(
                    f"| {name} | {batch} | {kind} | {median(shares):.2f}× | {built[kind]:.2f} |"
                )
    return [*page, "", f"Process time, medians of {rounds} rounds in which all take turns."]


@torch.no_grad()
def turns(nets: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {kind: [] for kind in nets}
    for i in range(rounds + 1):
        for kind, net in nets.items():
            start = time.process_time()
            net(x)
            if i:
                found[kind].append(time.process_time() - start)
    return found


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
