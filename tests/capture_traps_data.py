"""Answers that depend on data, given by a helper or a count: they may differ on the next call."""

from __future__ import annotations

import torch
from capture_traps import Toy, graph, images, rows, seen, tokens, trap
from torch import nn


def opposite():
    """The example's kind of input with the other sign of every entry."""
    return [((torch.rand(3, 4),), {}), ((-torch.rand(3, 4),), {})]


def positive(x):
    """A flag."""
    return bool((x.sum() > 0).item())


def count(x):
    """A number."""
    return int((x > 0).sum().item())


def maybe(x):
    """A tensor, or none."""
    return x * 2 if x.sum() > 0 else None


def some(x):
    """One tensor or two."""
    return (x, x * 2) if x.sum() > 0 else (x,)


class Answers(Toy):
    """`ask(x)` decides between the layers."""

    def forward(self, x):
        return self.a(x) if self.ask(x) else self.b(x)


@trap("graph", others=opposite)
class HelperGivesFlag(Answers):
    def ask(self, x):
        return positive(x)


@trap("graph", others=opposite)
class HelperGivesNumber(Answers):
    def ask(self, x):
        return count(x) > 4


@trap("graph", others=opposite)
class HelperGivesTensorOrNone(Answers):
    def ask(self, x):
        return maybe(x) is not None


@trap("graph", others=opposite)
class HelperGivesOneOrTwo(Answers):
    def ask(self, x):
        return len(some(x)) == 2


@trap("graph", others=opposite)
class MaskedCount(Answers):
    def ask(self, x):
        return x[x > 0].shape[0] > 4


@trap("graph", others=opposite)
class NonzeroCount(Answers):
    def ask(self, x):
        return len(x.nonzero()) % 2


@trap("graph", others=opposite)
class UniqueCount(Answers):
    def ask(self, x):
        return torch.unique(x.sign()).numel() == 1


@trap("graph", others=opposite)
class HelperAfterDropout(Toy):
    def setup(self):
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        y = self.drop(self.a(x))
        return self.b(y) if positive(y) else y


@trap(others=opposite)
class HelperAfterWrite(Toy):
    def forward(self, x):
        x.mul_(2)
        return self.a(x) if positive(x) else self.b(x)


@trap(others=opposite)
class HelperAfterStatistics(Toy):
    def setup(self):
        self.norm = nn.BatchNorm1d(4, affine=False)

    def forward(self, x):
        y = self.norm(self.a(torch.cat([x, -x])))
        return self.b(y) if positive(x) else y


@trap(others=opposite)
class ChildCounts(Toy):
    def setup(self):
        self.pick = Pick()

    def forward(self, x):
        y = self.pick(x)
        return self.a(x) if y.shape[0] > 4 else self.b(x)


class Pick(nn.Module):
    """As many entries as there are positive ones."""

    def forward(self, x):
        return x[x > 0]


@trap("graph", args=tokens)
class RegionsReturnATuple(nn.Module):
    """A child computes tables without gradients, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.tables, self.head = Tables(), nn.Linear(4, 4)

    def forward(self, x):
        cos, sin = self.tables(x)
        return self.head(x * cos + x.flip(-1) * sin)


class Tables(nn.Module):
    """Cosines and sines by place."""

    @torch.no_grad()
    def forward(self, x):
        place = torch.arange(x.shape[1], device=x.device)[:, None].to(x.dtype)
        return place.cos(), place.sin()


# -- caches and types of what is held --------------------------------------------------------------


@trap("graph", others=lambda: [(rows(3), {}), (rows(3), {})])
class CachedTableInEval(Toy):
    """In eval a table is kept by device, in train mode the cache is emptied."""

    def setup(self):
        self.bias, self.cache = nn.Parameter(torch.randn(4)), {}

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def table(self, device):
        if self.training:
            return self.bias.sin()
        if str(device) not in self.cache:
            self.cache[str(device)] = self.bias.detach().sin()
        return self.cache[str(device)]

    def forward(self, x):
        return self.b(self.a(x) + self.table(x.device))


@graph
class TypeOfAWeight(Toy):
    """The table has the type that a layer's weights have, not that of the input."""

    def forward(self, x):
        ramp = torch.arange(4, dtype=torch.long).to(self.b.weight.dtype)
        return self.b(ramp[None]) + self.a(x)


@graph
class TypeOfAnInnerResult(Toy):
    def forward(self, x):
        y = self.a(x)
        return self.b(torch.ones(4).to(y.dtype)) + y


@graph
class PowerWithoutAName(Toy):
    """torch's own wrappers of operators call themselves by another name."""

    def forward(self, x):
        y = self.a(x).abs() + 1
        return self.b(y**0.5 + 2**y + 3 // y + 1 / y + (7 - y))


@trap("graph", args=images)
class OrderedArguments(nn.Module):
    """Features by name, handed on in the order of their levels."""

    def __init__(self):
        super().__init__()
        self.levels, self.head = Levels(), Top()

    def forward(self, x):
        return self.head(self.levels(x))


class Levels(nn.Module):
    """Two sizes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        from collections import OrderedDict

        y = self.conv(x)
        return OrderedDict(low=y, high=y[..., ::2, ::2])


class Top(nn.Module):
    """One of them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, levels):
        return self.conv(levels["high"]).mean((2, 3)) + levels["low"].mean()


@seen
class NumpyOfASize(Toy):
    """numpy takes no number that knows its node: only the watched run raises."""

    def forward(self, x):
        import numpy as np

        grid = np.arange(10)[x.shape[0] :][:: x.shape[1]]
        return self.a(x) + float(grid.sum())
