"""What a callback is asked for, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import article

__all__ = ["check_asked", "check_state"]

SUFFIXES = (".html", ".json", ".csv")


def check_asked(pulls: bool, watches: bool, **asked: Any) -> None:
    """Nothing, or a sentence; `pulls`: with penalty=, `watches`: with holdout=.

    Raises:
        TypeError: the model is no module, or the log cannot be called.
        ValueError: numbers without meaning, or arguments that need another one.
    """
    model, log, total, report = (asked[k] for k in ("model", "log", "total", "report"))
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"A callback is about a torch.nn.Module, and {article(model)} was given: pass "
            "the model that trains, EquivarianceCallback(model, group)."
        )
    if log is not None and not callable(log):
        raise TypeError(f"log={log!r} was given, and rows are handed to log(values, step).")
    if total is not None and not (_whole(total) and total >= 1):
        raise ValueError(f"total={total!r} was given: it is the number of steps, 1 at least.")
    if report is not None and Path(report).suffix not in SUFFIXES:
        raise ValueError(
            f"report={str(report)!r} was asked for: a run is written as {', '.join(SUFFIXES)}."
        )
    _check_pace(asked["every"])
    for name in ("snap", "ema"):
        if asked[name] not in (False, ()) and not pulls:
            raise ValueError(f"{name}= projects the weights that penalty= pulls: give both.")
    if asked["steer"] and not (pulls and watches):
        raise ValueError(
            "steer= moves λ by what is measured: it needs penalty=, from where to start, and "
            "holdout=, on which to measure."
        )
    if asked["steer"] and asked["kind"] == "ball":
        raise ValueError(
            'steer= moves λ, more of which is more symmetry, and kind="ball" has a radius b: '
            'steer kind="decay" (or "loss", "lasso"), or set b.'
        )


def _check_pace(every: Any) -> None:
    whole = _whole(every) and every >= 1
    part = isinstance(every, float) and 0 < every <= 1
    if every is None or whole or part:
        return
    raise ValueError(
        f"every={every!r} was asked for: an int counts steps, 1 at least; a float is a fraction of "
        "the training, above 0 and at most 1.0; None measures at the end of epochs only."
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_state(state: Any, pulls: bool) -> None:
    """Nothing, or a sentence.

    Raises:
        ValueError: it is no state of a callback, or of one that pulled where this one does not.
    """
    wanted = ("steps", "epochs", "total", "pull", "steering", "history", "notes")
    missing = [k for k in wanted if not isinstance(state, Mapping) or k not in state]
    if missing:
        raise ValueError(
            f"A state of EquivarianceCallback has {', '.join(wanted)}, and this "
            f"{type(state).__name__} lacks {', '.join(missing)}: give what state_dict() returned."
        )
    if pulls != (state["pull"] is not None):
        with_or = ("with", "without") if pulls else ("without", "with")
        raise ValueError(
            f"The state is of a callback {with_or[1]} penalty=, and this one is {with_or[0]}: "
            "build it as it was."
        )
