"""The kinds of refusal: one base class, each kind also the builtin that a caller would catch.

`article` names in a sentence what was given instead of what was asked for.
"""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "EquivarianceError",
    "EquiwrapError",
    "EquiwrapWarning",
    "FrameError",
    "GroupError",
    "NoEffectWarning",
    "SignatureError",
    "article",
]


class EquiwrapError(Exception):
    """Base of everything that equiwrap raises on purpose."""


class GroupError(EquiwrapError, ValueError):
    """The group does not exist, or cannot do what was asked of it."""


class SignatureError(EquiwrapError, ValueError):
    """A signature cannot be read, or a tensor does not fit it."""


class FrameError(EquiwrapError, ArithmeticError):
    """An input has no frame: its stabiliser is not compact, or its dtype cannot resolve one."""


class CaptureError(EquiwrapError, NotImplementedError):
    """The model cannot be rewritten in the form in which it was given."""


class EquivarianceError(EquiwrapError, AssertionError):
    """A measured equivariance error is above its tolerance."""


class EquiwrapWarning(UserWarning):
    """Something that works, but probably not as intended."""


class NoEffectWarning(EquiwrapWarning):
    """A call that changed nothing."""


def article(value: object) -> str:
    """'a list', 'an int', 'None': the type of a value with its article."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"
