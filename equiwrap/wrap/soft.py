"""`method="penalize"` and `method="project"`: the handle of a model whose weights are pulled.

penalize    the forward is the model's own; W is pulled towards PW by a loss or a decay
project     the forward runs on W_b = PW + b (W − PW); W itself stays, so b moves back and forth
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import CaptureError, EquiwrapWarning
from ..graph.rewrite import Call
from ..measure import ErrorEstimate, equivariance_error
from ..penalty import Target, read
from ..penalty.shards import sharded
from ..signature import Signature
from .config import Config
from .install import handle_of, install, original_forward
from .words import check_method

if TYPE_CHECKING:
    from ..graph.hidden import Hidden
    from .certificate import Certificate
    from .probing import ModelProbes, ProbeReport
    from .soft_report import SoftReport

__all__ = ["Soft"]


class Soft:
    """`model.equiwrap` of a penalised or projected model: `.penalty()`, `.fold()`, `.report()`."""

    def __init__(
        self,
        view: nn.Module,
        signature: Signature,
        config: Config,
        targets: tuple[Target, ...],
        verdict: tuple[str, tuple[tuple[str, str], ...]],
        hidden: Hidden,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.view, self.signature, self.config, self.targets = view, signature, config, targets
        self.label, self.skipped = verdict
        self.hidden = hidden
        self.notes, self.enabled, self.compiled, self.in_place = notes, True, None, False
        self.frame = nn.Identity()  # what other wrappings keep their learned state in
        self.forward = original_forward(view)
        self.call = Call(self.forward)
        self.types = self.call.types(signature)
        self.softness = config.softness or 0.0
        self.probing: ModelProbes | None = None
        self.where: Any = config.probes
        self._probes: ModelProbes | None = None
        self._runner = _Runner(view, self.forward)
        self.module: nn.Module = view

    # -- running ----------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward; with `project` on the projected weights."""
        if self.probing is not None:
            return self.probing.run(*args, **kwargs)
        if not self.enabled or self.config.method == "penalize" or self.softness == 1:
            return self.forward(*args, **kwargs)
        return functional_call(self._runner, self._weights(), args, kwargs)

    def _weights(self) -> dict[str, Tensor]:
        """*W_b* by path; statistics of layers in eval mode only, since training writes them.

        Raises:
            CaptureError: a weight is a shard of a group of its own.
        """
        found = {}
        for target in self.targets:
            weight = read(self.view, target.path)
            if sharded(weight):
                raise CaptureError(
                    'method="project" reads all weights as the forward begins, and '
                    f"{target.path} is a shard of a group of its own: shard the model as one "
                    "group, fully_shard(model), or shard the folded copy (.fold())."
                )
            owner = self.view.get_submodule(target.path.rpartition(".")[0])
            if isinstance(weight, nn.Parameter) or not owner.training:
                soft = target.projector(weight)
                if self.softness:  # a symbol under torch.compile, of which lerp makes a constant
                    soft = soft + self.softness * (weight - soft)
                found[f"inner.{target.path}"] = soft
        return found

    def set_softness(self, b: float) -> None:
        """*W_b = PW + b (W − PW)*: each layer's defect is b times that of the plain layer.

        Raises:
            SignatureError: b outside [0, 1].
        """
        check_method(self.config.method, b)
        if b == 0 and self.label != "EXACT":
            warnings.warn(
                f"b = 0 projects every weight, and this model is {self.label} even then: see "
                ".report() for what is in the way.",
                EquiwrapWarning,
                stacklevel=2,
            )
        self.softness = float(b)

    # -- the weights ------------------------------------------------------------------------------

    def penalty(self, metric: str = "frobenius") -> Tensor:
        """*λ Σ |W − PW|²* over the targets, λ being `penalty=`; its gradient needs no graph."""
        from ..penalty import penalty

        return penalty(self.module, self.targets, self.config.penalty or 0.0, metric)

    def fold(self, softness: float | None = None) -> nn.Module:
        """A plain copy with W_b written into it: the original class and keys, no cost, no equiwrap.

        `softness` is the handle's own b if None: the weights as they were trained for `penalize`.

        Raises:
            SignatureError: a softness outside [0, 1].
        """
        own = 1.0 if self.config.method == "penalize" else self.softness
        b = own if softness is None else softness
        check_method(self.config.method, b)
        plain = copy.deepcopy(self.view)
        with torch.no_grad():
            for target in self.targets if b < 1 else ():
                weight = read(plain, target.path)
                soft = target.projector(weight)
                weight.copy_(soft + b * (weight - soft) if b else soft)
        return plain

    # -- reading ----------------------------------------------------------------------------------

    def report(self) -> SoftReport:
        """What is pulled, what is not and why, and how far each weight is from its projection."""
        from .soft_report import SoftReport

        return SoftReport.of(self)

    def certificate(self, data: Any, **options: Any) -> Certificate:
        """What can be said about the error: of the weights, sampled, by layer, and bounded."""
        from .certificate import certify

        return certify(self, data, **options)

    @property
    def probes(self) -> ModelProbes:
        """`.measure(x)`: the error of the layers that `probes=` chose, of all without it."""
        if self._probes is None:
            from .probing import ModelProbes

            self._probes = ModelProbes(self, True if self.where is None else self.where)
        return self._probes

    def errors(
        self, *inputs: Any, layers: bool = False, **options: Any
    ) -> ErrorEstimate | ProbeReport:
        """The relative error of the model as it runs; `layers`: of its layers on the weights W."""
        if layers:
            return self.probes.measure(*inputs, **options)
        return equivariance_error(
            self.module, self.signature.group, *inputs, signature=self.signature, **options
        )

    def print_graph(self) -> str:
        """Print which weights the forward runs on, and return it."""
        b = f"{self.softness:g}"
        lines = ["def forward(self, *args, **kwargs):"]
        if self.config.method == "project":
            lines += [f"    {t.path} = P W + {b} (W − P W)" for t in self.targets]
        text = "\n".join([*lines, "    return model(*args, **kwargs)"])
        print(text)
        return text

    # -- copying ----------------------------------------------------------------------------------

    def spec(self) -> dict[str, Any]:
        """What, beside the model, rebuilds the wrapping."""
        return {
            "signature": self.signature,
            "config": replace(self.config, softness=self.softness or None),
            "targets": self.targets,
            "verdict": (self.label, self.skipped),
            "hidden": self.hidden,
            "notes": self.notes,
        }

    def rebuild(self, view: nn.Module, frame: Any) -> nn.Module:
        """The same wrapping around another model of the same class."""
        twin = Soft.from_spec(view, frame, self.spec())
        handle_of(twin).where = self.where
        return twin

    @classmethod
    def from_spec(cls, view: nn.Module, frame: Any, spec: dict[str, Any]) -> nn.Module:
        """A wrapped model beside `view`."""
        handle = cls(view, **spec)
        handle.module = install(view, handle, in_place=False)
        return handle.module


class _Runner(nn.Module):
    """The plain forward as a module, so that `functional_call` may exchange its weights."""

    def __init__(self, view: nn.Module, forward: Any) -> None:
        super().__init__()
        self.inner = view
        self.__dict__["plain"] = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["plain"](*args, **kwargs)
