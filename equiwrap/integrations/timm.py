"""timm with symmetry: registered models, a training task, and timm's own scripts, unmodified.

    import timm, equiwrap.integrations.timm
    model = timm.create_model("equi_resnet18", group="C4", num_classes=10)

    python -m equiwrap.integrations.timm train.py DIR --model equi_resnet18 --model-kwargs group=C4

The import gives every model of timm a second name, `equi_<name>` (`timm.list_models("equi_*")`;
tags as ever, `equi_resnet18.a1_in1k`). Keys, weights and `pretrained_cfg` are the plain model's, so
that checkpoints go both ways. `group=`, `method=`, `frame=`, `penalty=`, … are `equivariantize`'s,
all other keywords the model's.

A model of `method="penalize"` that is created by such a name waits for its optimiser: the first
one, of any loop, that trains it is followed by `EquivarianceDecay(model, optimizer, penalty)` from
its first step on. `decay=False` leaves that out (and so does an `EquivariantTask`, or a decay that
you have put on the optimiser yourself); `decay={"every": 10}` passes options on. Copies (EMA) and
models of `equivariantize` do not wait. A schedule of the decay begins anew when training is
resumed.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and len(sys.argv) > 1:
    # as `python train.py` does: what lies beside the script is found first, a checkout's timm too
    sys.path.insert(0, str(Path(sys.argv[1]).resolve().parent))

from timm.task import ClassificationTask
from timm.utils import unwrap_model
from torch import Tensor

from ..penalty import penalty as weighed
from ..penalty.schedule import Given, as_schedule
from ..penalty.targets import Strength, checked, strength_at, targets_of
from .timm_models import PREFIX, nearest, register, release

__all__ = ["PREFIX", "EquivariantMixin", "EquivariantTask", "main", "register"]


class EquivariantMixin:
    """*loss + λ s(step) Σ |W − PW|²*, and the second term alone under `equiv_penalty`.

    In front of any task of timm that has a `trainable_module` of `method="penalize"`, distillation
    too: `class Task(EquivariantMixin, LogitDistillationTask): pass`. Adds no parameter and no key
    to a `state_dict`; with a schedule, its step is in the task's own state.

    Args:
        penalty: λ, one for all or by path; that of the model if None.
        metric: of `equiwrap.penalty.penalty`.
        schedule: of λ (`as_schedule`), by the training calls of the task.
        total: the number of these calls, for schedules by fractions.

    Raises:
        AttributeError: the model has no targets.
        ValueError: a negative strength, or a schedule that needs `total`.
    """

    training: bool
    trainable_module: Any

    def __init__(
        self,
        *args: Any,
        penalty: Strength | None = None,
        metric: str = "frobenius",
        schedule: Given = None,
        total: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        model = unwrap_model(self.trainable_module)
        targets_of(model)  # or a sentence
        release(model)
        self.strength = checked(model.equiwrap.config.penalty if penalty is None else penalty)
        self.metric, self.scheduled, self.calls = metric, schedule is not None, 0
        self.schedule = as_schedule(schedule, total)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The task's own dictionary, its loss penalised."""
        found = super().forward(input, target)  # type: ignore[misc]
        model, factor = unwrap_model(self.trainable_module), self.schedule(self.calls)
        held = targets_of(model)
        strength = {t.path: factor * strength_at(self.strength, t.path) for t in held}
        value = weighed(model, held, strength, self.metric)
        self.calls += self.training
        return {**found, "loss": found["loss"] + value, "equiv_penalty": value.detach()}

    def get_task_state(self, module: Any = None, ema: bool = False) -> dict[str, Any]:
        """The task's own, and the step of the schedule."""
        state = super().get_task_state(module, ema=ema)  # type: ignore[misc]
        return {**state, "equiv_calls": self.calls} if self.scheduled and not ema else state

    def load_task_state(
        self, state: Any, strict: bool = True, module: Any = None, ema: bool = False
    ) -> None:
        """Go on where `get_task_state` was taken."""
        rest = dict(state or {})
        self.calls = rest.pop("equiv_calls", self.calls)
        super().load_task_state(rest or None, strict, module, ema=ema)  # type: ignore[misc]


class EquivariantTask(EquivariantMixin, ClassificationTask):
    """*`task(input, target)` → loss, output, equiv_penalty*: `ClassificationTask`, penalised.

    `task = EquivariantTask(model, nn.CrossEntropyLoss(), penalty=1e-2, schedule="warmup")`.
    """


def main(arguments: Sequence[str]) -> int:
    """Run a script (`train.py ARGS…`) as `python` would, with the registered models at hand.

    Raises:
        SystemExit: no script was named, or it asks for an `equi_` model that timm does not have.
        RuntimeError: any other of the script's.
    """
    if not arguments or not Path(arguments[0]).is_file():
        asked = f"{arguments[0]!r} is no file" if arguments else "no script was named"
        raise SystemExit(f"python -m equiwrap.integrations.timm SCRIPT ARGS…: {asked}.")
    sys.argv = list(arguments)
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except RuntimeError as error:
        head, _, name = str(error).partition(f"Unknown model ({PREFIX}")
        if head or not name:
            raise
        raise SystemExit(nearest(name.rstrip(")"))) from error
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
