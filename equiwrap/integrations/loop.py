"""`EquivarianceCallback`: the one object that a person adds to a training loop they have."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..errors import EquiwrapWarning, article
from ..groups import Group
from ..penalty.schedule import Given, snap
from ..penalty.targets import Strength, targets_of
from ..signature import Signature
from .asking import check_asked, check_state
from .curves import Row, Run
from .minding import after, before
from .pull import Pull
from .ranks import first_rank
from .record import Record
from .steer import Steering
from .subject import inner, pulled
from .watch import Watch

__all__ = ["EquivarianceCallback"]


class EquivarianceCallback:
    """*Pulls, measures and steers the symmetry of `model` while somebody else trains it.*

        cb = ew.EquivarianceCallback(a, "C4", penalty=1e-2, holdout=(x_val, y_val))
        cb.before_step(optimizer); optimizer.step(); cb.after_step()    # after each backward
        cb.after_epoch()                                                # cb.finish() at the end

    The sleeves under `equiwrap.integrations` (lightning, transformers, timm, accelerate) call these
    for you. Logged are, under these names, to `log(values, step)` and to `history`:

        equiv/error          relative error on the holdout, every `every` steps (and _half_width)
        equiv/penalty        λ s(step) Σ|R|², R = W − PW
        equiv/ratio          Σ|R|² / Σ|W|²
        equiv/strength       λ s(step)
        equiv/alpha_star     α* of the holdout, each epoch, where it has targets (and _low, _high)
        equiv/data_error     DEE ≳ c ‖f_⊥‖, in output units, with it
        equiv/layer/<fqn>    |R| / |W| of the weight of that name, with `layers=True`

    Args:
        model: what trains: penalised (`equivariantize(method="penalize")`), averaged (measured
            only), or plain (its weights are typed here, under `group` and `signature`). DDP and
            compiled models are looked into.
        penalty: λ, or one for each path; None measures only.
        kind: "decay", "ball", "lasso" (after the step, see `EquivarianceDecay`) or "loss" (the
            gradient of λΣ|R|², added right before the step).
        decay_every: steps that one application of a decay stands for (exactly).
        schedule: of λ (`penalty.as_schedule`); fractions need `total`, the number of steps.
        steer: True (by α*; towards a tenth of the first error without targets), the relative error
            to hold, or a controller of `equiwrap.penalty`.
        every: steps between measurements; a float up to 1.0 is a fraction of `total`; None: never.
        holdout: a tensor, a tuple (inputs…, target), or a loader of them.
        ema: copies of the model (`timm`'s, torch's `AveragedModel`) whose weights are held
            projected, W ← PW, after each step.
        snap: W ← PW at the end; a loader estimates batch statistics anew.
        certificate: warn at the end where the bound of the trained model is vacuous.
        report: a file for the final report (.html with curves, .json, .csv).

    Neither random numbers nor statistics nor modes change by measuring. A measurement costs a pass
    over the first batch for each element of the group (eight samples of an infinite one), and one.
    On several processes every one must call, measurements are joined, and λ is the same in all.

    Raises:
        ValueError: a strength, kind, schedule or number that has no meaning.
        SignatureError: the weights of the model cannot be pulled, or the holdout not be read.
    """

    def __init__(
        self,
        model: nn.Module,
        group: str | Group | None = None,
        signature: str | Signature | None = None,
        *,
        penalty: Strength | None = None,
        kind: str = "decay",
        metric: str = "frobenius",
        decay_every: int = 4,
        schedule: Given = None,
        total: int | None = None,
        steer: Any = False,
        every: int | float | None = 100,
        holdout: Any = None,
        layers: bool = False,
        hidden: str | Mapping[str, str] = "auto",
        ema: nn.Module | Iterable[nn.Module] = (),
        snap: bool | Iterable[Any] = False,
        certificate: bool = False,
        log: Callable[[Row, int], None] | None = None,
        report: str | None = None,
    ) -> None:
        check_asked(
            penalty is not None,
            holdout is not None,
            model=model,
            kind=kind,
            total=total,
            steer=steer,
            every=every,
            ema=ema,
            snap=snap,
            log=log,
            report=report,
        )
        self.model = inner(model)
        self.every, self.total = every, total
        self.log, self.path, self.snap, self.certificate = log, report, snap, certificate
        self.ema = [inner(m) for m in ([ema] if isinstance(ema, nn.Module) else ema)]
        self.watch: Watch | None = None
        watched = self.model
        if penalty is not None:
            watched = pulled(self.model, group, signature, hidden, holdout)
        if holdout is not None:
            self.watch = Watch(watched, group, signature, holdout)
        self.pull: Pull | None = None
        if penalty is not None:
            self.pull = Pull(
                watched, targets_of(watched), penalty, kind, metric, decay_every, schedule
            )
            self.pull.check_copies(self.ema)
        self.record = Record(self.watch, self.pull, Steering(steer, penalty), layers, watched)
        self.steps = self.epochs = self._seen = 0
        self.notes: list[str] = []
        self._optimizers: dict[int, Any] = {}
        self._begun = False

    # -- the loop ---------------------------------------------------------------------------------

    def attach(self, optimizer: Optimizer, total: int | None = None) -> None:
        """Follow an optimiser; called by the first `before_step` if nobody did. Once for each.

        Raises:
            TypeError: no optimiser.
            ValueError: the schedule needs the number of steps, and `total` is not known.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)  # trainers wrap it
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"A callback follows a torch.optim.Optimizer, and {article(optimizer)} was "
                "given: before_step(optimizer)."
            )
        self.total = self.total if total is None else total
        if id(optimizer) in self._optimizers:
            return
        if self.pull is not None:
            self.pull.attach(optimizer, self.total)
        first = not self._optimizers
        hook = optimizer.register_step_post_hook(self._count) if first else None
        self._optimizers[id(optimizer)] = (optimizer, hook)

    def before_step(self, optimizer: Optimizer, scale: float = 1.0) -> None:
        """Right before `optimizer.step()` or `scaler.step(optimizer)`: once a real step.

        `scale`: what the gradients are still multiplied by, `scaler.get_scale()` unless they were
        unscaled; it matters to kind="loss" only.
        """
        self.attach(optimizer)
        if not self._begun:
            self._begin()
        if self.pull is not None and self.pull.kind == "loss":
            held = getattr(optimizer, "optimizer", optimizer)
            self.pull.add(held, self.steps, float(scale))

    def after_step(self) -> Row:
        """After each step; the row that was measured, empty where none was due."""
        if not self._optimizers:  # nobody told us of an optimiser: calls are steps
            self.steps += 1
            self._begun = True
        seen, self._seen = self._seen, self.steps
        if self.steps == seen:
            return {}
        if self.pull is not None:
            self.pull.check_follows()
            self.pull.hold(self.ema)
        pace = self._pace()
        if self.watch is None or not pace or self.steps // pace == seen // pace:
            return {}
        return self.measure()

    def after_epoch(self) -> Row:
        """After each epoch: α* and what it says, λ by it, and a measurement."""
        self.epochs += 1
        return self.measure(data=True) if self.watch is not None else {}

    def finish(self) -> Run:
        """After training: pending decays, the snap, the last row, the report; hooks are removed."""
        if self.pull is not None:
            self.pull.remove()
            if self.snap is not False:
                loader: Any = None if self.snap is True else self.snap
                snap(self.pull.model, self.pull.targets, loader)
            self.pull.hold(self.ema)
        for _, hook in self._optimizers.values():
            if hook is not None:
                hook.remove()
        self._optimizers.clear()
        if self.watch is not None:
            self.measure(data=True, steer=False)
            if self.certificate:
                self._say(after(self.watch.model, self.watch))
        found = self.report()
        if self.path is not None and first_rank():
            found.save(self.path)
        return found

    # -- reading ----------------------------------------------------------------------------------

    def measure(self, data: bool = False, steer: bool = True) -> Row:
        """One row now, logged and kept: the error, the weights', with `data` α*; λ follows."""
        row = self.record.measure(self.steps, self.epochs, data, steer)
        if self.log is not None and first_rank():
            self.log({k: v for k, v in row.items() if k not in ("step", "epoch")}, self.steps)
        return row

    @property
    def history(self) -> list[Row]:
        """The rows so far."""
        return self.record.rows

    @property
    def line(self) -> str:
        """For a progress bar: the last error, λ and α*."""
        return self.record.line

    def report(self) -> Run:
        """The rows so far, which print as a table with curves and save as files."""
        pulled = f", {self.pull.kind} of {len(self.pull.targets)} targets" if self.pull else ""
        group = self.watch.group if self.watch is not None else ""
        what = f"{type(self.model).__name__} under {group}: {self.steps} steps{pulled}"
        return Run(what, tuple(self.history), tuple(self.notes))

    # -- the rest ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Before the first step: what is to be minded, and a first row."""
        self._begun = True
        if self.steps == 0 and self.watch is not None and self.every is not None:
            self.measure()
        target = self.pull.model if self.pull is not None else self.model
        self._say(before(target, self.watch))

    def _say(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            if sentence not in self.notes:
                self.notes.append(sentence)
                warnings.warn(sentence, EquiwrapWarning, stacklevel=4)

    def _count(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """A real step: fused optimisers skip overflowed ones inside of `step()`."""
        found = getattr(optimizer, "found_inf", None)
        if found is None or not float(found):
            self.steps += 1

    def _pace(self) -> int:
        if not isinstance(self.every, float):
            return self.every or 0
        if self.total is None:
            raise ValueError(
                f"every={self.every} is a fraction of the training, whose length is not known: "
                "pass total=, the number of steps, or a number of steps."
            )
        return max(1, round(self.every * self.total))

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists: what a checkpoint keeps, and loads without equiwrap."""
        return {
            "steps": self.steps,
            "epochs": self.epochs,
            "total": self.total,
            "pull": self.pull.state_dict() if self.pull is not None else None,
            **self.record.state_dict(),
            "notes": list(self.notes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            ValueError: it is no state of a callback, or of one that pulled.
        """
        check_state(state, self.pull is not None)
        self.steps = self._seen = state["steps"]
        self.epochs = state["epochs"]
        self.total = state["total"] if self.total is None else self.total
        self.record.load_state_dict(state)
        self.notes = list(state["notes"])
        if self.pull is not None and state["pull"] is not None:
            self.pull.load_state_dict(state["pull"])
