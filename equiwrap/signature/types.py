"""The type of a tensor: a pattern bound to a group, which can check a shape and act."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, prod

from torch import Tensor

from ..errors import SignatureError
from ..grids import act_on_grid, axes_of, on_grid
from ..groups import Elements, Group
from ..representations import Representation, Sum, TensorProduct, Trivial, letters
from .checks import check_letters, check_tensor
from .grammar import Axis, Pattern, parse_pattern

__all__ = ["TensorType"]


@dataclass(frozen=True)
class TensorType:
    """*How one tensor moves: a product of actions on its axes.* Prints as the pattern it was read
    from.

    "Front order" below means: the batch axis (or the axes under `...`, flattened) first, the other
    axes in pattern order.
    """

    pattern: Pattern
    group: Group

    @classmethod
    def parse(cls, text: str, group: Group) -> TensorType:
        """Read a pattern under a group.

        Raises:
            SignatureError: a letter that the group does not declare, or a grid that is not `h w`.
        """
        found = cls(parse_pattern(text), group)
        check_letters(found)
        return found

    def __str__(self) -> str:
        return str(self.pattern)

    # -- what the names mean ----------------------------------------------------------------------

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes as written; empty for `_`."""
        return self.pattern.axes or ()

    @property
    def untouched(self) -> bool:
        """True for `_`."""
        return self.pattern.axes is None

    @property
    def batch(self) -> int | None:
        """Position of the batch axis `b`, 0 for a leading `...` or `(b n)`; None without one."""
        for i, axis in enumerate(self.axes):
            if axis.name in ("b", "...") or axis.ragged:
                return i
        return None

    @property
    def ragged(self) -> bool:
        """True for `(b n) …`: the rows of all samples, one below the other."""
        return len(self.axes) > 0 and self.axes[0].ragged

    @property
    def padded(self) -> TensorType:
        """The same rows as `b n …`."""
        rows = (Axis((("b",),)), Axis((("n",),)))
        return TensorType(Pattern((*rows, *self.axes[1:])), self.group) if self.ragged else self

    @property
    def inner(self) -> tuple[Axis, ...]:
        """The axes in front order, the batch left out."""
        at = self.batch
        return tuple(axis for i, axis in enumerate(self.axes) if i != at)

    @property
    def grid(self) -> bool:
        """True where the tensor carries a pixel grid `h w`, on two axes or flattened as `(h w)`."""
        return any("h" in term for axis in self.axes for term in axis.terms) and on_grid(self.group)

    @property
    def moves(self) -> bool:
        """False where the group leaves the tensor as it is."""
        names = {name for axis in self.axes for term in axis.terms for name in term}
        return self.grid or any(n in names and r.moves for n, r in letters(self.group).items())

    @property
    def permutes(self) -> bool:
        """True where the group only reorders the entries: rows of a set, shifts of a grid."""
        known = letters(self.group)
        moving = [known[n] for axis in self.axes for t in axis.terms for n in t if n in known]
        return all(rep.permutes for rep in moving) and not (self.grid and not self.group.permutes)

    @property
    def rows(self) -> tuple[int, ...]:
        """Positions, in front order, of the axes whose rows the group permutes."""
        known = letters(self.group)
        named = [(i + 1, axis.name) for i, axis in enumerate(self.inner)]
        return tuple(i for i, name in named if name in known and known[name].permutes)

    def sizes(self, x: Tensor) -> dict[str, int]:
        """The lengths of the plain axes of `x` (in front order), by name."""
        pairs = zip(self.inner, x.shape[1:], strict=True)
        return {axis.name: size for axis, size in pairs if axis.name is not None}

    @property
    def rank(self) -> int:
        """Highest tensor rank: the number of vector-like letters that act together."""
        known = letters(self.group)
        per_axis = (
            max(sum(known[n].rank for n in term if n in known) for term in axis.terms)
            for axis in self.axes
        )
        return sum(per_axis)

    def letter(self, name: str) -> int | None:
        """Position, in front order, of the axis that is just this letter; None if there is none."""
        return next((i + 1 for i, axis in enumerate(self.inner) if axis.name == name), None)

    def check(self, x: object, what: str) -> Tensor:
        """The tensor itself, if it fits.

        Raises:
            SignatureError: not a tensor, a wrong number of axes, an axis of the wrong size, a grid
                that is not square, or numbers that the group cannot move (integers, complex).
        """
        return check_tensor(self, x, what)

    # -- the action -------------------------------------------------------------------------------

    def representation(self, axis: Axis, size: int, what: str = "the tensor") -> Representation:
        """The representation on one axis; the one unknown name in a bracket is solved for.

        Raises:
            SignatureError: the bracket does not fit the axis.
        """
        known = letters(self.group)

        def length(name: str) -> int | None:
            return (
                int(name) if name.isdigit() else known[name].size or None if name in known else None
            )

        unknown = [(term, n) for term in axis.terms for n in term if length(n) is None]
        # lists, not generators: torch.compile traces through here
        known_terms = [[length(n) for n in term] for term in axis.terms]
        whole = [prod([n or 0 for n in term]) for term in known_terms if None not in term]
        fixed = sum(whole)
        rest, solved = size - fixed, {}
        if len(unknown) == 1:
            (term, name) = unknown[0]
            unit = prod([length(n) or 1 for n in term if n != name])
            if rest > 0 and rest % unit == 0:
                solved[name] = rest // unit
        if (unknown and not solved) or (not unknown and rest):
            raise SignatureError(
                f"{what} is typed {str(self)!r}: {axis} does not fit an axis of {size} entries "
                f"({', '.join(f'{n} = {r.size}' for n, r in known.items())}; one other name at "
                "most can be solved for): correct the bracket or the tensor."
            )
        parts = []
        for term in axis.terms:
            reps = [
                known[n].of_size(solved.get(n) or known[n].size)
                if n in known
                else Trivial(solved.get(n) or int(n))
                for n in term
            ]
            parts.append(reps[0] if len(reps) == 1 else TensorProduct(tuple(reps)))
        return parts[0] if len(parts) == 1 else Sum(tuple(parts))

    def act(self, g: Elements, x: Tensor, lead: int) -> Tensor:
        """*ρ(g) x*: `g[*lead, m, m], x[*lead, *inner] → [*lead, *inner]`, leading axes broadcast.

        x is in front order with the batch axis replaced by `lead` axes that match those of g.
        """
        grid = axes_of(self.group) if self.grid else ()
        for i, axis in enumerate(self.inner):
            at = i - len(self.inner)
            if grid and axis.name == grid[0]:
                here, last = tuple(range(at, at + len(grid))), tuple(range(-len(grid), 0))
                x = act_on_grid(self.group, g, x.movedim(here, last)).movedim(last, here)
            elif axis.terms == (("h", "w"),) and self.grid:
                side = isqrt(x.shape[at])
                square = x.movedim(at, -1).unflatten(-1, (side, side))
                x = act_on_grid(self.group, g, square).flatten(-2).movedim(-1, at)
            elif axis.bracketed or (axis.name is not None and axis.name not in grid):
                if not self.axis_moves(axis):
                    continue
                rep = self.representation(axis, x.shape[at])
                x = rep.act(g, x.movedim(at, -1)).movedim(-1, at)
        return x

    def axis_moves(self, axis: Axis) -> bool:
        known = letters(self.group)
        return any(n in known and known[n].moves for term in axis.terms for n in term)

    # -- the batch --------------------------------------------------------------------------------

    def to_front(self, x: Tensor) -> Tensor:
        """`x` in pattern order → front order; the axes under `...` are flattened into one batch."""
        if self.axes and self.axes[0].name == "...":
            return x.reshape(-1, *x.shape[x.ndim - len(self.inner) :])
        return x.movedim(self.batch, 0) if self.batch else x

    def from_front(self, x: Tensor, leading: tuple[int, ...] | None = None) -> Tensor:
        """Front order → pattern order; `leading` restores the sizes under `...`."""
        if self.axes and self.axes[0].name == "...":
            return x if leading is None else x.reshape(*leading, *x.shape[1:])
        return x.movedim(0, self.batch) if self.batch else x

    def leading(self, x: Tensor) -> tuple[int, ...] | None:
        """The sizes under `...`, None without an ellipsis."""
        if self.axes and self.axes[0].name == "...":
            return tuple(x.shape[: x.ndim - len(self.inner)])
        return None
