"""`model.equiwrap.probes`: the error of chosen layers of the plain model, on the inputs given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import SignatureError
from ..measure import dtype_floor, interpolation_floor
from ..signature import Signature, TensorType
from .install import view_of

if TYPE_CHECKING:
    from ..graph.probes import Probes
    from .handle import Handle
    from .soft import Soft

__all__ = ["ModelProbes", "ProbeReport"]

ELEMENTS = 8  # at most so many runs of [x, g x]


@dataclass(frozen=True)
class ProbeReport:
    """*‖h(gx) − ρ h(x)‖ / ‖h(gx)‖* of each probed node, in the order of the model.

    `rows` are (name, operation, type, error, tier): an error below `floor` means nothing, and nan
    is that of a node that gave zeros or did not run. `missed` are (name, reason).
    """

    rows: tuple[tuple[str, str, str, float, str], ...]
    missed: tuple[tuple[str, str], ...]
    floor: float
    what: str

    @property
    def errors(self) -> dict[str, float]:
        """By name."""
        return {name: error for name, _, _, error, _ in self.rows}

    def __str__(self) -> str:
        head = ("node", "operation", "type", "error", "tier")
        body = [head, *[(n, o, k, f"{e:.2e}", t) for n, o, k, e, t in self.rows]]
        wide = [max(len(row[i]) for row in body) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, wide, strict=True)).rstrip() for r in body]
        lines += [f"not probed: {name} {why}" for name, why in self.missed]
        return "\n".join([*lines, f"{self.what}; floor {self.floor:.0e}"])

    def __repr__(self) -> str:
        return str(self)


class ModelProbes:
    """Probes in the plain model under a wrapping: it runs on [x, g x], in eval mode, by itself.

    Between measurements nothing is in the model. Inserted on the example, and again whenever inputs
    of another shape come: the types of the nodes follow from the sizes.
    """

    def __init__(self, handle: Handle | Soft, where: Any) -> None:
        self.handle, self.where = handle, where
        self.inner: Probes | None = None
        self._shapes: Any = None
        self._floor, self._what = 0.0, ""

    def insert(self, *inputs: Any, **kwargs: Any) -> Probes:
        """Place the probes as these inputs ask for; what has been added is kept where it fits.

        Raises:
            SignatureError: a typed input cannot be followed through a network.
        """
        from ..graph.placing import insert_probes  # not needed by other wrappings

        sig, args, rest = self._arranged(inputs, kwargs)
        if self.inner is not None and self._sizes(args, rest) == self._shapes:
            return self.inner
        view = self.handle.view
        twin = view_of(view, type(view))  # the root's class is that of another object
        found = insert_probes(twin, sig, args, rest, self.where)
        if self.inner is not None and found.placed == self.inner.placed:
            found.sums.sums = self.inner.sums.sums
        pairs = [(x, k) for x, (_, k) in zip(args, sig.inputs, strict=False) if not k.untouched]
        self._floor = max(
            max(dtype_floor(x.dtype), interpolation_floor(sig.group, x, k)) for x, k in pairs
        )
        self.inner = found
        self._shapes = self._sizes(args, rest)
        return found

    def _sizes(self, args: Any, rest: dict[str, Any]) -> list[tuple[int, ...]]:
        """What the types follow from: shapes, the batch only where a plan was made for it."""
        assert self.inner is not None
        given = zip([*args, *rest.values()], [*self.inner.kinds, *[None] * len(rest)], strict=True)
        fixed = self.inner.sized
        return [
            tuple(n for i, n in enumerate(x.shape) if fixed or i != (kind.batch if kind else 0))
            for x, kind in given
            if isinstance(x, Tensor)
        ]

    def _arranged(self, inputs: Any, kwargs: Any) -> tuple[Signature, tuple[Any, ...], Any]:
        """The signature in the order in which forward is called, and the arguments so.

        Raises:
            SignatureError: a typed argument is by keyword only, or rows are ragged.
        """
        handle = self.handle
        bound = handle.call.bind(inputs, kwargs)
        args, rest = handle.call.split(bound)
        types, untouched = handle.types, TensorType.parse("_", handle.signature.group)
        named = [n for n in rest if n in types and not types[n].untouched]
        if named or handle.signature.index is not None:
            raise SignatureError(
                f"Probes follow typed inputs by position, and {str(handle.signature)!r} has "
                f"{', '.join(named) or 'ragged rows'}: measure from outside, `.errors(x)`."
            )
        kinds = tuple((None, types.get(n, untouched)) for n in [*bound][: len(args)])
        sizes: dict[str, int] = {}
        for x, (_, kind) in zip(args, kinds, strict=True):
            if not kind.untouched:
                sizes |= kind.sizes(kind.to_front(kind.check(x, "the input")))
        group = handle.signature.group.at(sizes)
        return replace(handle.signature, group=group, inputs=kinds), tuple(args), rest

    # -- measuring --------------------------------------------------------------------------------

    def measure(self, *inputs: Any, **kwargs: Any) -> ProbeReport:
        """The errors on these inputs alone, over all elements but the identity, or eight of them.

        One run of the plain model on [x, g x] an element; the device is waited for once.

        Error: rounding: agrees with two separate runs to 1e-6 in float32, 1e-12 in float64.

        Raises:
            SignatureError: a typed input cannot be followed through a network.
        """
        from ..graph.twin import held_random

        inner = self.insert(*inputs, **kwargs)
        self.reset()
        count = len(inner.elements)
        chosen = range(0, count, -(-count // ELEMENTS))
        with held_random():
            for i in chosen:
                with self.on(i):
                    self.run(*inputs, **kwargs)
        self._what = f", {len(chosen)} element{'s' * (len(chosen) > 1)}"
        return self.read()

    @contextmanager
    def on(self, element: int = 0) -> Iterator[ModelProbes]:
        """While it lasts, calls of the wrapped model run the plain one on [x, g x] and return f(x).

        g is number `element` of those that are compared with, the identity being none of them.

        Raises:
            SignatureError: nothing has been inserted yet.
        """
        if self.inner is None:
            raise SignatureError(
                "The probes wait for inputs that show the sizes: `.measure(x)` or `.insert(x)`."
            )
        with self.inner.on(element, live=False):  # other users of the parts add nothing
            self.handle.probing = self
            try:
                yield self
            finally:
                self.handle.probing = None

    def run(self, *inputs: Any, **kwargs: Any) -> Any:
        """*f(x)*, the probes adding; inside `on`.

        Raises:
            SignatureError: the inputs have other shapes than those that showed the types.
        """
        assert self.inner is not None
        sig, call = self.inner.signature, self.handle.call
        args, rest = call.split(call.bind(inputs, kwargs))
        if not torch.compiler.is_compiling() and self._sizes(args, rest) != self._shapes:
            raise SignatureError(
                "The probes were inserted for inputs of another shape: `.insert(x)` before `on`."
            )
        self.inner.live = True
        try:
            with torch.no_grad():
                folded = self.inner.fold(tuple(args), rest)
                out = self.inner.model(*folded[0], **folded[1])
        finally:
            self.inner.live = False
        leaves = [
            y.narrow(kind.batch or 0, 0, y.shape[kind.batch or 0] // 2)
            if isinstance(y, Tensor) and not kind.untouched
            else y
            for y, (_, kind) in zip(sig.flatten(out), sig.outputs, strict=True)
        ]
        return sig.unflatten(out, leaves)

    def read(self) -> ProbeReport:
        """What has been added since the last `reset`; waits for the device once."""
        inner = self.inner
        if inner is None:
            return ProbeReport((), (), 0.0, "nothing inserted yet")
        rows = zip(inner.placed, inner.read(), strict=True)
        return ProbeReport(
            tuple((p.name, p.operation, p.kind, error, p.tier) for p, error in rows),
            tuple(inner.missed.items()),
            self._floor,
            f"the plain model under {self.handle.signature.group}{self._what}",
        )

    def reset(self) -> None:
        """Nothing added."""
        self._what = ""
        if self.inner is not None:
            self.inner.sums.reset()

    def notes(self) -> tuple[str, ...]:
        """What the report of the model says."""
        if self.inner is None:
            return ("Probes are inserted at the first `.probes.measure(x)`.",)
        tiers = [p.tier for p in self.inner.placed]
        names = ", ".join(p.name for p in self.inner.placed)
        said = [f"{tiers.count('graph')} by graph, {tiers.count('hook')} by hook"]
        missed = [f"Not probed: {name} {why}." for name, why in self.inner.missed.items()]
        return (f"Probed ({said[0]}): {names}.", *missed)
