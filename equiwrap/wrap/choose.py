"""Which weights are pulled: those that `targets=` keeps, and why the others are left."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ..errors import SignatureError
from ..graph.layout import Layout

__all__ = ["chooser", "skipped"]


def chooser(view: nn.Module, given: Any) -> Callable[[str], bool]:
    """Which paths `targets=` keeps: expressions of whole names of layers or weights, or a filter.

    Raises:
        SignatureError: an expression that is none, or that meets no weight.
    """
    if given is None:
        return lambda path: True
    if callable(given):
        return lambda path: bool(given(view.get_submodule(path.rpartition(".")[0]), path))
    if not isinstance(given, (str, Iterable)):
        raise SignatureError(
            f"targets={given!r} was given: an expression, several, or filter_fn(module, path)."
        )
    wanted = [given] if isinstance(given, str) else list(given)
    paths = [n for n, _ in [*view.named_parameters(), *view.named_buffers()]]
    for pattern in wanted:
        try:
            found = any(_meets(pattern, path) for path in paths)
        except (re.error, TypeError) as error:
            raise SignatureError(
                f"targets={pattern!r} is no regular expression: {error}."
            ) from None
        if not found:
            raise SignatureError(
                f"targets={pattern!r} meets no layer and no weight of this "
                f"{type(view).__name__}: expressions are of whole names, as in r'layer1\\..*'."
            )
    return lambda path: any(_meets(pattern, path) for pattern in wanted)


def _meets(pattern: str, path: str) -> bool:
    parts = path.split(".")
    return any(
        re.fullmatch(pattern, ".".join(parts[:n])) for n in range(len(parts), len(parts) - 2, -1)
    )


def skipped(view: nn.Module, layout: Layout, kept: Callable[[str], bool]) -> list[tuple[str, str]]:
    """(path, why) of the parameters that are not pulled."""
    lost: dict[str, str] = {}
    for site in layout.typing.untyped:
        if site.why is not None and not site.inner:
            lost[site.name] = site.why.reason
    sites = layout.typing.sites.values()
    typed = {site.name.partition(":")[0] for site in sites if site.why is None and not site.inner}
    found = []
    for path, _ in view.named_parameters():
        owner = path.rpartition(".")[0]
        if path in layout.projectors:
            if not kept(path):
                found.append((path, "left out by targets="))
        elif owner in lost:
            found.append((path, f"not followed: the layer {lost[owner]}"))
        elif path in {p for site in layout.typing.sites.values() for p in site.weights}:
            found.append((path, "its rule does not hold here"))
        elif layout.label == "UNSOUND" and owner not in typed:
            found.append((path, "not followed: its layer has no type"))
        else:
            found.append((path, "equivariant already (P = 1)"))
    return found
