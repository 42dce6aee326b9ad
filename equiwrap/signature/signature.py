"""A signature: how every input and every output of a model transforms under a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import SignatureError, article
from ..groups import Group, parse_group
from .grammar import split_signature
from .types import TensorType

__all__ = ["Signature"]


@dataclass(frozen=True)
class Signature:
    """*`f: ρ_in → ρ_out` written like einops.* Prints what it parses.

    `inputs` are (name or None, type) pairs in call order; `outputs` likewise, of `form` "one",
    "tuple", "dict" or "infer" (the outputs `...`, read off a dry run).
    """

    group: Group
    inputs: tuple[tuple[str | None, TensorType], ...]
    outputs: tuple[tuple[str | None, TensorType], ...]
    form: str

    @classmethod
    def parse(cls, text: str, group: str | Group) -> Signature:
        """`"b n p, b n v -> b n p"` under "E(3)".

        Raises:
            SignatureError: the text cannot be read, or uses a letter that the group lacks.
            GroupError: the group is unknown.
        """
        group = parse_group(group)
        inputs, outputs, form = split_signature(text)
        if form == "one" and outputs[0][1] == "...":
            form, outputs = "infer", []
        typed = [tuple((n, TensorType.parse(p, group)) for n, p in s) for s in (inputs, outputs)]
        found = cls(group, typed[0], typed[1], form)
        if not any(not t.untouched for _, t in found.inputs):
            raise SignatureError(f"No input of {text!r} is typed: a frame needs at least one.")
        for name, t in (*found.inputs, *found.outputs):
            if not t.untouched and t.batch is None and (t.moves or (name, t) in found.outputs):
                raise SignatureError(
                    f"{str(t)!r} in {text!r} has no batch axis: frames are folded into b, so "
                    'write b (or a leading "...") where the batch is.'
                )
        found._check_ragged(text)
        return found

    def _check_ragged(self, text: str) -> None:
        """Rows of several samples need one argument that says whose they are.

        Raises:
            SignatureError: it is missing, or there are two.
        """
        ragged = [t for _, t in (*self.inputs, *self.outputs) if t.ragged]
        names = {t.pattern.index for t in ragged} - {None}
        if ragged and len(names) != 1:
            raise SignatureError(
                f"{text!r} has rows (b n) and names {len(names)} arguments that hold their graphs: "
                'name one at an input, as in "pos: (b n) p | batch".'
            )
        if any(t.rows for t in ragged) or any(t.padded.rows for t in ragged):
            raise SignatureError(
                f"{self.group} permutes rows n, and {text!r} has ragged ones: pad them to b n."
            )

    @property
    def index(self) -> str | None:
        """The argument that holds the sample of each row of the ragged inputs, None without any."""
        names = [t.pattern.index for _, t in (*self.inputs, *self.outputs) if t.pattern.index]
        return names[0] if names else None

    def __str__(self) -> str:
        def side(pairs: tuple[tuple[str | None, TensorType], ...]) -> str:
            return ", ".join(f"{n}: {t}" if n else str(t) for n, t in pairs)

        right = "..." if self.form == "infer" else side(self.outputs)
        return f"{side(self.inputs)} -> {f'{{{right}}}' if self.form == 'dict' else right}"

    @property
    def rank(self) -> int:
        """Highest tensor rank among the outputs."""
        return max((t.rank for _, t in self.outputs), default=0)

    @property
    def moving_outputs(self) -> bool:
        """True where some output is not invariant."""
        return any(t.moves for _, t in self.outputs)

    def name_inputs(
        self, positional: list[str], keywords: list[str], *, variadic: bool, anything: bool
    ) -> dict[str, TensorType]:
        """The declared inputs by parameter name of the model's forward.

        `keywords` are the parameters behind a star; `variadic`, `anything`: it has *args, **kwargs.

        Raises:
            SignatureError: more inputs than parameters, or a name that forward does not have.
        """
        names = [name for name, _ in self.inputs]
        known = positional if variadic else [*positional, *keywords]
        takes = f"takes {', '.join(known)}" if known else "names no parameter"
        if names[0] is None:
            if len(names) > len(known) and not variadic:
                count = f"{len(names)} input{'s' * (len(names) > 1)}"
                how = "one pattern for each, in call order" if known else 'name it, as in "x: b k"'
                raise SignatureError(
                    f"The signature {str(self)!r} has {count}, and the model's forward {takes}: "
                    f"{how}."
                )
            extra = [f"arg{i}" for i in range(len(known), len(names))]
            return dict(zip([*known, *extra], [t for _, t in self.inputs], strict=False))
        unknown = [str(n) for n in names if n not in (*positional, *keywords)]
        if unknown and not variadic and not anything:
            raise SignatureError(
                f"The signature names {', '.join(unknown)}, and the model's forward {takes}: use "
                "these names."
            )
        return {str(name): t for name, t in self.inputs}

    # -- outputs as a flat list -------------------------------------------------------------------

    def flatten(self, out: Any) -> list[Any]:
        """The outputs in declared order.

        Raises:
            SignatureError: the model returned something else than the signature says.
        """
        if self.form == "one":
            if self.outputs[0][1].untouched or not isinstance(out, (Mapping, tuple, list)):
                return [out]
        elif self.form == "dict":
            if not isinstance(out, Mapping):
                out = getattr(out, "__dict__", out)
            if isinstance(out, Mapping):
                self._check_keys(out)
                return [out.get(name) for name, _ in self.outputs]
        elif isinstance(out, (tuple, list)) and len(out) == len(self.outputs):
            return list(out)
        found = article(out) + (f" of {len(out)}" if isinstance(out, (tuple, list)) else "")
        found += f" of {', '.join(map(str, out))}" if isinstance(out, Mapping) else ""
        raise SignatureError(
            f"The signature promises {str(self).split('->')[1].strip()!r}, and the model returned "
            f"{found}: write the outputs as they come (a tuple with commas, a dict in braces)."
        )

    def _check_keys(self, out: Mapping[str, Any]) -> None:
        declared = {name for name, _ in self.outputs}
        typed = {name for name, t in self.outputs if not t.untouched}  # _ may be absent: a loss
        missing = sorted(str(name) for name in typed - set(out))
        loose = sorted(str(k) for k in set(out) - declared if isinstance(out[k], Tensor))
        if missing or loose:
            raise SignatureError(
                f"The signature's outputs are {sorted(map(str, declared))}; the model's are "
                f"{sorted(map(str, out))}."
                + (f" It lacks {missing}." if missing else "")
                + (f" Type {loose} too, or pass {loose[0]} through as _." if loose else "")
            )

    def unflatten(self, like: Any, leaves: list[Any]) -> Any:
        """Put restored leaves where `flatten` found them, in a container of the same class."""
        if self.form == "one":
            return leaves[0]
        if self.form == "tuple":
            return like._make(leaves) if hasattr(like, "_make") else type(like)(leaves)
        named = zip(self.outputs, leaves, strict=True)
        new = {str(name): leaf for (name, _), leaf in named if leaf is not None}
        if type(like) is dict:
            return {**like, **new}
        return _replaced(like, new)


def _replaced(like: Any, new: dict[str, Any]) -> Any:
    import copy

    out = copy.copy(like)
    for name, leaf in new.items():
        if isinstance(out, Mapping):
            out[name] = leaf  # type: ignore[index]
        else:
            setattr(out, name, leaf)
    return out
