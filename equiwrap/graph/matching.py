"""Hidden channels matched to data: which of them already move as functions on the group.

A network that is equivariant end to end carries *some* action in its hidden layers, that nobody
wrote down. With a_c(x) the activations of channel c on data, its traces are the energies

    T_g[c, d] = ⟨g·a_c(x), a_d(gx)⟩        g·: the pixels turn

large where g sends channel c to channel d. Several readings of T (by correlation, by size, by what
the next layers make of the channels) and of the weights themselves propose fields; the proposal
whose projected model stays nearest to the model on the data is kept, variable by variable, and a
variable that does no better than at rest rests. A search over permutations finds something in noise
too: the same search on shuffled channels stands beside it, and if it comes as near, nothing is
matched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import SignatureError
from ..signature import Signature
from .activations import energies_of, first_inputs, seen_at, values_of, variables
from .hidden import Hidden, channels_of
from .kinds import Atom, Kind, free
from .partition import Partition, partition
from .propagate import Typing, propagate
from .snap import project_weights
from .twin import held_random, twin_of
from .walk import attribute

__all__ = ["Matched", "Matching", "match"]

ROUNDS = 2
TRIES = 60
NEARER = 0.5  # of 21 untrained networks the nearest came to 0.56 by chance, trained ones to 0.3
SMALL = 2_000_000  # parameters up to which the weights are read too, and all fields are tried
FEW = 12


@dataclass(frozen=True)
class Matched:
    """One variable: layers that share their channels, the sizes of its fields, and their worth.

    `share` is the energy that the fields capture, `null` what the same search captures where
    nothing corresponds.
    """

    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    share: float
    null: float

    def __str__(self) -> str:
        made = " + ".join(
            f"{self.sizes.count(n)} × {n}" for n in sorted(set(self.sizes), reverse=True)
        )
        more = f" and {len(self.layers) - 1} more" if len(self.layers) > 1 else ""
        worth = f"captures {self.share:.2f}, null {self.null:.2f}"
        return f"{self.layers[-1]}{more}: {made or 'rest'} ({worth})"


@dataclass(frozen=True)
class Matching:
    """Every variable in the order of the network, and the distance of the projected model.

    `distances` are |f_P(x) − f(x)|² / |f(x)|² on the data: of the model at rest, of the same search
    on shuffled channels, of what was found. `accepted`: this is less than half of both.
    """

    rows: tuple[Matched, ...]
    distances: tuple[tuple[str, float], ...]

    @property
    def accepted(self) -> bool:
        """True where the fields found halve both distances."""
        values = dict(self.distances)
        return values["found"] < NEARER * min(values["rest"], values["shuffled"])

    def __str__(self) -> str:
        kept = sum(bool(row.sizes) for row in self.rows) if self.accepted else 0
        tried = ", ".join(f"{name} {value:.3f}" for name, value in self.distances)
        lines = [
            f"Hidden channels: {kept} of {len(self.rows)} variables matched to the data; distance "
            f"of the projected model: {tried}.",
            *[f"           {row}" for row in self.rows],
        ]
        return "\n".join(lines)


def match(
    model: nn.Module, signature: Signature, data: Any, *, seed: int = 0
) -> tuple[Hidden, Matching]:
    """The channels that each layer of a trained model carries, from unlabelled inputs.

    At most 64 inputs; one run of the model for each element of the group and each proposal: seconds
    below two million parameters; above, fewer proposals, and minutes. Of the representations G/H,
    mixed as the data say.

    Source: the layerwise actions exist by Shahverdi et al. 2026; the search is ours.

    Raises:
        CaptureError: the model does not run on the data.
        SignatureError: the data do not fit the signature, or there are none.
    """
    inputs = first_inputs(data)
    if len(inputs) != len(signature.inputs):
        raise SignatureError(
            f"calibrate= gives {len(inputs)} inputs, and the signature {str(signature)!r} has "
            f"{len(signature.inputs)}."
        )
    for (_, kind), x in zip(signature.inputs, inputs, strict=False):
        if not kind.untouched:
            kind.check(x, "calibrate=")
        if isinstance(x, Tensor) and not x.numel():
            raise SignatureError("calibrate= holds no inputs, so that nothing can be matched.")
    found = _Search(model, signature, inputs, seed)
    rest = found.distance({})
    small = sum(p.numel() for p in model.parameters()) <= SMALL
    rounds, tries = (ROUNDS, TRIES) if small else (0, FEW)
    best, nearest = found.best(found.energies, rest, rounds, tries)
    shuffled = {v: _shuffled(t, seed) for v, t in found.energies.items()}
    _, null = found.best(shuffled, rest, 0, tries)
    distances = (("rest", rest), ("shuffled", null), ("found", nearest))
    kept = best if Matching((), distances).accepted else {}
    return found.hidden(kept), Matching(found.rows(kept), distances)


Proposal = dict[str, Partition]


class _Search:
    """The variables of a model, their energies, and what each proposal makes of the model."""

    def __init__(
        self, model: nn.Module, signature: Signature, inputs: tuple[Any, ...], seed: int
    ) -> None:
        self.model, self.signature, self.inputs, self.seed = model, signature, inputs, seed
        self.twin = twin_of(model, False)
        self.typing = propagate(model, signature, inputs, {}, hidden="regular")
        self.group = self.typing.group
        sites = {r: (p, seen_at(self.typing, p)) for r, p in variables(self.typing).items()}
        self.variables = {p[0]: p for p, site in sites.values() if site is not None}
        seen = {p[0]: site for p, site in sites.values() if site is not None}
        values = values_of(self.twin, self.typing, inputs, list(seen.values()))
        self.energies = {
            v: energies_of(self.typing, site, *values[site.at.key]) for v, site in seen.items()
        }
        with torch.no_grad(), held_random():
            self.plain = _flat(self.twin(*inputs))

    def hidden(self, proposal: Proposal) -> Hidden:
        """These fields; everything else rests."""
        hidden = Hidden(self.group, "regular")
        hidden.mode = "matched"
        hidden.leads = dict.fromkeys(self.typing.hidden.sizes, 0)
        for first, found in proposal.items():
            axis = ((Atom("r", len(found.images[0]), images=found.images),),)
            for path in self.variables[first]:
                hidden.leads.pop(path)
                hidden.given[path] = axis
        return hidden

    def typed(self, hidden: Hidden) -> Typing:
        """The model under these channels."""
        few = tuple(x[:2] if isinstance(x, Tensor) and x.dim() else x for x in self.inputs)
        return propagate(self.model, self.signature, few, {}, hidden=hidden)

    def distance(self, proposal: Proposal) -> float:
        """*|f_P(x) − f(x)|² / |f(x)|²*."""
        twin = twin_of(self.model, False)
        project_weights(twin, self.typed(self.hidden(proposal)))
        with torch.no_grad(), held_random():
            gap = _flat(twin(*self.inputs)) - self.plain
        return float(gap.square().sum() / self.plain.square().sum().clamp_min(1e-300))

    def best(
        self, energies: dict[str, Tensor], rest: float, rounds: int, most: int
    ) -> tuple[Proposal, float]:
        """The proposal whose projected model is nearest, and in it the best of each variable."""
        pool = list(self.proposals(energies, rounds))
        near = [self.distance(proposal) for proposal in pool]
        nearest = min(near)
        best = dict(pool[near.index(nearest)])
        tries = 0
        for v in list(best):
            others = dict.fromkeys(other[v] for other in pool)
            for part in [*others, None]:
                if tries == most or part == best.get(v):
                    continue
                tries += 1
                changed = {k: p for k, p in {**best, v: part}.items() if p is not None}
                distance = self.distance(changed)
                if distance < nearest:
                    best, nearest = changed, distance
        return best, nearest

    def proposals(self, energies: dict[str, Tensor], rounds: int) -> Iterator[Proposal]:
        """The fields by each reading of the energies, and by the weights after each."""
        for reading in (_correlated, _as_is, self._used):
            proposal = {v: partition(reading(t, v), self.group) for v, t in energies.items()}
            yield proposal
            for _ in range(rounds):
                proposal = dict(proposal)
                for v in proposal:
                    found = self._weights(self.typed(self.hidden(proposal)), v)
                    if found is not None:
                        proposal[v] = partition(found, self.group)
                yield proposal

    def rows(self, proposal: Proposal) -> tuple[Matched, ...]:
        """Each variable beside its null, in correlations."""
        found = []
        for v, paths in self.variables.items():
            energy = _correlated(self.energies[v], v)
            null = partition(_shuffled(energy, self.seed), self.group).share
            part = proposal.get(v)
            share = _share(energy, part) if part else 0.0
            found.append(Matched(tuple(paths), part.sizes if part else (), share, null))
        return tuple(found)

    def _used(self, energy: Tensor, v: str) -> Tensor:
        """Each channel as large as the next layers make it."""
        size = torch.zeros(energy.shape[-1], dtype=energy.dtype)
        for weight, _ in self._weighing(self.typing, v, 1):
            size += weight.movedim(1, 0).flatten(1).square().sum(1)
        size = size.sqrt() if float(size.sum()) > 0 else torch.ones_like(size)
        return energy * size.unsqueeze(-1) * size

    def _weights(self, typing: Typing, v: str) -> Tensor | None:
        """*T_g[c, d] = Σ_layers ⟨g·W_c, W_d⟩ / |W|²* along the channels of layers around it."""
        total = None
        for axis in (0, 1):
            for weight, kind in self._weighing(typing, v, axis):
                rest = Kind(
                    tuple(
                        free(weight.shape[i]) if i == axis else a for i, a in enumerate(kind.axes)
                    )
                )
                rows = weight.movedim(axis, 0).flatten(1)
                turned = [
                    rest.act(self.group, g, weight).movedim(axis, 0).flatten(1) @ rows.mT
                    for g in self.group.elements()
                ]
                found = torch.stack(turned) / weight.square().sum().clamp_min(1e-300)
                total = found if total is None else total + found
        return total

    def _weighing(self, typing: Typing, v: str, axis: int) -> list[tuple[Tensor, Kind]]:
        """The weights whose axis carries this variable."""
        paths = set(self.variables[v])
        found = []
        for path, kinds in typing.whole.items():
            for kind in kinds:
                atoms = channels_of(kind.axes[axis]) if len(kind.axes) > 1 else []
                if len(kind.axes[axis if len(kind.axes) > 1 else 0]) == 1 and any(
                    atom.origin & paths for atom in atoms
                ):
                    weight = attribute(self.model, path).detach().double()
                    if weight.shape[axis] == self.energies[v].shape[-1]:
                        found.append((weight, kind))
        return found


def _correlated(energy: Tensor, v: str) -> Tensor:
    """Every channel of size one; a dead one stays 0."""
    size = energy[0].diagonal().sqrt()
    size = torch.where(size > 1e-9 * size.max(), size, torch.inf)
    return energy / size.unsqueeze(-1) / size


def _as_is(energy: Tensor, v: str) -> Tensor:
    return energy


def _share(energy: Tensor, part: Partition) -> float:
    """The energy captured by given fields."""
    here = torch.arange(energy.shape[-1])
    terms = [t[here, torch.tensor(row)].sum() for t, row in zip(energy, part.images, strict=True)]
    return float(torch.stack(terms).mean() / energy[0].diagonal().sum().clamp_min(1e-300))


def _shuffled(energy: Tensor, seed: int) -> Tensor:
    """The channels of every g x in another order: nothing corresponds."""
    draw = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(energy.shape[-1], generator=draw) for _ in energy[1:]]
    return torch.stack([energy[0], *[t[:, o] for t, o in zip(energy[1:], orders, strict=True)]])


def _flat(out: Any) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    return torch.cat([leaf.double().flatten() for leaf in leaves])
