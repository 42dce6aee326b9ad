"""From what was asked to a handle: the signature, the frame, the config, and the measured check."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EquivarianceError, SignatureError
from ..frames import Frame, frame_for
from ..groups import Group, parse_group
from ..measure import equivariance_error
from ..signature import Signature, infer_outputs, looks_like_images, trial_input
from .config import Config
from .handle import Handle
from .install import original_forward
from .words import interpolation, no_group, no_signature, reason

__all__ = ["Asked", "build", "read_signature", "trial_example", "verify"]


@dataclass(frozen=True)
class Asked:
    """The arguments of `equivariantize`, as they were given."""

    group: str | Group | None
    signature: str | Signature | None = None
    method: str = "average"
    frame: str | Frame = "auto"
    penalty: float | None = None
    softness: float | None = None
    hidden: str | Mapping[str, str] = "auto"
    targets: Any = None
    calibrate: Tensor | Iterable[Any] | None = None
    mask: str | None = None
    probes: Any = None
    at: str | Iterable[str] | None = None
    example: Any = None
    tol: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Any, ...] | None:
        """The example as a tuple of arguments."""
        given = self.example
        return given if given is None or isinstance(given, tuple) else (given,)


def build(view: nn.Module, asked: Asked, inputs: tuple[Any, ...] | None, at: Any = None) -> Handle:
    """The handle of a model, or of a sub-network; nothing is installed.

    Raises:
        GroupError: no such group, or no frame for it.
        SignatureError: no signature can be read, or it does not fit.
    """
    forward = original_forward(view)
    sig, notes = read_signature(view, asked.group, asked.signature, forward, inputs)
    frame, probes = asked.frame, asked.probes
    config = Config(
        group=str(sig.group),
        signature=str(sig),
        method=asked.method,
        frame=frame if isinstance(frame, str) else type(frame).__name__.lower(),
        softness=asked.softness,
        mask=asked.mask,
        probes=None if callable(probes) else tuple(probes) if _several(probes) else probes,
        at=at,
        options={k: v for k, v in asked.options.items() if isinstance(v, (bool, int, float, str))},
    )
    chosen = _frame(sig, frame, asked.calibrate, asked.options)
    handle = Handle(view, chosen, sig, config, notes + interpolation(sig, inputs))
    handle.where = probes or None
    return handle


def _several(given: Any) -> bool:
    return given is not None and not isinstance(given, (str, bool))


def read_signature(
    model: nn.Module,
    group: str | Group | None,
    signature: str | Signature | None,
    forward: Any,
    example: tuple[Any, ...] | None,
) -> tuple[Signature, tuple[str, ...]]:
    """The full signature, and how its outputs were found.

    Raises:
        SignatureError: none was given, and none can be read.
    """
    images = looks_like_images(model)
    if group is None and not images:
        raise SignatureError(no_group(model))
    group = parse_group("C4" if group is None else group)
    if isinstance(signature, Signature):
        found = signature
    else:
        if signature is None and not (images and group.dim == 2):
            raise SignatureError(no_signature(model, group))
        found = Signature.parse(signature or "b c h w -> ...", group)
    if found.form != "infer":
        return found, ()
    full, how = infer_outputs(found, model, forward, example)
    return full, (f"The outputs were {how}: {str(full).split('->')[1].strip()}.",)


def _frame(sig: Signature, frame: str | Frame, calibrate: Any, options: dict[str, Any]) -> Frame:
    if calibrate is None:
        return frame_for(frame, sig, **options)
    if frame != "auto":
        raise SignatureError("calibrate= fits a learned frame, so frame= must be left to it.")
    from ..frames import fit_upright  # few need it

    lost = sorted(options.keys() - inspect.signature(fit_upright).parameters.keys())
    if lost:
        raise SignatureError(
            f"{', '.join(lost)} came beside calibrate=, whose fit takes none of it: see "
            "help(ew.frames.fit_upright)."
        )
    return fit_upright(calibrate, sig.group, **options)


def trial_example(model: nn.Module, forward: Any, *, what: str) -> tuple[Tensor, ...]:
    """A random input for an image model, of the first likely size that it takes.

    Raises:
        SignatureError: none of the sizes is taken, or it is no image model.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    draw = torch.Generator().manual_seed(0)
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        for shape in trial_input(model) if looks_like_images(model) else ():
            x = torch.randn(shape, generator=draw).to(like)
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    forward(x)
            except (RuntimeError, ValueError, AssertionError):
                continue
            return (x,)
    finally:
        for m, mode in modes.items():
            m.training = mode
    raise SignatureError(
        f"{what} on an example, and none can be made for {type(model).__name__}: give example=x, "
        "an input or a tuple of inputs."
    )


def verify(handle: Handle, inputs: tuple[Any, ...], tol: float | None) -> None:
    """Measure the error on the example and note it.

    Raises:
        EquivarianceError: it is above `tol`.
    """
    model = handle.module
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        with torch.random.fork_rng(devices=[]):
            found = equivariance_error(model, None, *inputs)
            before = equivariance_error(
                handle.forward, handle.signature.group, *inputs, signature=handle.signature
            )
    finally:
        for m, mode in modes.items():
            m.training = mode
    allowed = (
        tol
        if tol is not None
        else _tolerance(handle, found.floor, found.interpolation, float(before))
    )
    handle.notes += (f"On the example: error {before} before, {found} after.",)
    if not found.worst <= allowed:
        raise EquivarianceError(
            f"The error on the example is {found.worst:.1e} at input {found.worst_input}, and "
            f"{allowed:.0e} was allowed ({found}): {reason(handle.signature, handle.config.frame)}"
        )


def _tolerance(handle: Handle, floor: float, interpolation: float, before: float) -> float:
    limit = 1e-9 if floor < 1e-12 else 1e-4 if floor < 1e-5 else 0.1
    if handle.config.softness:
        limit += 2 * handle.config.softness * before
    return limit + (10 * interpolation if interpolation else 0.0)
