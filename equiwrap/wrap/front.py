"""The front door: `equivariantize`, its in-place twin, and the ways back out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError, EquivarianceError, EquiwrapWarning, SignatureError
from ..frames import Frame, fit_upright, frame_for
from ..groups import Group, parse_group
from ..measure import equivariance_error
from ..signature import Signature, infer_outputs, looks_like_images
from .config import Config
from .handle import Handle
from .install import PREFIX, install, original_forward, view_of
from .words import check_method, check_model, interpolation, no_group, no_signature, reason

__all__ = ["disabled", "equivariantize", "equivariantize_", "unwrap"]


def equivariantize(
    model: nn.Module,
    group: str | Group | None = None,
    signature: str | Signature | None = None,
    *,
    method: str = "average",
    frame: str | Frame = "auto",
    softness: float | None = None,
    calibrate: Tensor | Iterable[Any] | None = None,
    mask: str | None = None,
    example: Any = None,
    tol: float | None = None,
    **options: Any,
) -> nn.Module:
    """*⟨f⟩(x) = Σ_k w_k(x) ρ_out(g_k) f(ρ_in(g_k)⁻¹ x)*: the model, exactly equivariant.

    Returns a new module object that shares all state with `model` (parameters, buffers, submodules,
    hooks, the training flag); `model` keeps its own forward. Class, keys and attributes do not
    move.

    Args:
        model: any module; what its forward does is never traced.
        group: "C4", "D4", "SO(3)", "E(3)", … or a value of `ew.groups`. C4 for image models.
        signature: how inputs and outputs transform, as in "b n p, b n v -> b n p". For image
            models "b c h w -> ...", the outputs being read off a dry run.
        method: "average", the one that this version has.
        frame: a name of `ew.frames.names()`, a frame object, or "auto" (`ew.frames.defaults()`).
        softness: b in [0, 1] for ⟨f⟩ + b·(f − ⟨f⟩), which scales the equivariance error by b.
        calibrate: unlabelled inputs in their usual orientation (a tensor or a loader): fits the
            upright prior, for frozen image models.
        mask: the name of the argument that marks the real points of padded clouds, `[b, n]`.
        example: an input, or a tuple of inputs, on which the error is measured before returning.
        tol: the error allowed on `example`; by dtype if None (1e-4 in float32, 1e-9 in float64).
        **options: options of the frame, such as `chunk=2`, `ties="first"`, `stochastic=True`.

    Raises:
        GroupError: no such group, or no frame for it.
        SignatureError: no signature can be read, or it does not fit the model.
        CaptureError: the model is already compiled, scripted or wrapped for several devices.
        EquivarianceError: the error on `example` is above `tol`.
    """
    return _wrap(
        model,
        group,
        signature,
        method,
        frame,
        softness,
        calibrate,
        mask,
        example,
        tol,
        options,
        False,
    )


def equivariantize_(
    model: nn.Module,
    group: str | Group | None = None,
    signature: str | Signature | None = None,
    *,
    method: str = "average",
    frame: str | Frame = "auto",
    softness: float | None = None,
    calibrate: Tensor | Iterable[Any] | None = None,
    mask: str | None = None,
    example: Any = None,
    tol: float | None = None,
    **options: Any,
) -> nn.Module:
    """`equivariantize` in place: the class of `model` itself is swapped; returns `model`.

    Raises:
        GroupError: as `equivariantize`.
        SignatureError: as `equivariantize`.
        CaptureError: as `equivariantize`.
        EquivarianceError: as `equivariantize`; the model is then left as it was.
    """
    return _wrap(
        model,
        group,
        signature,
        method,
        frame,
        softness,
        calibrate,
        mask,
        example,
        tol,
        options,
        True,
    )


def _wrap(
    model: nn.Module,
    group: str | Group | None,
    signature: str | Signature | None,
    method: str,
    frame: str | Frame,
    softness: float | None,
    calibrate: Any,
    mask: str | None,
    example: Any,
    tol: float | None,
    options: dict[str, Any],
    in_place: bool,
) -> nn.Module:
    check_model(model, group)
    check_method(method, softness)
    model = _plain(model)
    view = view_of(model, type(model)) if in_place else model
    inputs = None if example is None else example if isinstance(example, tuple) else (example,)
    sig, notes = _signature(model, group, signature, original_forward(view), inputs)
    chosen = _frame(sig, frame, calibrate, options)
    config = Config(
        group=str(sig.group),
        signature=str(sig),
        method=method,
        frame=frame if isinstance(frame, str) else type(frame).__name__.lower(),
        softness=softness,
        mask=mask,
        options={k: v for k, v in options.items() if isinstance(v, (bool, int, float, str))},
    )
    handle = Handle(view, chosen, sig, config, notes + interpolation(sig, inputs))
    handle.in_place = in_place
    handle.module = install(model, handle, in_place=in_place)
    if inputs is not None:
        try:
            _verify(handle, inputs, tol)
        except Exception:
            if in_place:
                model.__class__ = type(view)
            raise
    return handle.module


def _plain(model: nn.Module) -> nn.Module:
    if not isinstance(getattr(model, PREFIX, None), Handle):
        return model
    warnings.warn(
        "The model is already equivariantized; the new wrapping replaces the old one.",
        EquiwrapWarning,
        stacklevel=4,
    )
    return unwrap(model)


def _signature(
    model: nn.Module,
    group: str | Group | None,
    signature: str | Signature | None,
    forward: Any,
    example: tuple[Any, ...] | None,
) -> tuple[Signature, tuple[str, ...]]:
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
    return fit_upright(calibrate, sig.group, **options)


def _verify(handle: Handle, inputs: tuple[Any, ...], tol: float | None) -> None:
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


def unwrap(model: nn.Module) -> nn.Module:
    """The original model back: the very object for `equivariantize`, its class again for the other.

    Raises:
        CaptureError: the model is not wrapped.
    """
    handle = _handle(model)
    if handle.view.__dict__ is model.__dict__ and handle.in_place:
        model.__class__ = type(handle.view)
        return model
    return handle.view


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """`with ew.disabled(model):` runs it unwrapped.

    Raises:
        CaptureError: the model is not wrapped.
    """
    handle = _handle(model)
    before, handle.enabled = handle.enabled, False
    try:
        yield model
    finally:
        handle.enabled = before


def _handle(model: nn.Module) -> Handle:
    handle = getattr(model, PREFIX, None)
    if not isinstance(handle, Handle):
        raise CaptureError(
            f"This {type(model).__name__} is not equivariantized, so there is nothing to undo."
        )
    return handle
