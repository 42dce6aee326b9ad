"""What calls, checkpoints and exporters meet, and what the dials cost: two tables of `dials.py`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from dials_parts import (
    TABLES,
    Both,
    Deit,
    Theirs,
    averaged,
    change,
    projected,
    quiet,
    shaken,
    smooth,
)
from torch import Tensor, nn

__all__ = ["calls", "cost"]


def calls(theirs: Theirs | None) -> list[str]:
    """What five calls, a checkpoint, a copy and an exporter meet at b = 0.5."""
    page = []
    for name, size in (("DeiT-Ti (transformers)", 224), ("resnet18", 225)):
        x = smooth(size, 2)
        model = shaken(Deit() if size == 224 else Both(name), x)
        nets = {"plain": lambda b, m=model: copy.deepcopy(m)}
        if theirs:
            nets["theirs, default mask"] = lambda b, m=model: theirs(m, b)
            nets["theirs, hard mask"] = lambda b, m=model: theirs(m, b, hard=True)
        nets["ours, weights"] = lambda b, m=model, x=x: projected(copy.deepcopy(m), x, b or None)
        nets["ours, function"] = lambda b, m=model: averaged(copy.deepcopy(m), b)
        facts = {kind: met(make, model, x) for kind, make in nets.items()}
        page += [f"| {name} | " + " | ".join(facts) + " |", "|---|" + "--:|" * len(facts)]
        for what in facts["plain"]:
            page.append(f"| {what} | " + " | ".join(f[what] for f in facts.values()) + " |")
        page.append("")
    return page[:-1]


@torch.no_grad()
def met(make: Callable[[float], nn.Module], plain: nn.Module, x: Tensor) -> dict[str, str]:
    """What one network does."""
    net, other = make(0.5), make(0.5)
    first, before = net(x)[0], copy.deepcopy(net.state_dict())
    outs = [net(x)[0] for _ in range(4)]
    start, now = make(0.5).state_dict(), net.state_dict()
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
        "`torch.export`": tried(lambda: torch.export.export(make(0.5), (x,))),
        "`torch.compile`, one graph": tried(lambda: compiled(make, x)),
        "table's gradient outside im P, b = 0": outside(make(0.0), x),
    }


def compiled(make: Callable[[float], nn.Module], x: Tensor) -> None:
    """Nothing.

    Raises:
        ValueError: the first outputs of two fresh networks differ beyond rounding.
    """
    found = torch.compile(make(0.5), fullgraph=True, backend="aot_eager")(x)
    if change(make(0.5)(x)[0], found[0]) > 1e-5:
        raise ValueError("the outputs differ")


@torch.enable_grad()
def outside(net: nn.Module, x: Tensor) -> str:
    """*‖∇ − P∇‖ / ‖∇‖* of the position table, the class token's row left out."""
    net(x)[0].square().sum().backward()
    tables = [p.grad for path, p in net.named_parameters() if path.endswith(TABLES)]
    if not tables:
        return "–"
    slope = tables[0][0, 1:].reshape(14, 14, -1)
    mean = torch.stack([slope.rot90(k) for k in range(4)]).mean(0)
    return f"{change(slope, mean):.0%}"


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
