"""One model of every timm family under C4 and D4: the errors, and everything that must not move.

    python recipes/survey_timm.py --out table.md            # every family
    python recipes/survey_timm.py --families resnet,swin_transformer

A family is a file of timm (`timm.list_modules()`), its model the one with the fewest parameters.
Models have fresh random weights and statistics, inputs are normal noise of the smallest square size
that runs. Elements act by `torch.rot90` and `flip` here, not by equiwrap's own code. Small models
on few cores are fastest with one thread: OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import equiwrap as ew

SIGNATURE = "b c h w -> b k"
SIZES = (32, 48, 64, 96, 128, 160, 192, 224, 240, 256, 288, 320, 384, 448, 512)
SINGLE, DOUBLE = 1e-5, 1e-10
Forward = Callable[[Tensor], Tensor]


@dataclass
class Row:
    """What was found for one model; `failed` names the checks that did not hold."""

    family: str
    model: str
    size: int = 0
    parameters: int = 0
    plain: float = float("nan")
    single: dict[tuple[str, str], float] = field(default_factory=dict)
    double: float | None = None
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


# -- the law, without equiwrap ---------------------------------------------------------------------


def turns(group: str, *, generators: bool = False) -> Iterator[Callable[[Tensor], Tensor]]:
    """Every element but the identity, or a quarter turn and a flip, acting on `x[b, c, h, w]`."""
    for flipped in (False, True) if group == "D4" else (False,):
        for k in range(4):
            if (k or flipped) and (not generators or k + flipped == 1):
                yield lambda x, k=k, f=flipped: torch.rot90(x.flip(-1) if f else x, k, (-2, -1))


def error(forward: Forward, x: Tensor, group: str) -> float:
    """*max over g and samples of ‖f(g x) − f(x)‖ / ‖f(x)‖*; generators only above 128 pixels."""
    moves = turns(group, generators=x.shape[-1] > 128)
    with torch.no_grad():
        here = forward(x).double()
        gaps = [(forward(g(x)).double() - here).norm(dim=1) / here.norm(dim=1) for g in moves]
    return float(torch.stack(gaps).nan_to_num(nan=float("inf")).amax())


def jitter(forward: Forward, x: Tensor) -> float:
    """How much f itself depends on the company and the order of its batch: no average is finer."""
    with torch.no_grad():
        here = forward(x).double()
        crowd = torch.cat([g(x) for g in turns("D4")] + [x])
        there = forward(crowd).double()[-len(x) :]
        other = forward(crowd.flip(0)).double().flip(0)[-len(x) :]
        gap = torch.maximum((there - here).norm(dim=1), (other - here).norm(dim=1))
    return float((gap / here.norm(dim=1)).amax())


# -- models ----------------------------------------------------------------------------------------


def parameters_of(name: str) -> float:
    """The number of parameters, counted on the meta device; infinite where that fails."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
    except Exception:
        return float("inf")


def smallest(family: str) -> str:
    """The model of a family with the fewest parameters."""
    return min(timm.list_models(module=family), key=lambda name: (parameters_of(name), name))


def family_of(name: str) -> str:
    """The timm file that a model comes from."""
    return timm.model_entrypoint(name).__module__.rsplit(".", 1)[-1]


def build(name: str) -> tuple[nn.Module, int]:
    """A fresh model with ten classes, and the smallest square size that it takes.

    Raises:
        RuntimeError: no size in `SIZES`, nor the model's own, runs.
    """
    net = create(name)
    own = getattr(net, "default_cfg", {}).get("input_size", (3, 224, 224))[-1]
    runs = next((s for s in sorted({*SIZES, own}) if works(net, s)), None)
    for size in SIZES:  # models built for one size take it as an argument
        if runs is not None and size >= runs:
            break
        try:
            other = create(name, img_size=size)
        except Exception:
            continue
        if works(other, size):
            return other, size
    if runs is None:
        raise RuntimeError(f"{name} runs at none of {SIZES}")
    return net, runs


def create(name: str, **kwargs: int) -> nn.Module:
    """`timm.create_model` with ten classes where that is an argument."""
    try:
        net = timm.create_model(name, pretrained=False, num_classes=10, **kwargs)
    except TypeError:
        net = timm.create_model(name, pretrained=False, **kwargs)
    return net.eval()


def works(net: nn.Module, size: int) -> bool:
    """Whether two images of this size give two finite rows."""
    channels = getattr(net, "default_cfg", {}).get("input_size", (3,))[0]
    try:
        with torch.no_grad():
            y = net(torch.randn(2, channels, size, size))
    except Exception:
        return False
    return isinstance(y, Tensor) and y.ndim == 2 and len(y) == 2 and bool(y.isfinite().all())


def randomise(net: nn.Module) -> None:
    """Statistics and constant parameters (zero gains, layer scales) become random."""
    with torch.no_grad():
        for p in net.parameters():
            if p.numel() > 1 and p.is_floating_point() and bool((p == p.flatten()[0]).all()):
                p.add_(0.1 * torch.randn_like(p))
        for module in net.modules():
            if (
                isinstance(module, nn.modules.batchnorm._BatchNorm)
                and module.running_mean is not None
            ):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)


# -- one model -------------------------------------------------------------------------------------


def check(name: str, *, seed: int = 0) -> Row:
    """Build, wrap four ways, and compare: errors in both precisions, and what must hold."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    row = Row(family_of(name), name)
    net, row.size = build(name)
    randomise(net)
    row.parameters = sum(p.numel() for p in net.parameters())
    channels = getattr(net, "default_cfg", {}).get("input_size", (3,))[0]
    x = torch.randn(3, channels, row.size, row.size)
    row.plain = error(net, x[:2], "C4")
    for group in ("C4", "D4"):
        for frame in ("whole", "key"):
            model = ew.equivariantize(net, group, SIGNATURE, frame=frame)
            row.single[group, frame] = found = error(model, x[:2], group)
            if not found <= SINGLE:
                own = jitter(net, x[:2])
                row.failed.append(f"{group} {frame}: {found:.1e} (plain repeats to {own:.0e})")
    _check_identity(row, net, x)
    _check_modes(row, net, x)
    _check_double(row, net, x[:2])
    row.seconds = time.perf_counter() - start
    return row


def _check_identity(row: Row, net: nn.Module, x: Tensor) -> None:
    """Keys, names, class, checkpoint, copies, batch sizes, and the way back."""
    with torch.no_grad():
        before = net(x)
        model = ew.equivariantize(net, "D4", SIGNATURE, frame="key")
        after = model(x)
        laws = {
            "state_dict keys": list(model.state_dict()) == list(net.state_dict()),
            "named_parameters": [(n, id(p)) for n, p in model.named_parameters()]
            == [(n, id(p)) for n, p in net.named_parameters()],
            "isinstance": isinstance(model, type(net))
            and type(model).__name__ == type(net).__name__,
            "unwrap is the model": ew.unwrap(model) is net,
            "unwrap bit-identical": torch.equal(ew.unwrap(model)(x), before),
        }
        twin = copy.deepcopy(model)
        laws["deepcopy"] = torch.equal(twin(x), after) and twin.equiwrap is not model.equiwrap
        plain = {key: value.clone() for key, value in net.state_dict().items()}
        for p in twin.parameters():
            p.add_(1)
        moved = not torch.equal(twin(x), after)
        loaded = twin.load_state_dict(plain, strict=True)
        laws["strict load"] = moved and not any(loaded) and torch.equal(twin(x), after)
        for frame in ("key", "whole"):
            model = ew.equivariantize(net, "C4", SIGNATURE, frame=frame)
            whole = model(x)
            for n in (1, 2, 3):
                part = model(x[:n])
                gap = (part - whole[:n]).norm() / whole[:n].norm()
                laws[f"batch of {n}, {frame}"] = part.shape == (n, *whole.shape[1:]) and bool(
                    gap < 1e-4
                )
    row.failed += [law for law, holds in laws.items() if not holds]


def _check_modes(row: Row, net: nn.Module, x: Tensor) -> None:
    """Train and back: flags are shared, gradients arrive, the law holds on moved statistics."""
    twin = copy.deepcopy(net)
    model = ew.equivariantize(twin, "C4", SIGNATURE, frame="whole")
    model.train()
    shared = twin.training and all(
        a.training == b.training for a, b in zip(model.modules(), twin.modules(), strict=True)
    )
    try:
        copy.deepcopy(twin)(x)  # is the plain model able to train at this size?
    except Exception as reason:
        row.notes.append(f"does not train at this size ({type(reason).__name__})")
    else:
        out = model(x)
        (out[0] if isinstance(out, (tuple, list)) else out).square().mean().backward()
        if not any(p.grad is not None for p in twin.parameters()):
            row.failed.append("no gradients")
    model.eval()
    if not shared or twin.training:
        row.failed.append("train/eval flags")
    if not error(model, x[:1], "C4") <= 10 * SINGLE:
        row.failed.append("the law after a training forward")


def _check_double(row: Row, net: nn.Module, x: Tensor) -> None:
    """Double precision under D4: the bound is the law's, or the model's own single precision."""
    twin, wide = copy.deepcopy(net).double(), x.double()
    try:
        with torch.no_grad():
            twin(wide)
    except Exception as reason:
        row.notes.append(f"no float64 ({type(reason).__name__})")
        return
    model = ew.equivariantize(twin, "D4", SIGNATURE, frame="whole")
    key = error(ew.equivariantize(twin, "D4", SIGNATURE, frame="key"), wide, "D4")
    row.double = max(error(model, wide, "D4"), key)
    if row.double > DOUBLE:
        floor = jitter(twin, wide)
        if row.double <= 10 * floor:
            row.notes.append("computes partly in float32")
        else:
            row.failed.append(f"float64: {row.double:.1e}")


# -- the table -------------------------------------------------------------------------------------

HEAD = (
    "| family | model | size | plain | C4 whole | C4 key | D4 whole | D4 key | float64 | checks |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|---|"
)


def line(row: Row) -> str:
    """One row of the table, in Markdown."""
    cells = [f"{row.plain:.2f}" if row.plain >= 0.01 else f"{row.plain:.0e}"]
    for group in ("C4", "D4"):
        cells += [_figure(row.single.get((group, frame))) for frame in ("whole", "key")]
    cells.append(_figure(row.double))
    said = "**" + "; ".join(row.failed) + "**" if row.failed else "ok"
    said += "".join(f"; {note}" for note in row.notes)
    return f"| {row.family} | {row.model} | {row.size} | {' | '.join(cells)} | {said} |"


def _figure(value: float | None) -> str:
    return "–" if value is None else "0" if value == 0 else f"{value:.0e}"


def survey(families: list[str]) -> Iterator[Row]:
    """One row a family; a family that breaks gives a row that says so."""
    for i, family in enumerate(families, 1):
        name = smallest(family)
        try:
            row = check(name)
        except Exception as reason:
            words = " ".join(str(reason).split())[:120].replace("|", "/")
            row = Row(family, name, failed=[f"{type(reason).__name__}: {words}"])
        print(
            f"[{i}/{len(families)}] {row.seconds:5.1f} s  {line(row)}", file=sys.stderr, flush=True
        )
        yield row


PAGE = """# Every timm family

`python recipes/survey_timm.py`, torch {torch}, timm {timm}, Python {python}, CPU.
{passed} of {total} families pass every check.

The largest relative change of the output under any element (float32; under a quarter turn and a
flip above 128 pixels). *float64* is the larger one of D4's two frames in double precision, *plain*
the model before it was wrapped, under C4. *Checks*: `state_dict` keys, `named_parameters`,
`isinstance`, strict load of the plain checkpoint, `deepcopy`, train and eval, batches of 1, 2, 3,
`unwrap` bit for bit.

{table}
"""


def document(rows: list[Row]) -> str:
    """The page: how it was made, what came out, the table."""
    return PAGE.format(
        torch=torch.__version__.split("+")[0],
        timm=timm.__version__,
        python=platform.python_version(),
        passed=sum(not row.failed for row in rows),
        total=len(rows),
        table="\n".join([HEAD, *[line(row) for row in rows]]),
    )


def main() -> int:
    """The command line; 1 where a family fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", help="comma-separated timm files; all of them by default")
    parser.add_argument("--limit", type=int, help="only the first so many families")
    parser.add_argument("--out", type=Path, help="write the page here, anew after every family")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    families = options.families.split(",") if options.families else timm.list_modules()
    rows: list[Row] = []
    for row in survey(families[: options.limit]):
        rows.append(row)
        if options.out:
            options.out.write_text(document(rows))
    print(document(rows))
    return any(row.failed for row in rows)


if __name__ == "__main__":
    sys.exit(main())
