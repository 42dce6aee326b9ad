"""The report of a wrapped model: what was done, at which cost, how exact, and what to mind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..frames import Frame
from ..signature import Signature
from .config import Config

__all__ = ["Report"]

_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass(frozen=True)
class Report:
    """Lines by heading; prints as a short table."""

    group: str
    signature: str
    frame: str
    calls: str
    tier: str
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        signature: Signature,
        frame: Frame,
        config: Config,
        notes: tuple[str, ...],
        model: nn.Module,
    ) -> Report:
        """Gather what can be said without running the model."""
        group, k = signature.group, frame.calls(signature.group)
        said = list(notes)
        from ..frames.learned import Learned  # a report is seldom asked for

        turned = group.dim == 2 and not group.permutes and not isinstance(frame, Learned)
        if turned and config.at is None and any(kind.grid for _, kind in signature.inputs):
            said.append(
                "A frozen model that has only seen upright images meets turned ones here, and may "
                "lose its accuracy: give calibrate=images (unlabelled, as they come) to fit an "
                "upright prior, or train the wrapped model."
            )
        if k > 1 and any(isinstance(m, _NORMS) for m in model.modules()):
            said.append(
                "Batch normalisation in training mode sees all elements in one batch: its "
                "statistics are those of the orbit."
            )
        if config.softness is not None:
            said.append(
                f"The equivariance error is that of the model times {config.softness:g}, exactly; "
                "one plain call is added."
            )
        if frame.stochastic:
            said.append("In training one element is drawn a sample; eval uses the full frame.")
        return cls(
            str(group),
            str(signature),
            frame.describe(group),
            f"{'at least ' if frame.grows else ''}{k + (config.softness is not None)} × the batch "
            "through the model, off ties",
            "wrap (the model is one leaf; nothing inside was traced)",
            tuple(said),
        )

    def __str__(self) -> str:
        rows = [
            ("group", self.group),
            ("signature", self.signature),
            ("frame", self.frame),
            ("cost", self.calls),
            ("tier", self.tier),
            *[("note", note) for note in self.notes],
        ]
        return "\n".join(f"{head:10} {text}" for head, text in rows)

    def __repr__(self) -> str:
        return str(self)
