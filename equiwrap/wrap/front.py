"""The front door: `equivariantize`, its in-place twin, and the ways back out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import CaptureError, EquiwrapWarning, SignatureError
from ..frames import Frame
from ..groups import Group
from ..signature import Signature
from .build import Asked, build, trial_example, verify
from .install import handle_of, install, view_of
from .words import check_example, check_kinds, check_method, check_model

__all__ = ["disabled", "equivariantize", "equivariantize_", "unwrap"]


def equivariantize(
    model: nn.Module,
    group: str | Group | None = None,
    signature: str | Signature | None = None,
    *,
    method: str = "average",
    frame: str | Frame = "auto",
    penalty: float | None = None,
    softness: float | None = None,
    hidden: str | Mapping[str, str] = "auto",
    targets: Any = None,
    calibrate: Tensor | Iterable[Any] | None = None,
    mask: str | None = None,
    probes: Any = None,
    at: str | Iterable[str] | None = None,
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
        method: "average" (exact for any model), "penalize" (the weights inside are pulled towards
            the equivariant ones) or "project" (the forward runs on the equivariant ones).
        frame: a name of `ew.frames.names()`, a frame object, or "auto" (`ew.frames.defaults()`).
        penalty: λ of `model.equiwrap.penalty()` = λ Σ |W − PW|², with "penalize"; 1e-2 if None.
        softness: b in [0, 1]. With "average" the dial of the function, ⟨f⟩ + b·(f − ⟨f⟩), whose
            error is b times the model's, before and after training; with "project" the dial of the
            weights, PW + b·(W − PW), which scales each layer's defect by b, costs next to nothing,
            and which fine-tuning can undo (the weights grow where they are free).
        hidden: what hidden channels carry under "penalize" and "project": "trivial", "regular",
            "matched" (to data: calibrate=), "auto", or axes by layer, `{"layer1.*": "(16 r)"}`.
        targets: the weights to pull: expressions of whole names, or `filter_fn(module, path)`.
        calibrate: unlabelled inputs in their usual orientation (a tensor or a loader): fits the
            upright prior, for frozen image models; with `hidden="matched"` finds the channels.
        mask: the name of the argument that marks the real points of padded clouds, `[b, n]`.
        probes: the layers of the plain model whose error `model.equiwrap.probes.measure(x)` gives:
            True, names or regular expressions of whole names, or `filter_fn(module, fqn)`.
        at: the path of a sub-network, or several: the wrapping is around each, whose own input the
            frame reads and the signature describes; the rest of the model is as it was.
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
        Asked(
            group,
            signature,
            method,
            frame,
            penalty,
            softness,
            hidden,
            targets,
            calibrate,
            mask,
            probes,
            at,
            example,
            tol,
            options,
        ),
        in_place=False,
    )


def equivariantize_(
    model: nn.Module,
    group: str | Group | None = None,
    signature: str | Signature | None = None,
    *,
    method: str = "average",
    frame: str | Frame = "auto",
    penalty: float | None = None,
    softness: float | None = None,
    hidden: str | Mapping[str, str] = "auto",
    targets: Any = None,
    calibrate: Tensor | Iterable[Any] | None = None,
    mask: str | None = None,
    probes: Any = None,
    at: str | Iterable[str] | None = None,
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
        Asked(
            group,
            signature,
            method,
            frame,
            penalty,
            softness,
            hidden,
            targets,
            calibrate,
            mask,
            probes,
            at,
            example,
            tol,
            options,
        ),
        in_place=True,
    )


def _wrap(model: nn.Module, asked: Asked, *, in_place: bool) -> nn.Module:
    model = prepared(model, asked)
    view = view_of(model, type(model)) if in_place else model
    if asked.at is not None and asked.method != "average":
        raise SignatureError(f'at= came beside method="{asked.method}", and belongs to averages.')
    if asked.at is not None:
        from .around import around  # few need it

        return around(model, view, asked, in_place=in_place)
    inputs = asked.inputs
    handle: Any
    if asked.method == "average":
        _only_soft(asked)
        handle = build(view, asked, inputs)
    else:
        from .soft_build import build_soft  # few need it

        handle = build_soft(view, asked, inputs)
    handle.in_place = in_place
    if handle.where is not None:
        what = "The layers to probe are found"
        handle.probes.insert(*(inputs or trial_example(view, handle.forward, what=what)))
    handle.module = install(model, handle, in_place=in_place)
    if inputs is not None and asked.method == "average":
        try:
            verify(handle, inputs, asked.tol)
        except Exception:
            if in_place:
                model.__class__ = type(view)
            raise
    return handle.module


def prepared(model: nn.Module, asked: Asked) -> nn.Module:
    """The plain model, after what can be refused at once.

    Raises:
        CaptureError: the model is compiled, scripted or sharded; an unknown method.
        SignatureError: a softness outside [0, 1], an argument of the wrong kind.
    """
    check_kinds(asked)
    check_model(model, asked.group)
    check_example(asked.inputs)
    check_method(asked.method, asked.softness)
    return _plain(model)


def _only_soft(asked: Asked) -> None:
    """Nothing, or a sentence.

    Raises:
        SignatureError: an argument that belongs to the other methods.
    """
    for name, given in (
        ("penalty", asked.penalty is not None),
        ("hidden", asked.hidden not in ("auto", None)),
        ("targets", asked.targets is not None),
    ):
        if given:
            raise SignatureError(
                f'{name}= came beside method="average", which leaves the weights alone: it belongs '
                'to method="penalize" and method="project".'
            )


def _plain(model: nn.Module) -> nn.Module:
    if handle_of(model) is None:
        return model
    warnings.warn(
        "The model is already equivariantized; the new wrapping replaces the old one.",
        EquiwrapWarning,
        stacklevel=4,
    )
    return unwrap(model)


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


def _handle(model: nn.Module) -> Any:
    handle = handle_of(model)
    if handle is None:
        raise CaptureError(
            f"This {type(model).__name__} is not equivariantized, so there is nothing to undo."
        )
    return handle
