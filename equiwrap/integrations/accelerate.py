"""The callback beside an Accelerator: made after `prepare`, it follows the prepared optimisers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..groups import Group
from ..signature import Signature
from .curves import Row, Run
from .loop import EquivarianceCallback as Core

try:
    from accelerate import Accelerator
except ImportError as missing:
    raise ImportError(
        "equiwrap.integrations.accelerate is for training loops of accelerate, which is not "
        "installed: pip install accelerate."
    ) from missing

__all__ = ["EquivarianceCallback"]


class EquivarianceCallback:
    """*`ew.EquivarianceCallback` for a loop around `accelerate`*: three lines.

        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        cb = EquivarianceCallback(accelerator, model, optimizer, "C4", penalty=1e-2, holdout=val)
        …                 # the loop as it was; after each epoch
        cb.after_epoch()  # and at the end
        cb.finish()

    Real steps are heard of by hooks of the optimisers: accumulated batches count once, steps that
    overflow do not. Rows go to the trackers by `accelerator.log`, and `save_state`, `load_state`
    keep and restore the callback (`register_for_checkpointing`; as plain numbers).

    Args:
        accelerator: the one that prepared.
        model: prepared or not.
        optimizer: the prepared optimiser, or several, of which the first counts the steps.
        group: as of `ew.EquivarianceCallback`, like the signature and the options.
        **options: `holdout` may be a prepared loader: what it wraps is read, so that the
            Accelerator does not take its end for the end of the training data.

    kind="loss": the gradient goes in inside of `optimizer.step()`: unscaled, once an accumulated
    step, after `clip_grad_norm_`.

    Raises:
        TypeError: no optimiser, or an option that the callback does not have.
        ValueError, SignatureError: as of `ew.EquivarianceCallback`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer],
        group: str | Group | None = None,
        signature: str | Signature | None = None,
        **options: Any,
    ) -> None:
        for name in ("holdout", "snap"):
            if name in options:
                options[name] = getattr(options[name], "base_dataloader", options[name])
        self.core = Core(model, group, signature, **{"log": accelerator.log, **options})
        self._hooks: list[Any] = []
        for one in [optimizer] if isinstance(optimizer, Optimizer) else optimizer:
            self.core.attach(one)
            held: Optimizer = getattr(one, "optimizer", one)
            self._hooks.append(held.register_step_pre_hook(self._before))
            self._hooks.append(held.register_step_post_hook(self._after))
        accelerator.register_for_checkpointing(self)

    def after_epoch(self) -> Row:
        """After each epoch: α* and what it says, λ by it, and a measurement."""
        return self.core.after_epoch()

    def finish(self) -> Run:
        """After training: pending decays, the snap, the last row, the report; hooks are removed."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        return self.core.finish()

    @property
    def history(self) -> list[Row]:
        """The rows so far."""
        return self.core.history

    @property
    def line(self) -> str:
        """For a progress bar: the last error, λ and α*."""
        return self.core.line

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return self.core.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self.core.load_state_dict(state)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Gradients are unscaled by now, but for fused optimisers: those are told the scale."""
        scale = getattr(optimizer, "grad_scale", None)
        self.core.before_step(optimizer, 1.0 if scale is None else float(scale))

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.core.after_step()
