"""The graph around a model: frame, canonicalize, model, restore, as one small fx graph that prints.

The model itself is a leaf: whatever its forward does, it is never traced.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from ..frames import (
    Canonical,
    Canonicalize,
    Frame,
    GroupMeasure,
    RaggedCanonical,
    RaggedCanonicalize,
    RaggedRestore,
    Restore,
    average,
    mask_among,
    pad_inputs,
    read_inputs,
)
from ..signature import Signature, TensorType

__all__ = ["Averaged", "Call", "averaged_graph"]


class Call:
    """*How forward is called*: arguments by name, and back into positions and keywords."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        kinds = inspect.Parameter
        found = inspect.signature(forward).parameters.values()
        self.parameters = [
            p.name for p in found if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        ]
        self.keyword_only = [p.name for p in found if p.kind is kinds.KEYWORD_ONLY]
        self.variadic = any(p.kind is kinds.VAR_POSITIONAL for p in found)
        self.open = any(p.kind is kinds.VAR_KEYWORD for p in found)
        self.required = [
            p.name
            for p in found
            if p.default is kinds.empty and p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        ]

    def types(self, signature: Signature) -> dict[str, TensorType]:
        """The inputs of a signature by parameter name.

        Raises:
            SignatureError: forward has no such parameter.
        """
        return signature.name_inputs(
            self.parameters, self.keyword_only, variadic=self.variadic, anything=self.open
        )

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by parameter name; surplus positional ones are arg2, arg3, …

        Raises:
            TypeError: as Python would for the model itself.
        """
        extra = [f"arg{i}" for i in range(len(self.parameters), len(args))]
        if extra and not self.variadic:
            known = f" ({', '.join(self.parameters)})" if self.parameters else ""
            raise TypeError(
                f"forward takes {len(self.parameters)} positional arguments{known} and {len(args)} "
                "were given."
            )
        names = [*self.parameters, *extra][: len(args)]
        bound = dict(zip(names, args, strict=True))
        twice = sorted(set(bound) & set(kwargs))
        if twice:
            raise TypeError(f"forward got several values for {', '.join(twice)}.")
        return bound | kwargs

    def split(self, bound: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Arguments by name → positional ones as far as they go, then keywords."""
        args: list[Any] = []
        order = [*self.parameters, *sorted(n for n in bound if self._is_extra(n))]
        for name in order:
            if name not in bound:
                break
            args.append(bound[name])
        used = set(order[: len(args)])
        return args, {n: v for n, v in bound.items() if n not in used}

    def _is_extra(self, name: str) -> bool:
        return self.variadic and name.startswith("arg") and name[3:].isdigit()


class _Measure(nn.Module):
    """The first node: typed inputs → μ_x; one drawn element where the frame is stochastic."""

    frame: Frame  # both are kept off the module's registry: they belong to the wrapped model
    view: nn.Module

    def __init__(
        self,
        frame: Frame,
        signature: Signature,
        types: dict[str, TensorType],
        mask: str | None,
        view: nn.Module,
    ) -> None:
        super().__init__()
        self.signature, self.mask = signature, mask
        self.types = {n: t for n, t in types.items() if not t.untouched}
        self.__dict__["frame"], self.__dict__["view"] = frame, view

    def forward(self, inputs: tuple[Any, ...], rest: dict[str, Any]) -> GroupMeasure:
        frame, training = self.frame, self.view.training
        if frame.training != training:
            frame.train(training)
        group = self.signature.group
        mask: Tensor | None
        if self.signature.index is not None:
            typed, mask = pad_inputs(self.types, inputs, rest.get(self.signature.index))
        else:
            typed = read_inputs(self.types, inputs)
            mask = mask_among(self.mask, self.types, inputs, rest)
        measure = frame(group, **frame.read(group, typed, mask))
        if frame.detach_frame:
            measure = measure._replace(elements=tree_map(torch.detach, measure.elements))
        if frame.stochastic and training:
            return measure.draw(typed[0].value.shape[0], frame.generator)
        return measure


class _Model(nn.Module):
    """The leaf: the model's own forward on folded inputs, at once or in chunks."""

    original: Callable[..., Any]

    def __init__(
        self,
        forward: Callable[..., Any],
        call: Call,
        signature: Signature,
        types: dict[str, TensorType],
        chunk: int | None,
    ) -> None:
        super().__init__()
        self.call, self.signature, self.types, self.chunk = call, signature, types, chunk
        self.__dict__["original"] = forward

    def forward(self, canonical: Canonical | RaggedCanonical) -> Any:
        if isinstance(canonical, RaggedCanonical):
            return [self._call(values) for values in canonical.copies]
        if not self.chunk:
            return self._call(canonical.values)
        rows = self._rows(canonical.values)
        size = self.chunk * max(1, canonical.batch)
        if rows <= size:
            return self._call(canonical.values)
        parts = [
            self._call(self._slice(canonical.values, i, size, rows)) for i in range(0, rows, size)
        ]
        leaves = zip(*[self.signature.flatten(part) for part in parts], strict=True)
        axes = [kind.batch or 0 for _, kind in self.signature.outputs]
        joined = [torch.cat(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)]
        return self.signature.unflatten(parts[0], joined)

    def _call(self, values: dict[str, Any]) -> Any:
        args, kwargs = self.call.split(values)
        return self.original(*args, **kwargs)

    def _rows(self, values: dict[str, Any]) -> int:
        name, kind = next((n, t) for n, t in self.types.items() if t.batch is not None)
        return int(values[name].shape[kind.batch])

    def _slice(self, values: dict[str, Any], start: int, size: int, rows: int) -> dict[str, Any]:
        def cut(name: str, leaf: Any) -> Any:
            axis = self.types[name].batch if name in self.types else 0
            axis = 0 if name in self.types and self.types[name].untouched else axis
            follows = isinstance(leaf, Tensor) and axis is not None and leaf.ndim > axis
            return (
                leaf.narrow(axis, start, min(size, rows - start))
                if follows and leaf.shape[axis] == rows
                else leaf
            )

        return {n: tree_map(lambda leaf, n=n: cut(n, leaf), v) for n, v in values.items()}


class _Blend(nn.Module):
    """*F_b = ⟨F⟩ + b·(F − ⟨F⟩)*: the dial in function space."""

    original: Callable[..., Any]

    def __init__(
        self,
        softness: float,
        signature: Signature,
        forward: Callable[..., Any],
        call: Call,
        types: dict[str, TensorType],
    ) -> None:
        super().__init__()
        self.softness, self.signature, self.call = softness, signature, call
        self.names = [n for n, t in types.items() if not t.untouched]
        self.__dict__["original"] = forward

    def forward(self, mean: Any, inputs: tuple[Any, ...], rest: dict[str, Any]) -> Any:
        args, kwargs = self.call.split(dict(zip(self.names, inputs, strict=True)) | rest)
        plain = self.signature.flatten(self.original(*args, **kwargs))
        pairs = zip(self.signature.flatten(mean), plain, self.signature.outputs, strict=True)
        leaves = [
            m if kind.untouched else torch.lerp(m, p, self.softness) for m, p, (_, kind) in pairs
        ]
        return self.signature.unflatten(mean, leaves)


class Averaged(fx.GraphModule):
    """The generated forward `(typed inputs…, rest) → outputs`; `rest` holds the other arguments."""


def averaged_graph(
    forward: Callable[..., Any],
    view: nn.Module,
    call: Call,
    frame: Frame,
    signature: Signature,
    types: dict[str, TensorType],
    *,
    mask: str | None,
    softness: float | None,
) -> fx.GraphModule:
    """*x → frame → canonicalize → model → restore*, made by running `average` on fx proxies.

    `forward` is the original forward, `view` the module whose training flag is the model's.
    """
    frame.bind(forward)
    root = nn.Module()
    root.frame = _Measure(frame, signature, types, mask, view)
    group = signature.group
    if signature.index is not None:
        root.canonicalize = RaggedCanonicalize(group, types, signature.index)
        root.restore = RaggedRestore(group, signature)
    else:
        root.canonicalize = Canonicalize(group, types, mask)
        root.restore = Restore(group, signature)
    root.model = _Model(forward, call, signature, types, frame.chunk)
    graph = fx.Graph()

    def node(target: str, name: str) -> Callable[..., Any]:
        def emit(*args: Any) -> Any:
            plain = fx.node.map_aggregate(args, lambda a: a.node if isinstance(a, fx.Proxy) else a)
            return fx.Proxy(graph.create_node("call_module", target, plain, {}, name))  # type: ignore[arg-type]

        return emit

    inputs = tuple(fx.Proxy(graph.placeholder(n)) for n, t in types.items() if not t.untouched)
    rest = fx.Proxy(graph.placeholder("rest"))
    out = average(
        node("frame", "measure"),
        node("canonicalize", "canonical"),
        node("model", "outputs"),
        node("restore", "restored"),
        inputs,
        rest,
    )
    if softness is not None:
        root.blend = _Blend(softness, signature, forward, call, types)
        out = node("blend", "blended")(out, inputs, rest)
    graph.output(out.node)
    graph.lint()
    return Averaged(root, graph, class_name="Averaged")
