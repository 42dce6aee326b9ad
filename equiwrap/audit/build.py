"""The making of an audit: run a model under a group, look inside, say who breaks the symmetry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError, EquiwrapError, GroupError, article
from ..graph.advice import fixes, size_to_use
from ..graph.kinds import Untyped
from ..graph.propagate import Typing, generators, propagate
from ..graph.snap import Probed, project_weights, snap_and_probe
from ..graph.twin import twin_of
from ..groups import Group, parse_group
from ..measure import DataError, data_error, equivariance_error, error_against_angle, profile
from ..measure.error import signature_for
from ..signature import Signature
from .candidates import check_example, first_line, ranked
from .examples import Examples, read_examples
from .layers import Row, breaks, layerwise
from .remedies import remedies
from .report import Curve, Finding, Layer, Report
from .shares import attribute_defect, outputs_typed
from .tell import findings, layer_of, otherwise, spoken

__all__ = ["build"]

SAMPLES = 8  # inputs for the layers
SHARES = 2  # inputs for the attribution
MOST = 160  # nodes that get a share of their own
Progress = Callable[[int, int, str], None]


def build(
    model: nn.Module,
    group: str | Group,
    example: Any,
    targets: Any,
    signature: str | Signature | None,
    progress: Progress | None,
    seed: int,
    kwargs: dict[str, Any],
) -> Report:
    """The report of `audit`.

    Raises:
        CaptureError: the model is no module, or does not run on the example.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"An audit looks inside a torch.nn.Module, and {article(model)} was given: "
            "pass the model itself."
        )
    examples = read_examples(example, targets).along(signature, group)
    said = progress or (lambda done, total, what: None)
    twin = twin_of(model, False)
    said(0, 6, "error")
    ranking: tuple[tuple[str, float | None, float | None], ...] = ()
    if isinstance(group, str) and group == "auto":
        ranking = ranked(twin, examples, signature, seed, kwargs)
        group = ranking[0][0]
    group = group if isinstance(group, Group) else parse_group(group)
    check_example(twin, group, signature, examples.few(1), kwargs)
    bound = signature_for(twin, group, signature, examples.few(SAMPLES))
    found = _Audit(model, twin, bound, examples, kwargs, seed, said)
    return found.report(ranking)


class _Audit:
    """One audit, step by step."""

    def __init__(
        self,
        model: nn.Module,
        twin: nn.Module,
        signature: Signature,
        examples: Examples,
        kwargs: dict[str, Any],
        seed: int,
        said: Progress,
    ) -> None:
        self.model, self.twin, self.signature = model, twin, signature
        self.examples, self.kwargs, self.seed, self.said = examples, kwargs, seed, said
        self.notes: list[str] = []

    def report(self, ranking: tuple[Any, ...]) -> Report:
        """All of it."""
        sig, every = self.signature, self.examples.joined()
        error = equivariance_error(
            self.twin, sig.group, *every, signature=sig, seed=self.seed, **self.kwargs
        )
        self.said(1, 6, "elements")
        curve = self._curve()
        self.said(2, 6, "types")
        layers, found, label = self._inside()
        dead = self._dead()
        if label == "weights" and all(layer.status == "exact" for layer in layers):
            label = "exact"
        if error.interpolation:
            self.notes.append(
                "Elements off the pixel lattice are interpolated, and that alone makes an error of "
                f"{error.interpolation:.1e} on these inputs: nothing below it means anything."
            )
        self.said(5, 6, "data and remedies")
        data = self._data()
        if data is not None:
            self.notes.append(data.advice)
        exact = float(error) <= 10 * max(error.floor, 1e-16)
        advised = remedies(self.twin, sig, self.examples.few(SAMPLES), exact, data)
        self.said(6, 6, "done")
        return Report(
            model=type(self.model).__name__,
            group=str(sig.group),
            signature=str(sig),
            inputs=str(self.examples),
            error=None if dead else error.value,
            half_width=error.half_width,
            floor=error.floor,
            class_="dead" if dead else label,
            layers=tuple(layers),
            findings=tuple(found),
            remedies=advised,
            curve=curve,
            data=spoken(data),
            notes=tuple(self.notes),
            ranking=ranking,
        )

    # -- numbers ----------------------------------------------------------------------------------

    def _curve(self) -> Curve | None:
        sig, some = self.signature, self.examples.few(SAMPLES)
        options: dict[str, Any] = {"signature": sig, "seed": self.seed, **self.kwargs}
        try:
            if sig.group.permutes or (sig.group.order is not None and sig.group.order <= 64):
                shown = profile(self.twin, sig.group, *some, **options)
                turns = str(sig.group).startswith("C")
                x = [
                    360.0 * i / len(shown.errors) if turns else float(i)
                    for i in range(len(shown.errors))
                ]
                unit = "degrees" if turns else "element"
            else:
                shown = error_against_angle(self.twin, sig.group, *some, **options)
                x = [float(label.rstrip("°")) for label in shown.labels]
                unit = "degrees" if "°" in shown.labels[0] else "parameter"
        except (EquiwrapError, RuntimeError, ValueError) as error:
            self.notes.append(f"The error was not followed over the group: {first_line(error)}")
            return None
        y, low, high = zip(*[(e.value, e.low, e.high) for e in shown.errors], strict=True)
        return Curve(f"error under {sig.group}", tuple(x), y, low, high, unit)

    def _dead(self) -> bool:
        """True where the model gives the same for all inputs: its error then says nothing."""
        few = self.examples.few(SAMPLES)
        with torch.no_grad():
            outs = self.signature.flatten(self.twin(*few, **self.kwargs))
        kinds = [kind for _, kind in self.signature.outputs]
        for kind, y in zip(kinds, outs, strict=True):
            if not kind.untouched and kind.batch is not None and y.shape[kind.batch] > 1:
                front = y.movedim(kind.batch, 0).to(torch.promote_types(y.dtype, torch.float64))
                if not float((front - front[:1]).norm()) <= 1e-6 * float(front.norm()):
                    return False
            elif not kind.untouched:
                return False
        self.notes.append(
            "The output does not depend on the input (a zero-initialised head?): an error of 0 "
            "would say nothing, and none is given."
        )
        return True

    def _data(self) -> DataError | None:
        if not self.examples.targets:
            return None
        try:
            return data_error(
                self.twin, self.signature.group, self.examples.pairs,
                signature=self.signature, seed=self.seed, **self.kwargs,
            )  # fmt: skip
        except (EquiwrapError, RuntimeError, ValueError) as error:
            self.notes.append(f"The targets were not used: {first_line(error)}")
            return None

    # -- the inside -------------------------------------------------------------------------------

    def _inside(self) -> tuple[list[Layer], list[Finding], str]:
        few = self.examples.few(SAMPLES)
        try:
            typing = propagate(self.model, self.signature, *self._folded(few))
        except (CaptureError, RuntimeError, ValueError) as error:
            self.notes.append(f"The inside was not seen: {first_line(error)}")
            return [], [], "untyped"
        elements = _generating(typing.group)
        rows: dict[Any, Row] = {}
        label = "untyped"
        residual: dict[Any, Row] = {}
        try:
            rows = layerwise(self.twin, typing, elements[0], few, self.kwargs)
            self.said(3, 6, "projection")
            probed, residual = self._probe(typing, elements)
            label = {"EXACT": "weights", "MISALIGNED": "misaligned"}.get(probed.label, "unsound")
            if label == "unsound" and typing.untyped:
                label = "untyped"
        except (EquiwrapError, RuntimeError, Untyped) as error:
            self.notes.append(f"The layers were not measured: {first_line(error)}")
        self.said(4, 6, "attribution")
        shares = self._shares(typing, elements[0], rows)
        size = self._size(typing)
        layers = [
            layer_of(site, rows.get(key), shares.get(key), residual.get(key), self.model)
            for key, site in typing.sites.items()
            if key[2] != "output"
        ]
        if (moved := otherwise(typing)) and label == "weights":
            label = "signature"
        return layers, [*moved, *findings(fixes(typing, size), layers)], label

    def _folded(self, inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Twice the batch: recorded sizes then hold for [x, g x]."""

        def twice(i: int, x: Any) -> Any:
            if not isinstance(x, Tensor) or not x.dim():
                return x
            kinds = self.signature.inputs
            axis = kinds[i][1].batch if i < len(kinds) else 0
            return torch.cat([x, x], axis or 0)

        doubled = tuple(twice(i, x) for i, x in enumerate(inputs))
        named = {k: twice(len(self.signature.inputs), v) for k, v in self.kwargs.items()}
        return doubled, named

    def _probe(self, typing: Typing, elements: list[Any]) -> tuple[Probed, dict[Any, Row]]:
        """Snap and probe, and what each node still breaks by itself after projection.

        Raises:
            GroupError: the group has no projection of weights here.
        """
        if not typing.group.lattice and not typing.group.permutes:
            raise GroupError(f"weights are not projected under {typing.group}")
        one = self.examples.few(1)
        probed = snap_and_probe(self.model, typing, self._sized(one), self.kwargs)
        snapped = twin_of(self.model, False).double()
        project_weights(snapped, typing)
        draw = torch.Generator().manual_seed(self.seed)
        few = tuple(
            torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.device)
            if _floating(x)
            else x
            for x in self.examples.few(SAMPLES)
        )
        return probed, layerwise(snapped, typing, elements[0], few, self.kwargs)

    def _sized(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs that the typing was made on: as many samples."""
        few = self.examples.few(SAMPLES)
        return tuple(f if isinstance(f, Tensor) else x for f, x in zip(few, inputs, strict=True))

    def _shares(self, typing: Typing, g: Any, rows: dict[Any, Row]) -> dict[Any, float]:
        if not outputs_typed(typing):
            self.notes.append("The output has no type: the defect is not shared among the layers.")
            return {}
        few = tuple(x.double() if _floating(x) else x for x in self.examples.few(SHARES))
        twin = twin_of(self.model, False).double()
        try:
            small = propagate(twin, self.signature, *self._folded(few))
            own = layerwise(twin, small, g, few, self.kwargs)
            chosen = [
                key
                for key, row in own.items()
                if breaks(small.sites[key]) and row.own is not None and row.own > 1e-12
            ]
            if len(chosen) > MOST:
                self.notes.append(f"{len(chosen)} operations break the symmetry: no shares.")
                return {}
            shares, _, _ = attribute_defect(
                twin, small, g, few, self.kwargs, chosen,
                progress=lambda i, n: self.said(4, 6, f"attribution {i} of {n}"),
            )  # fmt: skip
        except (EquiwrapError, RuntimeError, ValueError, Untyped) as error:
            self.notes.append(f"The defect was not shared among the layers: {first_line(error)}")
            return {}
        return shares

    def _size(self, typing: Typing) -> int | None:
        if not typing.misaligned:
            return None
        return size_to_use(self.model, typing, self.examples.few(1), self.kwargs)


def _generating(group: Group) -> list[Any]:
    """Elements that generate a finite group; a drawn one of another."""
    finite = group.order is not None or group.permutes
    return list(group.generators()) if finite else generators(group)[:1]


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
