"""What weights can be projected on, and what the model is once they are: types and probe."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import CaptureError, SignatureError
from ..reynolds import Projector
from ..signature import Signature, TensorType
from .advice import fixes, size_to_use
from .hidden import Hidden
from .kinds import Kind, Untyped
from .projections import projectors
from .propagate import Typing, generators, propagate
from .snap import TOLERANCE, Probed, snap_and_probe

__all__ = ["Layout", "lay_out", "signed"]

NORMS = ("batchnorm2d", "batch_norm", "instancenorm2d", "instance_norm", "groupnorm", "group_norm")


@dataclass(frozen=True)
class Layout:
    """*`{path: P}` of the weights that can be projected, and the class of the projected model.*

    `label` is EXACT (every node is equivariant once the weights are projected), MISALIGNED (all but
    what lies behind samplings that are off their centre) or UNSOUND. `broken` are (name, kind,
    reason, fix) of every node that keeps the model from being exact.
    """

    typing: Typing
    probed: Probed
    projectors: dict[str, Projector]
    broken: tuple[tuple[str, str, str, str], ...]

    @property
    def scaled(self) -> frozenset[str]:
        """The weights of layers that a normalisation follows at once."""
        sites = [site for site in self.typing.sites.values() if not site.inner]
        pairs = itertools.pairwise(sites)
        found = [a.weights for a, b in pairs if b.operation.lower() in NORMS]
        return frozenset(path for weights in found for path in weights if "weight" in path)

    @property
    def label(self) -> str:
        """EXACT, MISALIGNED or UNSOUND."""
        return self.probed.label

    def sentence(self) -> str:
        """Every node in the way, a line each."""
        return "\n".join(
            f"  {name}: {reason}" + (f": {fix}" if fix else "")
            for name, _, reason, fix in self.broken
        )


def lay_out(
    model: nn.Module,
    signature: Signature,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
    hidden: Hidden | str = "trivial",
) -> Layout:
    """Propagate types on two samples of the example, project a float64 twin, compare every node.

    The weights of a node that fails although its sampling is centred are left out: what was
    proposed for them does not hold.

    Raises:
        CaptureError: the model does not run on the example, or has no weights yet.
        SignatureError: the example does not fit the signature.
    """
    if any(p.is_meta for p in model.parameters()):
        raise CaptureError("The model lies on the meta device: give it weights, then wrap it.")
    for (name, kind), x in zip(signature.inputs, inputs, strict=False):
        if isinstance(x, Tensor) and not kind.untouched:
            kind.check(x, f"the input {name}" if name else "the input")
    few = tuple(_samples(signature, i, x, 1) for i, x in enumerate(inputs))
    double = tuple(_samples(signature, i, x, 2) for i, x in enumerate(few))
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        typing = propagate(model, signature, double, kwargs, hidden=hidden)
        typing.output = signed(typing)
        probed = snap_and_probe(model, typing, few, kwargs)
        size = size_to_use(model, typing, few, kwargs) if typing.misaligned else None
        found = projectors(model, typing)
    except Untyped as why:
        raise CaptureError(
            f"The weights of this {type(model).__name__} cannot be followed under {signature!s}: "
            f'something in it {why.reason}. method="average" needs no types.'
        ) from None
    finally:
        for m, mode in modes.items():
            m.training = mode
    broken = list(fixes(typing, size))
    aligned = {site.at.key for site in typing.sites.values() if not site.broken}
    if not typing.misaligned:
        for site in probed.failing:
            if site.at.key in aligned and site.kind is not None:
                error = probed.errors.get(site.at.key, float("nan"))
                words = f"differs by {error:.1e} after projection: its rule does not hold here"
                broken.append((site.name, "rule", words, ""))
                if error > TOLERANCE:
                    found = {p: q for p, q in found.items() if p not in site.weights}
                break
    outputs = tree_leaves(typing.output, is_leaf=lambda part: isinstance(part, (Kind, Untyped)))
    if not broken:
        broken = [("output", "type", o.reason, o.fix) for o in outputs if isinstance(o, Untyped)]
    return Layout(typing, probed, found, tuple(broken))


def _samples(signature: Signature, i: int, x: Any, count: int) -> Any:
    """The first sample, or it twice.

    Raises:
        SignatureError: there is none.
    """
    if not isinstance(x, Tensor) or not x.dim():
        return x
    kinds = signature.inputs
    axis = (kinds[i][1].batch if i < len(kinds) else 0) or 0
    if not x.shape[axis]:
        raise SignatureError("The example has no samples: give one with at least one.")
    return x.narrow(axis, 0, 1) if count == 1 else torch.cat([x] * count, axis)


def signed(typing: Typing) -> Any:
    """The types of the outputs, where they are those of the signature.

    Raises:
        SignatureError: the outputs do not have the number or the sizes that it says.
    """
    signature, found = typing.signature, typing.output
    if signature.form == "infer" or isinstance(found, Untyped):
        return found
    found = (found,) if isinstance(found, Kind) and signature.form != "one" else found
    names = [f"the output {name}" if name else "the output" for name, _ in signature.outputs]
    kinds = [kind for _, kind in signature.outputs]
    triples = zip(names, kinds, signature.flatten(found), strict=True)
    return signature.unflatten(found, [_agreed(typing, *triple) for triple in triples])


def _agreed(typing: Typing, what: str, kind: TensorType, found: Any) -> Any:
    if kind.untouched or not isinstance(found, Kind):
        return found
    there = torch.arange(float(torch.Size(found.shape).numel())).reshape(found.shape)
    kind.check(there, what)
    wanted = Kind.of(kind, found.shape)
    group = typing.group
    same = (wanted.act(group, g, there) - found.act(group, g, there) for g in generators(group))
    if all(float(gap.abs().max()) < 1e-3 for gap in same):
        return found
    return Untyped(f"moves as {found}, and the signature says {kind}")
