"""The callback as one of transformers': `trainer.add_callback(EquivarianceCallback(trainer))`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import isfinite
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from torch import nn

from ..errors import article
from ..groups import Group
from ..signature import Signature
from .curves import Row, Run
from .loop import EquivarianceCallback as Core

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
    from transformers.trainer_callback import ExportableState
except ImportError as missing:
    raise ImportError(
        "equiwrap.integrations.transformers is a callback of transformers' Trainer, which is not "
        'installed: pip install "transformers[torch]".'
    ) from missing

__all__ = ["EquivarianceCallback"]


class EquivarianceCallback(TrainerCallback, ExportableState):
    """*`ew.EquivarianceCallback` for transformers' Trainer*: the same options, rows and report.

        trainer = Trainer(model=model, args=args, train_dataset=data)
        trainer.add_callback(EquivarianceCallback(trainer, "C4", signature, penalty=1e-2))

    Given the Trainer, the callback goes before the others when training begins and passes each row
    to `trainer.log` when it is measured, so to every logger (TensorBoard and others call them
    train/equiv/error, …), the progress bar and `state.log_history`, whatever `logging_steps`. Given
    a model, or none, in `Trainer(callbacks=[…])`: a Trainer shows itself to no callback, and calls
    its loggers before those of its user; rows go to `state.log_history`, and with the next log to
    the callbacks behind this one (the progress bar).

    A callback cannot change the loss, and need not: a decay acts on the weights after each step of
    the optimiser, and kind="loss" adds its gradient at `on_pre_optimizer_step`: unscaled, once an
    accumulated step, after clipping. A step that a scaler skips is none.

    State is in trainer_state.json of every checkpoint, and `train(resume_from_checkpoint=…)` goes
    on exactly, with or without `restore_callback_states_from_checkpoint`. Snap and report come at
    `on_train_end`, behind the last checkpoint: `trainer.save_model()` keeps what is snapped.

    Args:
        model: the Trainer, the model that it trains (penalised, averaged or plain), or None: the
            Trainer's.
        group: as of `ew.EquivarianceCallback`, like the signature and the options.
        signature: of a model that takes and returns names, "pixel_values: b c h w -> {logits: b
            k}".
        name: of one callback among several: rows are logged as `equiv/<name>/error`.
        **options: `total` is the Trainer's number of steps unless given.

    Raises:
        TypeError: an option that the callback does not have.
        ValueError: the Trainer trains another model.
        SignatureError: the model cannot be read.
    """

    _asked: ClassVar[WeakValueDictionary[str, EquivarianceCallback]] = WeakValueDictionary()

    def __init__(
        self,
        model: nn.Module | Trainer | None = None,
        group: str | Group | None = None,
        signature: str | Signature | None = None,
        *,
        name: str = "",
        restored: str | None = None,
        **options: Any,
    ) -> None:
        if restored is not None:  # the Trainer makes its callbacks anew: this one is that one
            self.__dict__ = self._asked[restored].__dict__
            return
        inspect.signature(Core).bind(None, group, signature, **options)
        self.trainer = model if isinstance(model, Trainer) else None
        self.model = model if isinstance(model, nn.Module) else None
        self.group, self.signature, self.name, self.options = group, signature, name, options
        self.core: Core | None = None
        self.saved: Any = None
        self._told = 0
        self._news: Row = {}
        if model is not None:
            self._find(self.model if self.trainer is None else self.trainer.model)

    # -- the events -------------------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._find(kwargs["model"])

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        followed = self.core._optimizers if self.core is not None else {}
        if followed and id(optimizer) not in followed:
            self.core = None  # of a training that was interrupted
        core = self._find(kwargs["model"])
        if self.trainer is not None:  # what stood before it has been called, and moves up by one
            callbacks = self.trainer.callback_handler.callbacks
            callbacks.insert(0, callbacks.pop([c is self for c in callbacks].index(True)))
        saved = self._newest(state)["attributes"]["saved"]
        if saved is not None:  # a beginning has a state too
            core.load_state_dict(_back(saved))
        self._told = len(core.history)
        if optimizer is not None:
            core.attach(optimizer, state.max_steps if self.options.get("total") is None else None)
        if core.epochs < int(state.epoch or 0):  # the checkpoint came before the end of the epoch,
            core.after_epoch()  # and the Trainer does not come back to it
            self._tell(state, control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._core.before_step(kwargs["optimizer"])
        self._tell(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._core.after_step()
        self._tell(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._core.after_epoch()
        self._tell(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._newest(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._core.finish()
        self._tell(state, control)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Row | None = None, **kwargs: Any
    ) -> None:
        if logs is not None:
            logs.update(self._news)
        self._news = {}

    def _tell(self, state: TrainerState, control: TrainerControl) -> None:
        """Log the rows that are new, and leave what the Trainer is about to do as it was."""
        rows, self._told = self._core.history[self._told :], len(self._core.history)
        for row in rows:
            values = {
                k.replace("equiv/", f"equiv/{self.name}/") if self.name else k: float(v)
                for k, v in row.items()
                if k not in ("step", "epoch")
            }
            if self.trainer is None:
                place = {"epoch": state.epoch, "step": state.global_step}
                state.log_history.append({**values, **place})
                self._news |= values
                continue
            held = control.should_log
            self.trainer.log(values)
            control.should_log = held

    # -- the model --------------------------------------------------------------------------------

    def _find(self, model: Any) -> Core:
        """The core, about the model of the Trainer as it is now.

        Raises:
            ValueError: another model was given.
        """
        subject = model if self.model is None else self.model
        if not _share(subject, model):
            raise ValueError(
                f"The callback was given {article(subject)}, and the Trainer trains a "
                f"{type(model).__name__} that shares no parameter with it: give the callback the "
                "Trainer itself, EquivarianceCallback(trainer, …)."
            )
        if self.core is None or not _share(self.core.model, model):
            self.core = Core(subject, self.group, self.signature, **self.options)
            self._told = 0
        return self.core

    @property
    def _core(self) -> Core:
        assert self.core is not None  # on_train_begin comes first
        return self.core

    # -- the checkpoint ---------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return f"{self.name or self.group or 'model'} {self.options.get('kind', 'decay')}"

    def state(self) -> dict[str, Any]:
        """JSON of what a checkpoint keeps; the Trainer asks for it when it begins and saves."""
        self._asked[self._key] = self
        saved = self.saved if self.core is None else _plain(self.core.state_dict())
        return {"args": {"restored": self._key}, "attributes": {"saved": saved}}

    def _newest(self, state: TrainerState) -> Any:
        """The last state of this callback, of which the Trainer keeps one each (or one in all)."""
        held: Any = state.stateful_callbacks
        stored = held.get(type(self).__name__, [])
        stored = stored if isinstance(stored, list) else [stored]
        newest = {entry["args"].get("restored"): entry for entry in stored}
        mine = newest.setdefault(self._key, self.state())  # the checkpoint was without it
        held[type(self).__name__] = list(newest.values()) if len(newest) > 1 else mine
        return mine

    # -- reading ----------------------------------------------------------------------------------

    @property
    def history(self) -> list[Row]:
        """The rows so far."""
        return self._core.history

    @property
    def line(self) -> str:
        """The last error, λ and α*."""
        return self._core.line

    def report(self) -> Run:
        """The rows so far, which print as a table with curves and save as files."""
        return self._core.report()


def _share(one: nn.Module, other: nn.Module) -> bool:
    """True where a parameter of one is a parameter of the other."""
    held = {id(p) for p in one.parameters()}
    return any(id(p) in held for p in other.parameters())


def _plain(x: Any) -> Any:
    """What JSON holds: numbers that are not finite by name."""
    if isinstance(x, Mapping):
        return {key: _plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    return repr(x) if isinstance(x, float) and not isfinite(x) else x


def _back(x: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(x, dict):
        return {key: _back(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_back(value) for value in x]
    return float(x) if x in ("nan", "inf", "-inf") else x
