"""The whole of a wrapping as one frozen value that goes to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import SignatureError, article

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """*What `equivariantize` was asked for*, by name; `ew.equivariantize(model,
    **config.to_dict())`.

    `options` are the frame's (`chunk`, `ties`, `stochastic`, …). A group or frame given by value is
    kept by its printed name, which is enough to read the config and not enough to rebuild it.
    """

    group: str
    signature: str
    method: str = "average"
    frame: str = "auto"
    penalty: float | None = None
    softness: float | None = None
    hidden: str = "auto"
    targets: str | None = None
    mask: str | None = None
    probes: bool | str | tuple[str, ...] | None = None
    at: str | tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The arguments of `equivariantize`, options flattened among them."""
        found = asdict(self)
        return found | found.pop("options")

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`.

        Raises:
            SignatureError: the group or the signature is missing or no text, or JSON has no word
                for a value.
        """
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise SignatureError(f"A config is read from names and values, not from {given!r:.60}.")
        try:
            json.dumps(dict(given))
        except (TypeError, ValueError, RecursionError) as error:
            raise SignatureError(f"A config holds what JSON can hold: {error}.") from None
        own = {f.name for f in fields(cls)} - {"options"}
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in own
        }
        for name in ("group", "signature"):
            if not isinstance(known.get(name), str):
                raise SignatureError(
                    f"A config needs {name!r} as text, found {known.get(name)!r}: it is what "
                    "`model.equiwrap.config.to_json()` wrote."
                )
        return cls(**known, options={k: v for k, v in given.items() if k not in own})

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of `to_json`; nothing is ever executed.

        Raises:
            SignatureError: the text is not a JSON object with a group and a signature.
        """
        if not isinstance(text, (str, bytes, bytearray)):
            raise SignatureError(f"A config is read from JSON text, not from {text!r:.60}.")
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SignatureError(
                f"The config is not JSON ({error}): give what `.config.to_json()` wrote."
            ) from None
        if not isinstance(given, dict):
            raise SignatureError(
                f"A config is a JSON object, and {article(given)} was found: give what "
                "`.config.to_json()` wrote."
            )
        return cls.from_dict(given)
