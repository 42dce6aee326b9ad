"""The callback as one of Lightning's: `Trainer(callbacks=[EquivarianceCallback("net", "C4")])`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from math import isfinite
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import SignatureError
from ..groups import Group
from ..signature import Signature
from .curves import Row, Run
from .loop import EquivarianceCallback as Core
from .subject import trains

try:
    from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
except ImportError as missing:
    raise ImportError(
        "equiwrap.integrations.lightning is a callback of Lightning, which is not installed: "
        "pip install lightning."
    ) from missing

__all__ = ["EquivarianceCallback"]

SHOWN = ("equiv/error", "equiv/strength", "equiv/alpha_star")
AVERAGES = ("WeightAveraging", "StochasticWeightAveraging")
AVERAGING: Any = tuple(getattr(callbacks, n) for n in AVERAGES if hasattr(callbacks, n))
SHARDED = ("FSDPStrategy", "DeepSpeedStrategy")  # flat pieces, without their shape


class EquivarianceCallback(Callback):
    """*`ew.EquivarianceCallback` for Lightning's trainer*: the same options, rows and report.

        Trainer(callbacks=[EquivarianceCallback("net", "C4", penalty=1e-2, holdout="val")])

    Rows go to all loggers of the trainer when they are measured, whatever `log_every_n_steps`; the
    error, λ and α* also to the progress bar, and to what other callbacks monitor. A step is a real
    one of the (first) optimiser that trains the model: accumulated batches count once, overflowed
    ones not. State is kept in the checkpoint, which loads without equiwrap.

    Args:
        model: the module inside the LightningModule, its path there ("net"), or None: the only
            child that was equivariantized.
        group: as of `ew.EquivarianceCallback`, like the signature and the options.
        name: of one callback among several: rows are logged as `equiv/<name>/error`.
        **options: `total` is what the trainer estimates unless given. `holdout="val"` takes the
            first validation loader of the trainer, with its batch limit and the transfer hooks of
            the LightningModule. `ema=True` holds the averages of the trainer's `WeightAveraging`
            callbacks projected; these stand before this one in `callbacks`.

    kind="loss": the gradient goes in at `on_before_optimizer_step`: unscaled, once an accumulated
    step, before clipping. Snap and report come at `on_train_end`, after the other callbacks that
    stand before it: `save_last=True` and `trainer.save_checkpoint` keep the snapped weights.

    Raises:
        TypeError: an option that the callback does not have.
        SignatureError: the model is not found in the LightningModule, or cannot be read.
        ValueError: sharded weights, two callbacks of one name, an order that undoes the snap.
    """

    def __init__(
        self,
        model: nn.Module | str | None = None,
        group: str | Group | None = None,
        signature: str | Signature | None = None,
        *,
        name: str = "",
        **options: Any,
    ) -> None:
        inspect.signature(Core).bind(model, group, signature, log=None, **options)
        self.model, self.group, self.signature = model, group, signature
        self.name, self.options = name, options
        self.core: Core | None = None
        self._waiting: Mapping[str, Any] | None = None
        self._shown: Row = {}
        self._optimizers: list[Optimizer] = []

    # -- the hooks --------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._found(pl_module)
        self._refuse(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        held = self.core
        if held is not None and held.pull is not None:
            held.pull.remove()  # of a fit that was interrupted
        if trainer.global_step and self._waiting is None and held is not None:
            self._waiting = held.state_dict()  # fit was called once more
        found, options = self._found(pl_module), dict(self.options)
        if isinstance(options.get("holdout"), str):
            options["holdout"] = _Validation(trainer, options["holdout"])
        if options.get("ema") is True:
            options["ema"] = _averages(trainer, pl_module, found)
        if options.get("total") is None:
            options["total"] = _total(trainer)
        self.core = Core(
            found, self.group, self.signature, log=partial(self._log, trainer), **options
        )
        resumed = self._waiting if trainer.global_step else None
        if resumed is not None:
            self.core.load_state_dict(resumed)
        self._waiting, self._shown = None, {}
        self._optimizers = [o for o in trainer.optimizers if trains(o, self.core.model)]
        for optimizer in self._optimizers:
            self.core.attach(optimizer)
        if resumed is not None and self.core.epochs < trainer.current_epoch:
            self.core.after_epoch()  # Lightning leaves out the hook that the checkpoint preceded

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if any(optimizer is o for o in self._optimizers):
            self._core.before_step(optimizer, _scale(trainer, optimizer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._core.after_step()
        self._show(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._core.after_epoch()
        self._show(pl_module, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._core.finish()

    # -- the checkpoint ---------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        path = self.model if isinstance(self.model, str) else None
        return self._generate_state_key(group=str(self.group), model=path, name=self.name)

    def state_dict(self) -> dict[str, Any]:
        return self.core.state_dict() if self.core is not None else dict(self._waiting or {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._waiting = state_dict or None

    # -- reading ----------------------------------------------------------------------------------

    @property
    def history(self) -> list[Row]:
        """The rows so far."""
        return self.core.history if self.core is not None else []

    def report(self) -> Run:
        """The rows so far, which print as a table with curves and save as files.

        Raises:
            RuntimeError: nothing was trained yet.
        """
        return self._core.report()

    # -- the rest ---------------------------------------------------------------------------------

    @property
    def _core(self) -> Core:
        if self.core is None:
            raise RuntimeError("The callback begins with trainer.fit, which was not called yet.")
        return self.core

    def _log(self, trainer: Trainer, row: Row, step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({self._named(k): v for k, v in row.items()}, step=step)
            logger.save()

    def _named(self, key: str) -> str:
        return key.replace("equiv/", f"equiv/{self.name}/", 1) if self.name else key

    def _show(self, module: LightningModule, **how: Any) -> None:
        for row in self._core.history[-1:]:
            self._shown |= {k: row[k] for k in SHOWN if k in row}
        for key, value in self._shown.items():
            module.log(self._named(key), value, prog_bar=True, logger=False, **how)

    def _found(self, module: LightningModule) -> nn.Module:
        """The model inside of the LightningModule.

        Raises:
            SignatureError: there is none of that name, or not exactly one to choose.
        """
        if isinstance(self.model, nn.Module):
            return self.model
        held = dict(module.named_modules())
        if self.model is not None:
            if self.model in held:
                return held[self.model]
            names = ", ".join(name for name, _ in module.named_children())
            raise SignatureError(f"model={self.model!r}: the LightningModule has {names}.")
        tops: list[str] = []
        for path, part in held.items():  # parents come before their children
            inside = any(f"{path}.".startswith(f"{top}." if top else "") for top in tops)
            if getattr(part, "equiwrap", None) is not None and not inside:
                tops.append(path)
        if len(tops) == 1:
            return held[tops[0]]
        found = f"there are {', '.join(tops)}" if tops else "there is none"
        raise SignatureError(
            f"model=None takes the one part of {type(module).__name__} that was equivariantized, "
            f'and {found}: name one, as in EquivarianceCallback("net", "C4").'
        )

    def _refuse(self, trainer: Trainer) -> None:
        """What would go wrong later, silently.

        Raises:
            ValueError: sharded weights, two callbacks of one name, an order that undoes the snap.
        """
        how = type(trainer.strategy).__name__
        if how in SHARDED and self.options.get("penalty") is not None:
            raise ValueError(
                f"penalty= came beside {how}, which keeps weights as flat pieces without their "
                "shape: use ddp, or ModelParallelStrategy with fully_shard in configure_model."
            )
        every: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        mine = [c for c in every if isinstance(c, EquivarianceCallback)]
        if any(c is not self and c.name == self.name for c in mine):
            raise ValueError(
                "Two callbacks would log to the same curves: give each its name, as in "
                'EquivarianceCallback("net", "D4", name="D4").'
            )
        if any(isinstance(c, AVERAGING) for c in every[every.index(self) + 1 :]):
            raise ValueError(
                "An average of weights stands after the EquivarianceCallback, and would take the "
                "place of its weights at the end: callbacks=[averaging, equivariance]."
            )


class _Validation:
    """*The first validation loader, as the trainer reads it*: hooks, dtypes, devices, its limit."""

    def __init__(self, trainer: Trainer, given: str) -> None:
        if given != "val":
            raise ValueError(f'holdout={given!r}: "val", tensors and loaders are understood.')
        self.trainer = trainer
        if trainer.val_dataloaders is None and trainer.enable_validation:
            trainer.validating = True  # as Lightning does it where the first check comes late
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.training = True
        held = trainer.val_dataloaders
        while isinstance(held, (list, tuple, Mapping)) and held:
            held = next(iter(held.values() if isinstance(held, Mapping) else held))
        if held is None or not trainer.num_val_batches or not trainer.num_val_batches[0]:
            raise ValueError(
                'holdout="val", and the trainer has no validation batches: pass val_dataloaders= '
                "to fit, or a holdout of tensors."
            )
        self.loader = held

    def __iter__(self) -> Iterator[Any]:
        trainer, count = self.trainer, self.trainer.num_val_batches[0]
        for batch in islice(self.loader, int(count) if isfinite(count) else None):
            read = trainer.precision_plugin.convert_input(batch)
            read = trainer.lightning_module._on_before_batch_transfer(read)
            yield trainer.strategy.batch_to_device(read)


def _averages(trainer: Trainer, module: LightningModule, model: nn.Module) -> list[nn.Module]:
    """The copies of the model that `WeightAveraging` callbacks keep.

    Raises:
        ValueError: there are no such callbacks, or the model is not in the LightningModule.
    """
    path = next((p for p, m in module.named_modules() if m is model), None)
    every: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = [c._average_model for c in every if isinstance(c, AVERAGING)]
    if path is None or not found:
        lacks = "the trainer has none" if path is not None else "the model is not in the module"
        raise ValueError(f"ema=True projects the averages of averaging callbacks: {lacks}.")
    return [getattr(m, "module", m).get_submodule(path) for m in found if m is not None]


def _total(trainer: Trainer) -> int | None:
    """The number of steps, None where Lightning cannot tell."""
    try:
        found = trainer.estimated_stepping_batches
    except MisconfigurationException:
        return None
    return int(found) if isfinite(found) and found > 0 else None


def _scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """What gradients are multiplied by: Lightning unscales, but for fused optimisers."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return float(scaler.get_scale()) if scaler is not None and fused else 1.0
