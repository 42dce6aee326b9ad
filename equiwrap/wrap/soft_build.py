"""From what was asked to a handle with targets: types, hidden channels, the filter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import isnan
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError, EquivarianceError, NoEffectWarning, SignatureError
from ..graph.hidden import Hidden
from ..graph.layout import Layout, lay_out
from ..grids import on_grid
from ..groups import Product, Shifts
from ..penalty import Target, read
from ..signature import Signature
from .build import Asked, read_signature, trial_example
from .choose import chooser, skipped
from .config import Config
from .install import original_forward
from .soft import Soft

__all__ = ["build_soft", "project_"]

HIDDEN = ("auto", "trivial", "regular", "matched")


def build_soft(view: nn.Module, asked: Asked, inputs: tuple[Any, ...] | None) -> Soft:
    """The handle of a penalised or projected model; nothing is installed.

    Raises:
        SignatureError: the arguments do not fit each other, or there is no example to type on.
        CaptureError: the group moves no weights that could be projected.
        EquivarianceError: the projected model would not be exact, and was to be.
    """
    _check(asked)
    sig, notes = read_signature(view, asked.group, asked.signature, original_forward(view), inputs)
    what = f'method="{asked.method}" follows the types through the layers'
    inputs = inputs or trial_example(view, original_forward(view), what=what)
    hidden, chosen = _hidden(view, sig, inputs, asked)
    layout = lay_out(view, sig, inputs, {}, hidden)
    hard = asked.method == "project" and not asked.softness
    if hard and (layout.label != "EXACT" or asked.targets is not None):
        raise EquivarianceError(_inexact(view, layout, sig))
    kept = chooser(view, asked.targets)
    targets = tuple(
        Target(path, layout.projectors[path], tuple(read(view, path).shape), path in layout.scaled)
        for path in _in_order(view, layout)
        if kept(path)
    )
    if not targets:
        warnings.warn(
            f'method="{asked.method}" finds nothing to pull in this {type(view).__name__} under '
            f"{sig.group}: every weight is equivariant already, is left out by targets=, or lies "
            "behind a layer that is not followed (model.equiwrap.report()).",
            NoEffectWarning,
            stacklevel=4,
        )
    config = Config(
        group=str(sig.group),
        signature=str(sig),
        method=asked.method,
        softness=asked.softness,
        penalty=_strength(asked),
        hidden=hidden.mode,
        targets=asked.targets if isinstance(asked.targets, str) else None,
        probes=None if callable(asked.probes) else asked.probes,
    )
    verdict = (layout.label, tuple(skipped(view, layout, kept)))
    said = (*notes, chosen, *_notes(layout))
    handle = Soft(view, sig, config, targets, verdict, layout.typing.hidden, said)
    handle.where = asked.probes or None
    return handle


def _strength(asked: Asked) -> float | None:
    if asked.method != "penalize":
        return None
    return 1e-2 if asked.penalty is None else asked.penalty


def _check(asked: Asked) -> None:
    """Nothing, or a sentence.

    Raises:
        SignatureError: an argument that belongs to another method.
    """
    method = f'method="{asked.method}"'
    others = (
        ("frame", asked.frame != "auto"),
        ("mask", asked.mask),
        ("tol", asked.tol is not None),
    )
    for name, given in others:
        if given:
            raise SignatureError(f"{name}= came beside {method}, and belongs to the average.")
    if asked.options:
        raise SignatureError(
            f"{', '.join(asked.options)} came beside {method}: options belong to frames."
        )
    if asked.method == "penalize" and asked.softness is not None:
        raise SignatureError(
            'softness= is a dial of the weights (method="project") or of the function '
            '(method="average"); method="penalize" has penalty=.'
        )
    if asked.method == "project" and asked.penalty is not None:
        raise SignatureError('penalty= came beside method="project": use method="penalize".')
    number = isinstance(asked.penalty, (int, float)) and 0 <= asked.penalty < float("inf")
    if asked.penalty is not None and not number:
        raise SignatureError(f"penalty={asked.penalty!r} was given; a strength is 0 or more.")
    if not isinstance(asked.hidden, Mapping) and asked.hidden not in HIDDEN:
        raise SignatureError(
            f"hidden={asked.hidden!r} was asked for: one of {', '.join(HIDDEN)}, or a mapping from "
            'layers to axes, as in {"layer1.*": "(16 r)"}.'
        )
    if asked.calibrate is not None and asked.hidden not in ("auto", "matched"):
        raise SignatureError(
            f"calibrate= came beside hidden={asked.hidden!r}, which does not look at data: it is "
            'for hidden="matched".'
        )
    if asked.hidden == "matched" and asked.calibrate is None:
        raise SignatureError(
            'hidden="matched" finds the channels that move alike on data: give calibrate=, '
            "unlabelled inputs."
        )


def _hidden(
    view: nn.Module, sig: Signature, inputs: tuple[Any, ...], asked: Asked
) -> tuple[Hidden, str]:
    """What hidden channels carry, and the sentence that says why.

    Raises:
        SignatureError: permutations of rows with channels that move.
        CaptureError: the group has no representation that weights could be averaged over.
    """
    group, asked_for = sig.group, asked.hidden
    turns = group.lattice and not isinstance(group, Shifts)
    if on_grid(group) and any(kind.grid for _, kind in sig.inputs) and not turns:
        raise CaptureError(
            f'method="{asked.method}" averages kernels over elements that turn pixels into pixels, '
            f"and {group} is no such group: use C2, C4, D2 or D4, the average over a frame, or "
            "equiwrap.reynolds.Steerable for kernels that turn in the continuum."
        )
    listed = group.order is not None and (group.lattice or group.orthogonal)
    listed = listed and not isinstance(group, Product)
    if not (listed or group.permutes):
        raise CaptureError(
            f'method="{asked.method}" averages weights over one finite group, and {group} is not: '
            "use a finite subgroup (C4, D4, O_h), the average over a frame, or the projections of "
            "equiwrap.reynolds on layers whose representations you know."
        )
    if group.permutes:
        if asked_for not in ("auto", "trivial"):
            raise SignatureError(
                f"hidden={asked_for!r} came with {group}, whose regular representation has n! "
                'entries: hidden channels rest (hidden="trivial"), and rows are exchanged.'
            )
        return Hidden(group), "Hidden channels: trivial, and the rows are exchanged."
    if isinstance(asked_for, Mapping):
        return Hidden(group, "trivial", asked_for), "Hidden channels are as hidden= says."
    if asked_for == "matched" or (asked_for == "auto" and asked.calibrate is not None):
        from ..graph.matching import match

        hidden, found = match(view, sig, asked.calibrate)
        return hidden, str(found)
    if asked_for != "auto":
        return Hidden(group, asked_for), f"Hidden channels: {asked_for}, as asked for."
    if asked.method == "project":
        why = "the weights are taken as they are (regular fields fit weights trained in them)"
        return Hidden(group), f"Hidden channels: trivial, since {why}."
    if on_grid(group) and any(kind.grid for _, kind in sig.inputs) and _patches(view):
        return Hidden(group), (
            "Hidden channels: trivial, since pixels are only mixed by patches and tables."
        )
    return Hidden(group, "regular"), (
        "Hidden channels: regular where |G| divides them, since training can sort itself into "
        "them; for trained weights give calibrate=inputs, which matches them to what is there."
    )


def _patches(view: nn.Module) -> bool:
    """True where no kernel overlaps its neighbour: a vision transformer."""
    convs = [m for m in view.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return all(m.kernel_size == m.stride for m in convs)


def _inexact(view: nn.Module, layout: Layout, sig: Signature) -> str:
    """Why the projected model is not exact, every node by name."""
    if layout.label == "EXACT":
        return (
            'targets= came beside method="project": an exact model needs all of its weights '
            "projected. Give softness= to project some."
        )
    count, error = len(layout.broken), layout.probed.output
    left = "its output cannot be followed" if isnan(error) else f"its output's error is {error:.1e}"
    lines = layout.sentence() or "  its output has no type under this signature"
    return (
        f"{type(view).__name__} is {layout.label} under {sig.group} once its weights are "
        f"projected: {left}. {count} {'node is' if count == 1 else 'nodes are'} in the way:\n"
        f"{lines}\n"
        'method="average" is exact for any model; softness= projects without this promise.'
    )


def _in_order(view: nn.Module, layout: Layout) -> list[str]:
    """Paths as the model lists them."""
    names = [n for n, _ in [*view.named_parameters(), *view.named_buffers()]]
    return [n for n in names if n in layout.projectors]


def _notes(layout: Layout) -> list[str]:
    """What the verdict means for training."""
    names = ", ".join([name for name, *_ in layout.broken[:3]] + ["…"] * (len(layout.broken) > 3))
    if layout.label == "MISALIGNED":
        fix = next((line[3] for line in layout.broken if line[3]), "")
        error = layout.probed.output
        stays = "" if isnan(error) else f", {error:.1e} of the output's error stays"
        return [
            f"Nodes sample off their centre ({names}): pulling weights cannot mend it{stays}"
            f"{fix and f': {fix}'}."
        ]
    if layout.label == "UNSOUND":
        return [f"Not all of the model is followed ({names}): what lies behind is left free."]
    return []


def project_(
    model: nn.Module,
    group: Any = None,
    signature: Any = None,
    *,
    example: Any = None,
    hidden: Any = "auto",
    calibrate: Any = None,
    softness: float = 0.0,
    targets: Any = None,
) -> nn.Module:
    """*W ← PW + b (W − PW)*, in place, for every weight that can be; returns the model.

    Weights, tables and statistics only: the forward, the class and the keys stay as they are.
    Arguments as in `equivariantize(method="project")`. b = 0 is exact, or refuses before it writes.

    Raises:
        EquivarianceError: b = 0, and the projected model would not be exact; every node is named.
        SignatureError: the arguments do not fit each other or the model.
        CaptureError: the model is compiled, scripted or sharded, or the group is not finite.
    """
    from .front import prepared

    asked = Asked(
        group,
        signature,
        method="project",
        softness=softness,
        hidden=hidden,
        calibrate=calibrate,
        targets=targets,
        example=example,
    )
    plain = prepared(model, asked)
    handle = build_soft(plain, asked, asked.inputs)
    with torch.no_grad():
        for target in handle.targets:
            target.projector.lerp_(read(plain, target.path), 1.0 - softness)
    return model
