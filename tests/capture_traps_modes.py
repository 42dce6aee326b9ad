"""Modes that fx does not record, random numbers, training mode, state that is left behind."""

from __future__ import annotations

import functools
import random
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from capture_traps import Toy, graph, rows, seen, trap
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# -- modes that fx does not record -----------------------------------------------------------------


@trap("graph", others=lambda: [(rows(0), {}), (rows(7), {}), ((torch.randn(2, 5, 4),), {})])
class Plain(Toy):
    pass


@seen
class NoGradBlock(Toy):
    def forward(self, x):
        with torch.no_grad():
            scale = self.a(x).sum(1, keepdim=True)
        return self.b(x) * scale


@seen
class SetGradEnabledCall(Toy):
    def forward(self, x):
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        scale = self.a(x)
        torch.set_grad_enabled(before)
        return self.b(x) * scale


@seen
class NoGradForward(Toy):
    @torch.no_grad()
    def forward(self, x):
        return self.b(self.a(x))


@seen
class EnableGradBlock(Toy):
    def forward(self, x):
        with torch.enable_grad():
            y = self.a(x)
        return self.b(y)


@seen
class InferenceBlock(Toy):
    def forward(self, x):
        with torch.inference_mode():
            shift = self.a(x)
        return self.b(x) + shift


@seen
class AutocastOn(Toy):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.a(x)
        return self.b(y.to(x.dtype))


@seen
class AutocastOff(Toy):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            y = self.a(x)
        return self.b(y)


@seen
class AsksForGradMode(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if torch.is_grad_enabled() else self.a(x)


@seen
class AsksForAutocast(Toy):
    def forward(self, x):
        return self.a(x) if torch.is_autocast_enabled("cpu") else self.b(x)


@seen
class AsksRequiresGrad(Toy):
    def forward(self, x):
        return self.a(x) if x.requires_grad else self.b(x)


class Odd(torch.autograd.Function):
    """The identity; its derivative is 7."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 7 * grad


@seen
class OwnBackward(Toy):
    def forward(self, x):
        return self.b(Odd.apply(self.a(x)))


@seen
class StraightThrough(Toy):
    def forward(self, x):
        y = self.a(x)
        return self.b(y + (y.round() - y).detach())


class Counting(nn.Module):
    """A layer that counts its calls: under checkpointing one more a backward pass."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 4), 0

    def forward(self, x):
        self.calls += 1
        return torch.tanh(self.layer(x))


class Checkpointed(Toy):
    reentrant = False

    def setup(self):
        self.inner = Counting()

    def forward(self, x):
        return self.b(checkpoint(self.inner, self.a(x), use_reentrant=self.reentrant))


seen(Checkpointed)


@seen
class CheckpointedReentrant(Checkpointed):
    reentrant = True


@seen
class CheckpointedLambda(Toy):
    def forward(self, x):
        return self.b(checkpoint(lambda y: torch.tanh(self.a(y)), x, use_reentrant=False))


# -- random numbers --------------------------------------------------------------------------------


@seen
class PythonRandom(Toy):
    def forward(self, x):
        return self.b(self.a(x) * random.random())


@seen
class NumpyRandom(Toy):
    def forward(self, x):
        return self.b(self.a(x) * float(np.random.rand()))


@seen
class TorchRandFrozen(Toy):
    def forward(self, x):
        return self.b(self.a(x) * torch.rand(1))


@seen
class TorchRandBatch(Toy):
    def forward(self, x):
        return self.b(self.a(x) * torch.rand(x.shape[0], 1))


@trap("graph")
class RandLike(Toy):
    def forward(self, x):
        return self.b(self.a(x) + torch.randn_like(x))


@seen
class Permuted(Toy):
    def forward(self, x):
        return self.b(self.a(x)[torch.randperm(len(x))])


@seen
class BranchesOnRandom(Toy):
    def forward(self, x):
        return self.a(x) if torch.rand(()) < 0.5 else self.b(x)


@seen
class LayerDrop(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if not self.training or random.random() > 0.3 else self.b(x)


@seen
class OwnGenerator(Toy):
    def setup(self):
        self.random = torch.Generator().manual_seed(3)

    def forward(self, x):
        return self.b(self.a(x) + torch.randn(4, generator=self.random))


# -- training mode ---------------------------------------------------------------------------------


@graph
class FunctionalDropout(Toy):
    def forward(self, x):
        return self.b(F.dropout(self.a(x), 0.5, self.training))


@graph
class TrainingBranch(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if self.training else self.a(x)


@graph
class FunctionalBatchNorm(Toy):
    def setup(self):
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x):
        y = F.batch_norm(self.a(x), self.mean, self.var, training=self.training)
        return self.b(y)


@graph
class DropPath(Toy):
    def forward(self, x):
        return x + drop_path(self.b(self.a(x)), 0.5, self.training)


def drop_path(x: Tensor, p: float, training: bool) -> Tensor:
    """Whole samples are dropped."""
    if not training or p == 0.0:
        return x
    keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - p)
    return x * keep.div_(1 - p)


@trap("graph", after=lambda m: m.drop.eval())
class ChildStaysInEval(Toy):
    def setup(self):
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.b(self.drop(self.a(x)) * (2 if self.drop.training else 1))


@seen
class BatchNormInForward(Toy):
    def setup(self):
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        self.norm.eval()
        return self.b(self.norm(self.a(x)))


# -- state that a forward leaves behind ------------------------------------------------------------


@seen
class BufferAddInPlace(Toy):
    def setup(self):
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen.add_(1)
        return self.b(self.a(x)) * self.seen


@seen
class BufferAugmented(BufferAddInPlace):
    def forward(self, x):
        self.seen += x.shape[0]
        return self.b(self.a(x)) * self.seen


@seen
class BufferRebound(BufferAddInPlace):
    def forward(self, x):
        self.seen = 0.9 * self.seen + 0.1 * x.detach().mean()
        return self.b(self.a(x)) + self.seen


@seen
class BufferSlice(BufferAddInPlace):
    def setup(self):
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        self.seen[1] = x.detach().mean()
        return self.b(self.a(x)) + self.seen.sum()


@seen
class ParameterWritten(Toy):
    def forward(self, x):
        with torch.no_grad():
            self.a.bias.mul_(0.5)
        return self.b(self.a(x))


@seen
class ParameterData(Toy):
    def forward(self, x):
        self.a.weight.data.clamp_(-0.2, 0.2)
        return self.b(self.a(x))


@seen
class AttributeCounter(Toy):
    count = 0

    def forward(self, x):
        self.count = self.count + 1
        return self.b(self.a(x)) * self.count


@seen
class GrowingList(Toy):
    def setup(self):
        self.history = []

    def forward(self, x):
        self.history.append(float(x.shape[0]))
        return self.b(self.a(x)) * len(self.history)


@seen
class ShapeCache(Toy):
    def setup(self):
        self.cache = {}

    def forward(self, x):
        if x.shape[0] not in self.cache:
            self.cache[x.shape[0]] = torch.arange(float(x.shape[0]))[:, None]
        return self.b(self.a(x)) + self.cache[x.shape[0]]


@seen
class DeepState(Toy):
    def setup(self):
        self.state = {"seen": {"calls": 0}}

    def forward(self, x):
        self.state["seen"]["calls"] += 1
        return self.b(self.a(x)) * self.state["seen"]["calls"]


@seen
class KeepsActivation(Toy):
    def forward(self, x):
        self.last = self.a(x)
        return self.b(self.last)


@seen
class SideChannel(Toy):
    def setup(self):
        self.inner = KeepsActivation()

    def forward(self, x):
        return self.inner(x) + self.inner.last


@seen
class TaggedTensor(Toy):
    def forward(self, x):
        y = self.a(x)
        y.scale = 3.0
        return self.b(y) * getattr(y, "scale", 1.0)


@seen
class Warns(Toy):
    def forward(self, x):
        warnings.warn("a trap said so", stacklevel=1)
        return self.b(self.a(x))


@functools.lru_cache
def table(n: int) -> Tensor:
    """A cached table of n rows."""
    return torch.arange(float(n))[:, None]


@seen
class CachedHelper(Toy):
    def forward(self, x):
        return self.b(self.a(x)) + table(x.shape[0])
