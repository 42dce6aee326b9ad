"""Channels into fields G/H: the partition that captures most of an energy T.

    captured(c_0, …) = Σ_a mean_g T_g[c_a, c_ga]        T_g[c, d] = ⟨g·a_c, a_d⟩

is what is left of the channels when each is replaced by the mean over its field. Fields are taken
greedily, the largest gain over channels at rest first, and then improved by exchanges.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import torch
from torch import Tensor

from ..groups import Group
from ..reynolds import images_of

__all__ = ["Partition", "partition"]

Images = tuple[tuple[int, ...], ...]
SWAPS = 96  # channels up to which exchanges are tried
SWEEPS = 20


@dataclass
class Field:
    """The channels of one field, and where every element sends its cosets."""

    members: list[int]
    action: list[list[int]]

    def captured(self, energy: list[list[list[float]]]) -> float:
        """Σ_a mean_g T_g[c_a, c_ga]."""
        m = self.members
        terms = (
            table[m[a]][m[b]]
            for table, row in zip(energy, self.action, strict=True)
            for a, b in enumerate(row)
        )
        return sum(terms) / len(self.action)


@dataclass(frozen=True)
class Partition:
    """`images[k][c]`: where element k sends channel c; and the share of the energy captured."""

    images: Images
    sizes: tuple[int, ...]
    share: float


def partition(energy: Tensor, group: Group) -> Partition:
    """`energy[g, c, d]`, the identity first → the fields found.

    Greedy, so no optimum: on a planted partition with noise below the signal it finds it.
    """
    table = images_of(group)
    kinds = [_cosets(table, h) for h in _subgroups(table)]
    numbers = energy.tolist()
    fields = _greedy(energy, numbers, kinds)
    if energy.shape[-1] <= SWAPS:
        _exchange(fields, numbers)
    images = [list(range(energy.shape[-1])) for _ in table]
    for field in fields:
        for k, row in enumerate(field.action):
            for a, b in enumerate(row):
                images[k][field.members[a]] = field.members[b]
    captured = sum(field.captured(numbers) for field in fields)
    total = max(float(energy[0].diagonal().sum()), 1e-300)
    sizes = tuple(sorted((len(f.members) for f in fields), reverse=True))
    return Partition(tuple(map(tuple, images)), sizes, captured / total)


def _greedy(energy: Tensor, numbers: list[list[list[float]]], kinds: list[Field]) -> list[Field]:
    count = energy.shape[-1]
    still = [[0]] * len(numbers)
    alone = [Field([c], still).captured(numbers) for c in range(count)]
    scale = energy[0].diagonal().clamp_min(1e-30).sqrt()
    used = torch.zeros(count, dtype=torch.bool)
    fields: list[Field] = []
    best = {c: _best(c, energy, numbers, kinds, used, alone, scale) for c in range(count)}
    while True:
        gain, c = max(((found[0], c) for c, found in best.items() if found), default=(0.0, -1))
        if gain <= 0:
            break
        field = best[c][1]  # type: ignore[index]
        if used[field.members].any():
            best[c] = _best(c, energy, numbers, kinds, used, alone, scale)
            continue
        used[field.members] = True
        fields.append(field)
        for member in field.members:
            best.pop(member)
    return fields + [Field([c], still) for c in range(count) if not used[c]]


def _best(
    c: int,
    energy: Tensor,
    numbers: list[list[list[float]]],
    kinds: list[Field],
    used: Tensor,
    alone: list[float],
    scale: Tensor,
) -> tuple[float, Field] | None:
    """The gain a channel of the best field that starts at channel c."""
    found: tuple[float, Field] | None = None
    for kind in kinds:
        open_now = ~used
        open_now[c] = False
        members = [c]
        for a in range(1, len(kind.members)):
            elements = [k for k, row in enumerate(kind.action) if row[0] == a]
            likeness = torch.where(open_now, energy[elements, c].mean(0) / scale, -torch.inf)
            near = int(likeness.argmax())
            if not open_now[near]:
                break
            open_now[near] = False
            members.append(near)
        if len(members) < len(kind.members) or len(members) == 1:
            continue
        field = Field(members, kind.action)
        gain = (field.captured(numbers) - sum(alone[m] for m in members)) / len(members)
        if found is None or gain > found[0]:
            found = gain, field
    return found


def _exchange(fields: list[Field], numbers: list[list[list[float]]]) -> None:
    """Exchange two channels wherever that captures more, until nothing does."""
    place = {m: (f, a) for f in fields for a, m in enumerate(f.members)}
    for _ in range(SWEEPS):
        improved = False
        for u, v in combinations(sorted(place), 2):
            (f, a), (g, b) = place[u], place[v]
            if len(f.members) == len(g.members) == 1:
                continue
            parts = [f] if f is g else [f, g]
            before = sum(part.captured(numbers) for part in parts)
            f.members[a], g.members[b] = v, u
            if sum(part.captured(numbers) for part in parts) > before * (1 + 1e-9) + 1e-300:
                place[u], place[v] = (g, b), (f, a)
                improved = True
            else:
                f.members[a], g.members[b] = u, v
        if not improved:
            return


# -- subgroups -------------------------------------------------------------------------------------


def _subgroups(table: Images) -> list[frozenset[int]]:
    """Every subgroup that two elements generate, the smallest first: all those of C_n and D_n."""
    pairs = combinations_with_replacement(range(len(table)), 2)
    found = {_closed(table, {a, b}) for a, b in pairs}
    return sorted(found, key=lambda h: (len(h), sorted(h)))


def _closed(table: Images, some: set[int]) -> frozenset[int]:
    found = {0, *some}
    while True:
        more = found | {table[a][b] for a in found for b in found}
        if more == found:
            return frozenset(found)
        found = more


def _cosets(table: Images, h: frozenset[int]) -> Field:
    """The left cosets aH by number, H first, and where each element sends them."""
    first: list[int] = []
    place: dict[int, int] = {}
    for a in range(len(table)):
        if a not in place:
            place |= dict.fromkeys((table[a][b] for b in h), len(first))
            first.append(a)
    return Field(list(range(len(first))), [[place[row[a]] for a in first] for row in table])
