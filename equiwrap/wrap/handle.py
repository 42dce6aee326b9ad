"""`model.equiwrap`: the one attribute of a wrapped model, with its report, its error and its
graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import CaptureError, SignatureError
from ..frames import Frame
from ..graph import averaged_graph
from ..graph.rewrite import Call
from ..measure import ErrorEstimate, equivariance_error
from ..signature import Signature
from .config import Config
from .install import PREFIX, install, original_forward
from .report import Report
from .words import no_weights

if TYPE_CHECKING:
    from .probing import ModelProbes, ProbeReport

__all__ = ["Handle"]


class Handle:
    """What `equivariantize` leaves on the model: `.report()`, `.errors(x)`, `.print_graph()`."""

    def __init__(
        self,
        view: nn.Module,
        frame: Frame,
        signature: Signature,
        config: Config,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.view, self.frame, self.signature, self.config = view, frame, signature, config
        self.notes, self.enabled, self.compiled = notes, True, None
        self.in_place = False
        self.probing: ModelProbes | None = None
        self.where: Any = config.probes  # a filter function among them, which no config can hold
        self._probes: ModelProbes | None = None
        self.forward = original_forward(view)
        self.call = Call(self.forward)
        self.types = self.call.types(signature)
        self._typed = [name for name, kind in self.types.items() if not kind.untouched]
        self._check_parameters()
        self.graph = averaged_graph(
            self.forward,
            view,
            self.call,
            frame,
            signature,
            self.types,
            mask=config.mask,
            softness=config.softness,
        )
        self.module: nn.Module = view

    def _check_parameters(self) -> None:
        index = self.signature.index
        uncovered = [n for n in self.call.required if n not in self.types and n != index]
        known = [*self.call.parameters, *self.call.keyword_only]
        if uncovered:
            raise SignatureError(
                f"The signature {str(self.signature)!r} has {len(self.types)} inputs, and the "
                f"model's forward also needs {', '.join(uncovered)}: type each of them, with _ "
                "for what is passed through untouched."
            )
        if index is not None and index not in known and not self.call.open:
            raise SignatureError(
                f"The signature names {index} as the graph of each row, and the model's forward "
                f"takes {', '.join(known)}: name the argument that holds it."
            )
        mask = self.config.mask
        if mask is not None and index is not None:
            raise SignatureError(
                f"mask={mask!r} came beside ragged rows (b n), which have no padding to hide."
            )
        if mask is not None and mask not in known and not self.call.open:
            raise SignatureError(
                f"mask={mask!r} names no argument of the model's forward, which takes "
                f"{', '.join(known)}."
            )

    # -- running ----------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped forward.

        Raises:
            SignatureError: a typed input is missing, or a tensor is not typed.
        """
        if self.probing is not None:
            return self.probing.run(*args, **kwargs)
        if not self.enabled:
            return self.forward(*args, **kwargs)
        bound = self.call.bind(args, kwargs)
        missing = [name for name in self._typed if name not in bound]
        if missing:
            raise SignatureError(
                f"The signature {str(self.signature)!r} types {', '.join(missing)}, and the call "
                "did not give it."
            )
        rest = {name: value for name, value in bound.items() if name not in self._typed}
        self._check_rest(rest)
        return self.graph(*[bound[name] for name in self._typed], rest)

    def _check_rest(self, rest: dict[str, Any]) -> None:
        import torch

        loose = [n for n, v in rest.items() if isinstance(v, torch.Tensor) and n not in self.types]
        loose = [n for n in loose if n not in (self.config.mask, self.signature.index)]
        if loose:
            raise SignatureError(
                f"The call gives {', '.join(loose)}, which the signature {str(self.signature)!r} "
                "does not type: add a pattern for it, or _ if it is to be passed through "
                "untouched."
            )

    # -- reading ----------------------------------------------------------------------------------

    def report(self) -> Report:
        """What was done, at which cost, how exact it is, and what to mind."""
        notes = self.notes + (self.probes.notes() if self.where is not None else ())
        return Report.of(self.signature, self.frame, self.config, notes, self.view)

    @property
    def probes(self) -> ModelProbes:
        """`.measure(x)`: the error of the layers that `probes=` chose, of all without it."""
        if self._probes is None:
            from .probing import ModelProbes  # few need it

            self._probes = ModelProbes(self, True if self.where is None else self.where)
        return self._probes

    def errors(
        self, *inputs: Any, layers: bool = False, **options: Any
    ) -> ErrorEstimate | ProbeReport:
        """The wrapped model's own relative equivariance error on these inputs.

        `layers=True`: that of the layers of the plain model underneath, as `probes.measure`.
        """
        if layers:
            return self.probes.measure(*inputs, **options)
        return equivariance_error(self.module, self.signature.group, *inputs, **options)

    def penalty(self, *args: Any, **kwargs: Any) -> Any:
        """None: an average leaves the weights alone.

        Raises:
            CaptureError: always.
        """
        raise CaptureError(no_weights("penalty"))

    def fold(self, *args: Any, **kwargs: Any) -> Any:
        """None: an average cannot be written into weights.

        Raises:
            CaptureError: always.
        """
        raise CaptureError(no_weights("fold"))

    def certificate(self, *args: Any, **kwargs: Any) -> Any:
        """None: an average is exact by construction, or says by how much it is not.

        Raises:
            CaptureError: always.
        """
        raise CaptureError(no_weights("certificate"))

    def print_graph(self) -> str:
        """Print the generated forward of the graph around the model, and return it."""
        text = str(self.graph.code).strip()
        print(text)
        return text

    # -- copying ----------------------------------------------------------------------------------

    def spec(self) -> dict[str, Any]:
        """What, beside the model and the frame, rebuilds the wrapping."""
        return {"signature": self.signature, "config": self.config, "notes": self.notes}

    def rebuild(self, view: nn.Module, frame: Any) -> nn.Module:
        """The same wrapping around another model of the same class."""
        twin = Handle.from_spec(view, frame, self.spec())
        getattr(twin, PREFIX).where = self.where
        return twin

    @classmethod
    def from_spec(cls, view: nn.Module, frame: Frame, spec: dict[str, Any]) -> nn.Module:
        """A wrapped model beside `view`."""
        handle = cls(view, frame, **spec)
        handle.module = install(view, handle, in_place=False)
        return handle.module
