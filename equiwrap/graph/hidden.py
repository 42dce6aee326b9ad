"""Which representation hidden channels carry: what is proposed, and what the network refuses.

Every layer that mixes channels is a source, named by its weight. Under "regular" a source whose
size |G| divides makes copies of the regular representation, `channel = (lead a j)` with a ∈ G;
where the network cuts these channels (heads, gates, groups) the cut is tried as `lead`, and where
it cannot move them at all they rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.utils._pytree import tree_leaves, tree_map

from ..errors import SignatureError
from ..groups import Group
from ..reynolds import images_of
from ..signature import TensorType
from .atoms import Atom, Axis, Block, Untyped, free, size_of
from .kinds import Kind

__all__ = ["Hidden", "channels_of", "rested"]


class Hidden:
    """The channels of each source, settled over several walks."""

    def __init__(
        self, group: Group, mode: str = "trivial", asked: Mapping[str, str] | None = None
    ) -> None:
        self.group, self.mode = group, "given" if asked else mode
        self.asked = dict(asked or {})  # expressions of layers → what the user wants there
        for pattern in self.asked:
            _check(pattern)
        self.images = images_of(group) if mode != "trivial" else ()
        self.leads: dict[str, int] = {}  # 0: rests
        self.given: dict[str, Axis] = {}
        self.sizes: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        self._wrong: list[str] = []
        self._said: dict[str, str] = {}  # what the user said of a source
        self._wanted: dict[str, set[int]] = {}  # leads that conflicts ask for; 0 for none
        self._tried: dict[str, set[int]] = {}
        self._claimed: set[str] = set()
        self._dropped: set[str] = set()  # claims that led to conflicts

    def axis(self, path: str, size: int) -> Axis:
        """The channels that the layer with this weight makes."""
        if self.sizes.setdefault(path, size) != size:
            return free(size)  # a weight that is used transposed makes channels once
        layer = path.rpartition(".")[0]
        for pattern, text in self.asked.items():
            if _meets(pattern, path) and path not in self.leads and path not in self.given:
                self.given[path] = self._written(text, size, layer or path)
                self._said[path] = f"hidden= asks for {text!r} at {layer or path}"
        if path in self.given:
            return with_origin(self.given[path], path)
        lead = self.leads.get(path, 1) if self.images else 0
        if not lead or size % (lead * len(self.images)):
            return with_origin(free(size), path)
        return with_origin((regular(self.images, lead, size),), path)

    def _written(self, text: str, size: int, layer: str) -> Axis:
        """An axis as a signature writes it; what is wrong with it is said once, by `settle`."""
        try:
            axis = Kind.of(TensorType.parse(f"b {text}", self.group), (1, size)).axes[1]
        except (SignatureError, Untyped) as why:
            self._wrong.append(f"hidden={text!r} at {layer}: {why}")
            return free(size)
        if sum(map(size_of, axis)) != size:
            self._wrong.append(f"hidden={text!r} does not make the {size} channels of {layer}.")
            return free(size)
        return axis

    def conflict(self, values: Any, why: Untyped) -> bool:
        """Note the sources of the moved channels among these types; True if there are any."""
        leaves = tree_leaves(values, is_leaf=lambda leaf: isinstance(leaf, Kind))
        axes = [axis for leaf in leaves if isinstance(leaf, Kind) for axis in leaf.axes]
        moved = [axis for axis in axes if channels_of(axis)]
        for axis in moved:
            self.clash(axis, why)
        return bool(moved)

    def clash(self, axis: Axis, why: Untyped) -> Axis:
        """Note the sources of one axis; returns it laid out as the conflict asks, or at rest."""
        size = sum(map(size_of, axis))
        for path in {p for atom in channels_of(axis) for p in atom.origin}:
            lead = why.lead * self.sizes[path] // size  # the axis may be a part of the source
            self._wanted.setdefault(path, set()).add(lead)
            self.reasons[path] = why.reason
        return _rested(axis, why.lead, self.images)

    def claim(self, found: Kind, wanted: Kind) -> None:
        """An output that the signature moves otherwise: its source must make what is wanted."""
        for have, want in zip(found.axes, wanted.axes, strict=False):
            sources = {p for block in have for atom in block for p in atom.origin}
            if have == want or not sources or (not moves(have) and not moves(want)):
                continue
            for path in sources:
                fits = sum(map(size_of, want)) == self.sizes[path] and path not in self._dropped
                if fits and self.given.get(path) != want:
                    self.given[path] = want
                    self._claimed.add(path)

    def settle(self) -> bool:
        """Change what met conflicts: another lead, or rest. False if there were none.

        Raises:
            SignatureError: `hidden=` names no layer, or an axis that cannot be at one.
        """
        unmet = [p for p in self.asked if not any(_meets(p, path) for path in self.sizes)]
        if self._wrong:
            raise SignatureError(" ".join(self._wrong))
        if unmet and self.sizes:
            raise SignatureError(
                f"hidden= names {', '.join(map(repr, unmet))}, which meets no layer that makes "
                f"channels: expressions are of whole names, as {next(iter(self.sizes))}."
            )
        wanted, self._wanted = self._wanted, {}
        claimed, self._claimed = self._claimed, set()
        for path, leads in wanted.items():
            if path in claimed:
                continue
            tried = self._tried.setdefault(path, {0, 1})
            size, order = self.sizes[path], len(self.images)
            fresh = [n for n in leads - tried if order and size % (n * order) == 0]
            if fresh and self.leads.get(path, 1) and path not in self.given:
                self.leads[path] = max(fresh)
                tried.add(max(fresh))
            else:
                if path in self._said:
                    raise SignatureError(
                        f"{self._said[path]}, which the network does not keep: a layer behind it "
                        f"{self.reasons[path]}."
                    )
                self.leads[path] = 0
                if self.given.pop(path, None):
                    self._dropped.add(path)
        return bool(claimed or wanted)


def _check(pattern: str) -> None:
    """Nothing, or a sentence.

    Raises:
        SignatureError: no regular expression.
    """
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise SignatureError(f"hidden={pattern!r} is no regular expression: {error}.") from None


def _meets(pattern: str, path: str) -> bool:
    """True for an expression of the whole name of a weight or of its layer."""
    return bool(re.fullmatch(pattern, path.rpartition(".")[0]) or re.fullmatch(pattern, path))


def regular(images: tuple[tuple[int, ...], ...], lead: int, size: int) -> Block:
    """`(lead a j)`, atoms of one entry left out."""
    after = size // (lead * len(images))
    atoms = (Atom("", lead), Atom("r", len(images), images=images), Atom("", after))
    return tuple(atom for atom in atoms if atom.size > 1 or atom.name)


def with_origin(axis: Axis, path: str) -> Axis:
    """The axis, made by the layer with this weight."""
    source = frozenset([path])
    return tuple(tuple(replace(atom, origin=source) for atom in block) for block in axis)


def channels_of(axis: Axis) -> list[Atom]:
    """The atoms of moved channels: copies of r, vectors."""
    return [atom for block in axis for atom in block if atom.name in ("r", "v")]


def moves(axis: Axis) -> bool:
    """True where some entry moves."""
    return any(atom.moved for block in axis for atom in block)


def rested(values: Any, why: Untyped, images: tuple[Any, ...]) -> Any:
    """The same types with their channels laid out as the conflict asks, or at rest."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Kind):
            return leaf
        return Kind(tuple(_rested(axis, why.lead, images) for axis in leaf.axes))

    return tree_map(one, values, is_leaf=lambda leaf: isinstance(leaf, Kind))


def _rested(axis: Axis, lead: int, images: tuple[Any, ...]) -> Axis:
    if not any(atom.name == "r" for atom in channels_of(axis)):
        return axis
    if len(axis) > 1 or any(atom.moved and atom.name != "r" for atom in axis[0]):
        return tuple(tuple(_still(atom) for atom in block) for block in axis)
    size = size_of(axis[0])
    origin = frozenset(p for atom in axis[0] for p in atom.origin)
    if lead > 1 and size % (lead * len(images)) == 0:
        return (tuple(replace(a, origin=origin) for a in regular(images, lead, size)),)
    return ((Atom("", size, origin=origin),),)


def _still(atom: Atom) -> Atom:
    return Atom("", atom.size, origin=atom.origin) if atom.name == "r" else atom
