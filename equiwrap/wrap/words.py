"""What is refused, what is pointed out, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from ..errors import CaptureError, GroupError, SignatureError, article
from ..frames import Frame
from ..grids import axes_of
from ..groups import Group
from ..measure import interpolation_floor
from ..signature import Signature, TensorType

METHODS = ("average", "penalize", "project")

__all__ = [
    "check_example",
    "check_kinds",
    "check_method",
    "check_model",
    "interpolation",
    "no_group",
    "no_signature",
    "no_weights",
    "reason",
]


def _number(x: Any) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool)


def _names(x: Any) -> bool:
    if isinstance(x, (Mapping, torch.Tensor, bytes)) or not isinstance(x, Iterable):
        return False
    return not isinstance(x, Collection) or all(isinstance(name, str) for name in x)


_KINDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("group", lambda x: isinstance(x, (str, Group)), 'a name, as in "C4", or a value of ew.groups'),
    (
        "signature",
        lambda x: isinstance(x, (str, Signature)),
        'text, as in "b n p -> b k", or an ew.Signature',
    ),
    ("method", lambda x: isinstance(x, str), "one of " + ", ".join(METHODS)),
    (
        "frame",
        lambda x: isinstance(x, (str, Frame)),
        "a name of ew.frames.names(), or a value of ew.frames",
    ),
    ("hidden", lambda x: isinstance(x, (str, Mapping)), "a word, or a mapping from layers to axes"),
    ("targets", lambda x: callable(x) or _names(x), "an expression, several, or a filter function"),
    (
        "calibrate",
        lambda x: isinstance(x, (Iterable, Dataset)) and not isinstance(x, (str, bytes, Mapping)),
        "a tensor of inputs, or a loader of them",
    ),
    ("mask", lambda x: isinstance(x, str), "the name of an argument of forward"),
    (
        "probes",
        lambda x: isinstance(x, bool) or callable(x) or _names(x),
        "True, an expression, several, or a filter function",
    ),
    ("at", _names, "the path of a sub-network, or several"),
    ("tol", lambda x: _number(x) and x >= 0, "a number, 0 or more"),
)


def check_kinds(asked: Any) -> None:
    """Nothing, or a sentence.

    Raises:
        SignatureError: an argument of `equivariantize` is of a kind that it never is.
        GroupError: the group is.
    """
    for name, fits, words in _KINDS:
        given = getattr(asked, name)
        if given is not None and not fits(given):
            shown = repr(given) if isinstance(given, (int, float, str)) else ""
            raise (GroupError if name == "group" else SignatureError)(
                f"{name}={shown or article(given)} was given; it is {words}."
            )


def check_model(model: object, group: object) -> None:
    """Nothing, or a sentence.

    Raises:
        CaptureError: no module, or one that is compiled, scripted, sharded or not initialised.
    """
    name = str("C4" if group is None else group)
    line = f'ew.equivariantize(net, "{name}")'
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"equivariantize takes a torch.nn.Module, and {article(model)} was given: put "
            "the function into the forward of a module."
        )
    classes = {cls.__name__ for cls in type(model).__mro__}
    advice = {
        "OptimizedModule": f"compiled: wrap before compiling, torch.compile({line})",
        "DistributedDataParallel": f"wrapped in DDP: wrap before DDP, DDP({line})",
        "DataParallel": f"wrapped in DataParallel: wrap before that, DataParallel({line})",
        "FullyShardedDataParallel": f"wrapped in FSDP: wrap before FSDP, FSDP({line})",
        "FSDPModule": f"sharded by fully_shard: wrap before sharding, fully_shard({line})",
        "ScriptModule": "scripted or traced by torch.jit: equivariantize the Python module instead",
    }
    for cls, words in advice.items():
        if cls in classes:
            raise CaptureError(f"The model is already {words}.")
    lazy = [n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)]
    if lazy:
        raise CaptureError(
            f"The parameters {', '.join(lazy[:3])} have no shape yet: run the model once, then "
            "wrap it."
        )


def check_example(inputs: tuple[Any, ...] | None) -> None:
    """Nothing, or a sentence.

    Raises:
        SignatureError: there is no tensor in the example.
    """
    leaves = tree_leaves(inputs)
    if inputs is not None and not any(isinstance(x, torch.Tensor) for x in leaves):
        raise SignatureError(
            f"example= is an input or a tuple of inputs, tensors as the model takes them; "
            f"{article(inputs[0] if inputs else inputs)} was given."
        )


def no_weights(what: str) -> str:
    """An average was asked for what belongs to weights."""
    return (
        f'.{what}() belongs to method="penalize" and method="project": an average leaves the '
        "weights alone and is exact around any of them (.errors(x) measures it, ew.unwrap gives "
        "the plain model)."
    )


def check_method(method: str, softness: float | None) -> None:
    """Nothing, or a sentence.

    Raises:
        CaptureError: an unknown method.
        SignatureError: a softness outside [0, 1].
    """
    if method not in METHODS:
        raise CaptureError(
            f"method={method!r} was asked for; the methods are average (exact for any model), "
            "penalize (weights pulled towards the symmetry) and project (onto it)."
        )
    number = isinstance(softness, (int, float)) and 0 <= softness <= 1
    if softness is not None and not number:
        raise SignatureError(
            f"softness={softness!r} was given; it lies between 0 (exact) and 1 (plain)."
        )


def no_group(model: nn.Module) -> str:
    """No group was named and the model does not look like images."""
    return (
        f"No group was named for {type(model).__name__}, and it is no image model (its first "
        "layer with "
        "parameters is not a Conv2d). Say what it takes and gives, for instance one of:\n"
        '  ew.equivariantize(model, "O(3)", "b n v -> b k")          # vectors in, invariants out\n'
        '  ew.equivariantize(model, "E(3)", "b n p -> b n p")        # positions in, positions '
        "out\n"
        '  ew.equivariantize(model, "C4", "b c h w -> b k")          # images in, invariants out'
    )


_SAID = (
    ("b c h w -> b k", "images in, invariants out"),
    ("b c h w -> b c h w", "images in, images out"),
    ("b c d h w -> b k", "voxels in, invariants out"),
    ("b c d h w -> b c d h w", "voxels in, voxels out"),
    ("b n p -> b k", "a cloud in, invariants out"),
    ("b n p -> b n p", "a cloud in, a cloud out"),
    ("b (n p) -> b (n p)", "the same, flattened"),
    ("b n v -> b k", "vectors in, invariants out"),
    ("b n v -> b n v", "vectors in, vectors out"),
    ("b (n v) -> b (n v)", "the same, flattened"),
    ("b n c -> b k", "a set in, invariants out"),
    ("b n c -> b n c", "a set in, a set out"),
)


def no_signature(model: nn.Module, group: Group) -> str:
    """A group was named, and no signature can be read off the model: some that the group has."""
    convs = any(isinstance(m, (nn.Conv2d, nn.Conv3d)) for m in model.modules())
    fitting = [
        (kind.grid != convs, f'  ew.equivariantize(model, "{group}", "{text}")', what)
        for text, what in _SAID
        if (kind := _read(text, group)) is not None
    ]
    chosen = sorted(fitting, key=lambda each: each[0])[:4]
    width = max((len(line) for _, line, _ in chosen), default=0)
    return (
        f"No signature can be read off {type(model).__name__} under {group}. Say what it takes and "
        "gives, for instance one of:\n"
        + "\n".join(f"{line:{width}}  # {what}" for _, line, what in chosen)
    )


def _read(text: str, group: Group) -> TensorType | None:
    """The type of what comes in; None where the group has no such thing, or has more to say."""
    try:
        kind = Signature.parse(text, group).inputs[0][1]
    except SignatureError:
        return None
    fits = len(axes_of(group)) == text.count("d h w") + 2 if kind.grid else True
    return kind if kind.moves and fits and ("v" not in text or not group.affine) else None


def interpolation(sig: Signature, example: tuple[Any, ...] | None) -> tuple[str, ...]:
    """The sentence for groups that turn pixels off their lattice, with the floor it costs."""
    turning = [i for i, (_, kind) in enumerate(sig.inputs) if kind.grid]
    if not turning or sig.group.lattice:
        return ()
    kind = sig.inputs[turning[0]][1]
    if example is not None and len(example) > turning[0]:
        floor, where = interpolation_floor(sig.group, example[turning[0]], kind), "this input"
    else:
        side, plain = 64, TensorType.parse("b c h w", sig.group)
        r = torch.linspace(-1, 1, side)
        waves = [torch.sin(k * (r + 0.3 * r.unsqueeze(-1)) + k * k) / k for k in range(2, 20, 3)]
        image = torch.stack(waves).sum(0)[None, None]
        floor, where = interpolation_floor(sig.group, image, plain), "a smooth 64×64 image"
    name = str(sig.group)
    what = f"{360 / int(name[1:]):g}° elements" if name[1:].isdigit() else "Elements"
    return (
        f"{what} are interpolated inside the disk: the result is exact up to the interpolation "
        f"floor only, {floor:.1e} on {where}.",
    )


def reason(signature: Signature, frame: str) -> str:
    """Why a measured error can be above its tolerance."""
    group = signature.group
    if frame == "haar":
        return "Haar samples are exact only in the limit; use an exact frame, or give tol."
    if any(kind.grid for _, kind in signature.inputs) and not group.lattice:
        return f"{group} interpolates pixels; C4 and D4 are exact, or give tol."
    return (
        "check that the signature says how the outputs really move, and that the model repeats "
        "itself (no randomness in eval)."
    )
