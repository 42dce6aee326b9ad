"""What each operation does to a type: one decorated function an operation, one table.

A rule reads the types of its arguments and returns the type of its result, or raises `Untyped`.
Nothing here is trusted: `snap` projects a copy of the model and compares every node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from .hidden import Hidden, channels_of
from .kinds import BATCH, Axis, Kind, Untyped, free

__all__ = ["LAYERS", "RULES", "Call", "Const", "at_rest", "layer", "operation"]

Rule = Callable[["Call"], Any]
RULES: dict[str, Rule] = {}
LAYERS: dict[type, Rule] = {}


@dataclass(frozen=True)
class Const:
    """A value that follows from parameters alone.

    `terms` are (labels, path) of the tables that it is a sum of: which entry of the table lies
    where. None where it was computed in another way: `remake` computes it from other values of
    the tables in `sources`. `whole`: the path of the parameter or buffer that it is as it stands.
    """

    value: Tensor
    terms: tuple[tuple[Tensor, str], ...] | None = None
    sources: dict[str, Tensor] = field(default_factory=dict)
    remake: Callable[[dict[str, Tensor]], Tensor] | None = None
    whole: str | None = None

    @property
    def source(self) -> str | None:
        """The path of the one table that it is."""
        return self.terms[0][1] if self.terms and len(self.terms) == 1 else None


@dataclass
class Call:
    """One node: its arguments' types, the sizes on the example, and what it asks of weights."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: Any  # of the result, or of each of its parts
    module: nn.Module | None = None
    path: str = ""
    swaps: bool = True  # the group exchanges height and width
    demands: list[tuple[Const, Kind]] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    whole: list[tuple[str, Kind]] = field(default_factory=list)
    hidden: Hidden | None = None
    made: list[Axis] = field(default_factory=list)
    still: Untyped | None = None  # what was in the way of the channels that this layer makes
    broken: list[Untyped] = field(default_factory=list)
    loose: bool = False  # one of its operands cannot be moved by itself

    def arg(self, at: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        return self.args[at] if len(self.args) > at else self.kwargs.get(name, default)

    def kind(self, at: int = 0, name: str = "input") -> Kind:
        """The type of a tensor argument.

        Raises:
            Untyped: it has none.
        """
        found = self.arg(at, name)
        if isinstance(found, Kind):
            return found
        if isinstance(found, Untyped):
            raise found
        raise Untyped("gets no typed tensor where it needs one")

    def breaks(self, reason: str, fix: str, kind: str, off: tuple[int, int] | None = None) -> None:
        """The type goes on, and this node breaks the symmetry whatever its weights are."""
        self.broken.append(Untyped(reason, fix, kind, off))

    def demand(self, const: Const, kind: Kind, *, statistic: bool = False) -> None:
        """A constant must be invariant as a tensor of this type; a statistic is one of training."""
        if not kind.moves:
            return
        learned = statistic or (const.remake is not None and const.whole is not None)
        moved = any(map(channels_of, kind.axes)) or const.terms is None
        if const.whole is not None and learned and moved:
            self.whole.append((const.whole, kind))
        else:
            self.demands.append((const, kind))

    def fresh(self, weight: Const | None, size: int) -> Axis:
        """The channels that a layer with this weight makes."""
        path = next(iter(weight.sources), None) if weight is not None else None
        if self.hidden is None or path is None:
            return free(size)
        axis = self.hidden.axis(path, size)
        self.made.append(axis)
        return axis if self.still is None else self.hidden.clash(axis, self.still)


def operation(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule for functions and methods of these names."""

    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


def layer(*classes: type) -> Callable[[Rule], Rule]:
    """Enter a rule for layers of these classes."""

    def enter(rule: Rule) -> Rule:
        LAYERS.update(dict.fromkeys(classes, rule))
        return rule

    return enter


def at_rest(call: Call, shape: Any) -> Any:
    """What any function makes of arguments that no element moves.

    Raises:
        Untyped: some argument moves, or no axis of the result counts the samples.
    """
    kinds = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, Kind)]
    at = next((kind.batch for kind in kinds), None)
    if at is None or any(kind.moves for kind in kinds) or shape is None:
        raise Untyped(f"has no rule for {call.name}", "average around it (at=…), or write a rule")
    if any(not isinstance(n, int) for n in shape):
        return tuple(at_rest(call, part) for part in shape)
    count = kinds[0].shape[at]
    here = at if at < len(shape) and shape[at] == count else None
    here = next((i for i, n in enumerate(shape) if n == count), None) if here is None else here
    if here is None:
        raise Untyped("mixes the samples of the batch")
    return Kind(tuple(kinds[0].axes[at] if i == here else free(n) for i, n in enumerate(shape)))


# -- shared ----------------------------------------------------------------------------------------


def axis_at(kind: Kind, at: int) -> int:
    """A non-negative axis number."""
    return at + len(kind.axes) if at < 0 else at


def dims_of(kind: Kind, dims: Any) -> list[int]:
    """Axis numbers; all of them for None."""
    if dims is None:
        return list(range(len(kind.axes)))
    return [axis_at(kind, d) for d in (dims if isinstance(dims, (tuple, list)) else (dims,))]


def plain_or_channels(axis: Axis) -> bool:
    """True for channels that rest or are copies of r or v."""
    return all(atom.name in "rv" for block in axis for atom in block if atom.moved)


def rests(axis: Axis) -> bool:
    """True for an axis on which nothing happens."""
    return not any(atom.moved for block in axis for atom in block)


def counts(axis: Axis) -> bool:
    """True for an axis that holds the samples."""
    return any(atom.name == BATCH for block in axis for atom in block)


def idle(axis: Axis) -> bool:
    """True for an axis that rests and holds no samples."""
    return rests(axis) and not counts(axis)


def vectors(kind: Kind) -> bool:
    """True where some axis carries components of vectors."""
    return any(atom.name == "v" for axis in kind.axes for block in axis for atom in block)


def length(axis: Axis) -> int:
    """Entries of an axis."""
    return Kind((axis,)).shape[0]


def join(call: Call, operands: Sequence[Any]) -> Kind:
    """The type of a broadcast; constants must be invariant under it.

    Raises:
        Untyped: two operands move the same axis differently.
    """
    for operand in operands:
        if isinstance(operand, Untyped):
            raise operand
    kinds = [k for k in operands if isinstance(k, Kind)]
    consts = [c for c in operands if isinstance(c, Const)]
    if not kinds:
        raise Untyped("gets no typed tensor")
    width = max(
        [len(k.axes) for k in kinds] + [c.value.dim() for c in consts],
    )
    axes = [
        _joined([k.axes[i - width] for k in kinds if len(k.axes) >= width - i], call) or free(1)
        for i in range(width)
    ]
    for const in consts:
        for i, size in enumerate(const.value.shape[::-1]):
            if length(axes[width - 1 - i]) == 1 and size > 1:
                axes[width - 1 - i] = free(size)
    found = Kind(tuple(axes))
    call.loose = call.swaps and not all(map(paired, kinds))
    for const in consts:
        call.demand(const, fitted(const.value.shape, found))
    return found


def fitted(shape: Sequence[int], kind: Kind) -> Kind:
    """The type, on the axes that a smaller operand has; broadcast axes rest."""
    count = len(shape)
    own = kind.axes[len(kind.axes) - count :]
    return Kind(tuple(free(1) if s == 1 else axis for s, axis in zip(shape, own, strict=True)))


def _joined(axes: Sequence[Axis], call: Call) -> Axis | None:
    wide = [axis for axis in axes if length(axis) > 1]
    if not wide:
        return axes[0] if axes else None
    moved = [axis for axis in wide if not rests(axis)]
    if not moved:
        return next((axis for axis in wide if counts(axis)), free(length(wide[0])))
    if call.hidden is not None:
        for fixed in [a for a in moved if channels_of(a) and not any(x.origin for x in a[0])]:
            call.hidden.claim(Kind(tuple(wide)), Kind((fixed,) * len(wide)))
    if any(rests(axis) for axis in wide):
        raise Untyped("combines an axis that the group moves with one that it does not")
    if any(axis != moved[0] for axis in moved):
        leads = [axis[0][0].size for axis in moved if len(axis) == 1 and not axis[0][0].name]
        raise Untyped(
            "combines two axes that the group moves differently", lead=max(leads, default=0)
        )
    return blend(moved)


def blend(axes: Sequence[Axis]) -> Axis:
    """Equal axes as one, which all their sources have made."""
    return tuple(
        tuple(
            replace(atoms[0], origin=frozenset().union(*[atom.origin for atom in atoms]))
            for atoms in zip(*blocks, strict=True)
        )
        for blocks in zip(*axes, strict=True)
    )


def paired(kind: Kind) -> bool:
    """True where every height has its width."""
    names = [a.name for axis in kind.axes for block in axis for a in block if a.moved]
    return names.count("h") == names.count("w")
