"""The report of a penalised or projected model: what is pulled, how far, and what is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..penalty.value import Energy, energies

if TYPE_CHECKING:
    from .soft import Soft

__all__ = ["SoftReport"]

SHOWN = 8


@dataclass(frozen=True)
class SoftReport:
    """*r = |W − PW|² / |W|²* of each target beside that of random weights; prints as a table.

    `energies` has a row for every target in the order of the model, `skipped` (path, reason) of
    every other parameter.
    """

    method: str
    group: str
    signature: str
    label: str
    strength: str
    energies: tuple[Energy, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, handle: Soft) -> SoftReport:
        """As the weights are now."""
        config = handle.config
        strength = (
            f"penalty λ = {config.penalty:g}"
            if config.method == "penalize"
            else f"softness b = {handle.softness:g}"
        )
        return cls(
            config.method,
            config.group,
            config.signature,
            handle.label,
            strength,
            tuple(energies(handle.view, handle.targets)),
            handle.skipped,
            handle.notes,
        )

    @property
    def ratio(self) -> float:
        """*Σ |R|² / Σ |W|²* over the targets."""
        total = sum(e.total for e in self.energies)
        return sum(e.defect for e in self.energies) / total if total else 0.0

    def __str__(self) -> str:
        rows = [
            ("group", self.group),
            ("signature", self.signature),
            ("method", f"{self.method}, {self.strength}"),
            ("class", f"{self.label} once every target is projected"),
            ("pulled", self._pulled()),
        ]
        worst = sorted(self.energies, key=lambda e: e.defect, reverse=True)[:SHOWN]
        rows += [("", f"{e.path}  r = {e.ratio:.3f} (random {1 - e.share:.3f})") for e in worst]
        for reason, count in Counter(reason for _, reason in self.skipped).most_common():
            first = next(path for path, why in self.skipped if why == reason)
            rows.append(("left", f"{count} × {reason}, as {first}"))
        rows += [("note", note) for note in self.notes]
        return "\n".join(f"{head:10} {text}" for head, text in rows)

    def __repr__(self) -> str:
        return str(self)

    def _pulled(self) -> str:
        count = len(self.energies)
        return f"{count} tensors, Σ|W − PW|² / Σ|W|² = {self.ratio:.4f}; the largest:"
