"""Which targets an optimiser trains, and at which learning rates: looked up anew at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from .shards import settle, sharded
from .targets import Target

__all__ = ["Trained"]

Spot = tuple[Target, nn.Module, str, list[nn.Parameter]]


class Trained:
    """*The targets with a learning rate*, whatever has become of the model and of the groups.

    Parameters may be replaced, frozen, tied or given to the optimiser later; a shared one counts
    once, under its first path. With `statistics` a buffer has the rate of the first parameter
    around it that is trained. This runs at every step: a microsecond a target.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, targets: Sequence[Target], statistics: bool
    ) -> None:
        self.model, self.optimizer, self.targets = model, optimizer, targets
        self.statistics = statistics
        self.sharded = False
        self._spots: list[Spot] = []
        self._places: dict[int, tuple[int, int]] = {}  # parameter → its group, its place there
        self._seen: list[tuple[int, list[nn.Parameter]]] = []  # of each group: size, the first

    def __iter__(self) -> Iterator[tuple[Target, Tensor, float | str]]:
        """Each target with its tensor, and its learning rate or the reason why it is left out."""
        groups, seen = [group["params"] for group in self.optimizer.param_groups], set()
        now = [(len(group), id(group[0]) if group else 0) for group in groups]
        if not self._spots or now != [(n, id(p[0]) if p else 0) for n, p in self._seen]:
            self._place()
        rates = [group.get("lr") for group in self.optimizer.param_groups]
        rates = [rate if rate is None else float(rate) for rate in rates]
        for target, owner, name, around in self._spots:
            parameter = owner._parameters.get(name)
            tensor = getattr(owner, name) if parameter is None else parameter
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            rate, reason = None, "is a buffer, and statistics=False"
            if parameter is not None:
                rate = self._rate(parameter, rates)
                reason = "is not in the optimiser" if parameter.requires_grad else "is frozen"
            elif self.statistics:
                every = (self._rate(p, rates) for p in around)
                rate = next((r for r in every if r is not None), None)
                reason = "is a buffer of a layer that is not trained"
            yield target, tensor, reason if rate is None else rate

    def found(self) -> list[tuple[Target, Tensor, float | str]]:
        """All of them; sharded ones as shards, whatever the last forward left."""
        if self.sharded:
            settle(self.model)
        return list(self)

    def _rate(self, parameter: Tensor, rates: list[float | None]) -> float | None:
        """The learning rate of a parameter, None where the optimiser does not train it.

        Raises:
            ValueError: its group has no learning rate.
        """
        if not parameter.requires_grad:
            return None
        groups, place = self.optimizer.param_groups, self._places.get(id(parameter))
        if place and groups[place[0]]["params"][place[1]] is not parameter:
            self._place()
            place = self._places.get(id(parameter))
        if place is None:
            return None
        rate = rates[place[0]]
        if rate is None:
            raise ValueError(
                "A parameter group of the optimiser has no learning rate lr, and the decay is "
                "measured in learning rates: set one."
            )
        return rate

    def _place(self) -> None:
        """Number the parameters of the optimiser, and find the targets among the modules."""
        groups = [group["params"] for group in self.optimizer.param_groups]
        self._seen = [(len(group), group[:1]) for group in groups]
        self._places = {id(p): (i, j) for i, g in enumerate(groups) for j, p in enumerate(g)}
        self.sharded = any(sharded(p) for group in groups for p in group)
        if self.sharded:
            settle(self.model)
        self._spots = [self._spot(target) for target in self.targets]

    def _spot(self, target: Target) -> Spot:
        """A target with its module and name there, a buffer with the parameters around it."""
        path, _, name = target.path.rpartition(".")
        owner, around = self.model.get_submodule(path), list[nn.Parameter]()
        if not isinstance(getattr(owner, name), nn.Parameter):
            around = list(owner.parameters())
            while path and not around:
                path = path.rpartition(".")[0]
                around = list(self.model.get_submodule(path).parameters())
        return target, owner, name, around
