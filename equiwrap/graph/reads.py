"""The attributes that recorded code read, and whether they still are what they were.

A plain value is compared; a class or a function is the same object; a dict or a list has the same
keys and plain entries; any other object has the same plain attributes. Children, parameters and
buffers along the paths that the graph names have the same names and classes.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from .level import Level
from .nested import plain
from .owned import class_of

__all__ = ["ABSENT", "Facts", "Read", "facts_of", "held", "hold", "same"]

ABSENT = object()  # what an attribute is that is not there
Facts = tuple["Read", ...]


@dataclass(frozen=True)
class Read:
    """What was found on one module: its attributes, its parts, and types of its tensors."""

    path: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]
    parts: tuple[tuple[str, type], ...]  # children by name and class
    tensors: tuple[tuple[str, bool], ...]  # parameters and buffers by name, and whether None
    types: tuple[tuple[str, Any, str], ...]  # name, dtype, device of tensors whose type was asked


@dataclass(frozen=True)
class _Object:
    """A settings object: its type and its plain attributes; or a dict or a list: its outline."""

    kind: type
    plain: tuple[tuple[Any, Any], ...] = ()


def facts_of(level: Level) -> Facts:
    """The attributes that the code read, and the shape of what it reached through."""
    through, asked = _owners(level), _asked(level)
    found = []
    for path in sorted({path for path, _ in level.reads} | through | set(asked)):
        try:
            owner = level.module.get_submodule(path)
        except AttributeError:
            continue
        own = owner._modules | owner._parameters | owner._buffers
        values = [
            (name, held(value))
            for (where, name), value in level.reads.items()
            if where == path and not (value is ABSENT and name in own)
        ]
        kinds = [(n, type(None) if m is None else class_of(m)) for n, m in owner._modules.items()]
        places = (owner._parameters, owner._buffers)
        tensors = [(n, v is None) for place in places for n, v in place.items()]
        types = tuple(sorted(asked.get(path, ()), key=str))
        parts = tuple(path.split(".")) if path else ()
        found.append(Read(parts, tuple(values), tuple(kinds), tuple(tensors), types))
    return tuple(found)


def _owners(level: Level) -> set[str]:
    """The modules along the paths that the graph names."""
    found = {""}
    for node in level.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            parts = str(node.target).split(".")[:-1]
            found |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    return found


def _asked(level: Level) -> dict[str, set[tuple[str, Any, str]]]:
    """By module: the tensors on which a type that the code asked for depends.

    Those are the attributes that come before the node in the graph, and the parameters of the
    children called there; the types of arguments are part of a plan's key.
    """
    before, stack = set(level.asked), list(level.asked)
    while stack:
        for node in stack.pop().all_input_nodes:
            if node not in before:
                before.add(node)
                stack.append(node)
    found: dict[str, set[tuple[str, Any, str]]] = {}
    for node in before:
        for path, tensor in _tensors(level.module, node):
            owner, _, name = path.rpartition(".")
            found.setdefault(owner, set()).add((name, tensor.dtype, tensor.device.type))
    return found


def _tensors(module: nn.Module, node: fx.Node) -> Sequence[tuple[str, Tensor]]:
    if node.op == "call_module":
        child = module.get_submodule(str(node.target))
        named = [*child.named_parameters(), *child.named_buffers()]
        return [(f"{node.target}.{name}", tensor) for name, tensor in named]
    if node.op != "get_attr":
        return []
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), name, None)
    return [(str(node.target), value)] if isinstance(value, Tensor) else []


def hold(module: nn.Module, facts: Facts) -> bool:
    """True where everything is as it was found."""
    for fact in facts:
        owner = module
        for part in fact.path:
            found = owner._modules.get(part)
            if found is None:
                return False
            owner = found
        own = owner.__dict__
        for name, expected in fact.attributes:
            value = own.get(name, ABSENT)
            if value is ABSENT:
                value = getattr(type(owner), name, ABSENT)
            if value is not expected and not same(value, expected):
                return False
        if not _built(own, fact):
            return False
    return True


def _built(own: dict[str, Any], fact: Read) -> bool:
    """The same children, parameters and buffers, of the same types where these were asked."""
    children, tensors = own["_modules"], (own["_parameters"], own["_buffers"])
    if len(children) != len(fact.parts) or sum(map(len, tensors)) != len(fact.tensors):
        return False
    for (name, child), (wanted, kind) in zip(children.items(), fact.parts, strict=True):
        found = type(None) if child is None else class_of(child)
        if name != wanted or found is not kind:
            return False
    named = [(name, value is None) for place in tensors for name, value in place.items()]
    if fact.tensors and tuple(named) != fact.tensors:
        return False
    for name, dtype, device in fact.types:
        value = next((place[name] for place in (*tensors, own) if name in place), None)
        if not isinstance(value, Tensor) or value.dtype != dtype or value.device.type != device:
            return False
    return True


def _outline(value: Any) -> tuple[tuple[Any, Any], ...]:
    """The keys of a dict or the places of a list, and the plain values in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return tuple((key, part if plain(part) else None) for key, part in items)


def held(value: Any) -> Any:
    """What is kept of an attribute's value."""
    if plain(value) or value is ABSENT or isinstance(value, (type, types.FunctionType)):
        return value
    if isinstance(value, (dict, list)):
        return _Object(type(value), _outline(value))
    own = getattr(value, "__dict__", None)
    if isinstance(value, (Tensor, nn.Module)) or type(own) is not dict:
        return _Object(type(value))
    return _Object(type(value), tuple((name, v) for name, v in own.items() if plain(v)))


def same(value: Any, expected: Any) -> bool:
    """True where a value is what `held` kept of it."""
    if isinstance(expected, _Object):
        if type(value) is not expected.kind:
            return False
        if isinstance(value, (dict, list)):
            return len(value) == len(expected.plain) and _outline(value) == expected.plain
        own = value.__dict__ if expected.plain else {}
        return all(same(own.get(name, ABSENT), v) for name, v in expected.plain)
    return value is expected or (type(value) is type(expected) and bool(value == expected))
