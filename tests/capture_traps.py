"""Small models on which tracing goes wrong: what a forward may do besides arithmetic.

A trap is a model, the arguments of a call by batch size, other calls that take another path, and
what happens to the model after it was captured. `tier` is what its root must become; without one
only its behaviour counts.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

CONSTANT = torch.linspace(0.5, 2.0, 4)
LOG: list[str] = []  # what hooks and warnings leave outside of the model


@dataclass(frozen=True)
class Trap:
    """`make()` is called twice: for the model, and for the twin that nobody touches."""

    name: str
    make: Callable[[], nn.Module]
    args: Callable[[int], tuple]
    kwargs: Callable[[int], dict]
    others: Callable[[], list[tuple[tuple, dict]]]
    after: Callable[[nn.Module], object]
    tier: str | None

    def __repr__(self) -> str:
        return self.name


TRAPS: dict[str, Trap] = {}


def rows(b: int) -> tuple[Tensor]:
    """`x[b, 4]`."""
    return (torch.randn(b, 4),)


def images(b: int) -> tuple[Tensor]:
    """`x[b, 3, 6, 6]`."""
    return (torch.randn(b, 3, 6, 6),)


def tokens(b: int) -> tuple[Tensor]:
    """`x[b, 5, 4]`."""
    return (torch.randn(b, 5, 4),)


def trap(tier=None, *, args=rows, kwargs=None, others=None, after=None):
    """Enter a class, or a function that builds a model, into the list."""

    def enter(make):
        TRAPS[make.__name__] = Trap(
            make.__name__,
            make,
            args,
            kwargs or (lambda b: {}),
            others or (lambda: []),
            after or (lambda model: None),
            tier,
        )
        return make

    return enter


class Toy(nn.Module):
    """Two layers a, b on `x[b, 4]`; the trap is what `forward` does between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.setup()

    def setup(self):
        """What a trap holds besides."""

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


graph, seen = trap("graph"), trap()

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


# -- questions of type and data --------------------------------------------------------------------


@seen
class IsTensor(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if isinstance(x, Tensor) else self.a(x)


@seen
class TypeIsTensor(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if type(x) is Tensor else self.a(x)


@seen
class SwallowedBranch(Toy):
    def forward(self, x):
        try:
            y = self.a(x) if x.sum() > 0 else self.b(x)
        except Exception:
            y = 100 * x
        return y


@seen
class SwallowedSilently(Toy):
    def forward(self, x):
        scale = 100.0
        with contextlib.suppress(Exception):
            scale = x.detach().sum().item()
        return self.b(self.a(x)) * scale


@seen
class DataBranch(Toy):
    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)


@seen
class DataItem(Toy):
    def forward(self, x):
        return self.b(self.a(x)) * x.detach().abs().sum().item()


@seen
class DataLoop(Toy):
    def forward(self, x):
        for _ in range(int(x.detach().abs().sum()) % 5):
            x = self.a(x)
        return self.b(x)


@seen
class WhileLoop(Toy):
    def forward(self, x):
        while x.norm() > 0.5:
            x = 0.5 * torch.tanh(self.a(x)) * 0.5
        return self.b(x)


@seen
class DataIndex(Toy):
    def forward(self, x):
        return self.b(self.a(x))[int(x.detach().sum(1).argmax())]


@graph
class BooleanMask(Toy):
    def forward(self, x):
        y = self.a(x)
        return self.b(torch.where(y > 0, y, 0.1 * y)), y[y > 0]


@seen
class Nonzero(Toy):
    def forward(self, x):
        found = (x > 0).nonzero()
        return self.b(self.a(x))[found[:, 0]] * found.shape[0]


@seen
class NumpyRoundTrip(Toy):
    def forward(self, x):
        y = torch.from_numpy(np.sin(x.detach().numpy()))
        return self.b(self.a(x) + y)


@seen
class ToList(Toy):
    def forward(self, x):
        return self.b(self.a(x) + torch.tensor(x.detach()[0].tolist(), dtype=x.dtype))


def soft_branch(x: Tensor) -> Tensor:
    """A helper that looks at the data."""
    return x + 1 if x.sum() > 0 else x - 1


@graph
class HelperBranch(Toy):
    def forward(self, x):
        return self.b(soft_branch(self.a(x)))


@graph
class MethodBranch(Toy):
    def choose(self, x):
        return x + 1 if x.sum() > 0 else x - 1

    def forward(self, x):
        return self.b(self.choose(self.a(x)))


@seen
class MethodBranchWithLayer(Toy):
    def choose(self, x):
        return self.a(x) if x.sum() > 0 else x

    def forward(self, x):
        return self.b(self.choose(x))


@seen
class HelperWithModule(Toy):
    def setup(self):
        self.scale = 2.0

    def forward(self, x):
        return self.b(scaled(self, x))


def scaled(module: nn.Module, x: Tensor) -> Tensor:
    """A helper that is given the module."""
    return module.a(x) * module.scale if x.sum() > 0 else module.a(x)


@seen
class RaisesOnData(Toy):
    def forward(self, x):
        if x.shape[0] == 3:
            raise ValueError(f"no batch of {x.shape[0]} please")
        return self.b(self.a(x))


@seen
class ChecksFinite(Toy):
    def forward(self, x):
        if not torch.isfinite(x).all():
            raise FloatingPointError("not finite")
        return self.b(self.a(x))


@trap("graph", others=lambda: [((torch.randn(2, 5),), {}), ((torch.randn(4),), {}), ((), {})])
class AssertsShape(Toy):
    def forward(self, x):
        assert x.ndim == 2, f"found {x.ndim} axes"
        assert x.shape[1] == 4, f"found {tuple(x.shape)}"
        return self.b(self.a(x))


# -- questions of shape ----------------------------------------------------------------------------


@trap("graph", args=tokens, others=lambda: [((torch.randn(2, 9, 4),), {})])
class ShapeBranch(Toy):
    def forward(self, x):
        return self.a(x) if x.shape[1] > 6 else self.b(x)


@trap("graph", args=tokens, others=lambda: [((torch.randn(2, 3, 4),), {})])
class ShapeLoop(Toy):
    def forward(self, x):
        state = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            state = torch.tanh(self.a(state) + self.b(x[:, t]))
        return state


@seen
class IteratesRows(Toy):
    def forward(self, x):
        return self.b(torch.stack([self.a(row) for row in x]))


@seen
class BatchBranch(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if len(x) > 2 else self.a(x)


@graph
class ListTimesSize(Toy):
    def forward(self, x):
        return self.b(torch.cat([self.a(x[:1])] * x.shape[0]))


@trap("graph", args=tokens, others=lambda: [((torch.randn(2, 6, 4),), {})])
class DynamicView(Toy):
    def forward(self, x):
        b, n, c = x.shape
        y = self.a(x).reshape(x.size(0) * n, c).view(b, -1, c).transpose(1, 2)
        return self.b(y.reshape(*x.shape[:-1], c))


@trap("graph", args=tokens, others=lambda: [((torch.randn(2, 9, 4),), {})])
class SizeArithmetic(Toy):
    def forward(self, x):
        side = int(x.shape[1] ** 0.5)
        scale = 1 / math.sqrt(x.size(-1)) + max(x.shape) + side
        return self.b(self.a(x)[:, : side * side]) * scale


@trap("graph", args=tokens, others=lambda: [((torch.randn(2, 4),), {})])
class RankBranch(Toy):
    def forward(self, x):
        return self.a(x) if x.dim() == 2 else self.b(x).flatten(1)


@trap("graph", args=images, others=lambda: [((torch.randn(2, 3, 8, 8),), {})])
class PadsToMultiple(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, 4)

    def forward(self, x):
        h, w = x.shape[-2:]
        if h % 4 or w % 4:
            x = F.pad(x, (0, (4 - w % 4) % 4, 0, (4 - h % 4) % 4))
        return self.conv(x)


@graph
class ZerosFactory(Toy):
    def forward(self, x):
        h = self.a(x)
        return self.b(torch.cat([h[:, :2], torch.zeros(h.shape[0], 2)], 1))


@graph
class ArangeFactory(Toy):
    def forward(self, x):
        return self.b(self.a(x) + torch.arange(x.shape[0], device=x.device)[:, None])


@graph
class NewZeros(Toy):
    def forward(self, x):
        return self.b(self.a(x) + x.new_zeros(x.shape[0], 1) + x.new_tensor([1.0, 2, 3, 4]))


@trap("graph", args=lambda b: (torch.randn(b, 4), torch.randint(9, (b, 4))))
class DtypeRead(Toy):
    def forward(self, x, y):
        h = self.a(x)
        return self.b(y.to(h.dtype) + h + torch.ones(4, dtype=h.dtype, device=h.device))


@seen
class DtypeBranch(Toy):
    def forward(self, x):
        return self.a(x) if x.dtype == torch.float32 else self.b(x)


@trap(args=tokens, others=lambda: [((torch.randn(4, 5, 2).transpose(0, 2),), {})])
class ContiguousBranch(Toy):
    def forward(self, x):
        return self.a(x) if x.is_contiguous() else self.b(x)


@graph
class SameShape(Toy):
    def forward(self, x):
        y = self.a(x)
        return y + self.b(x) if y.shape == x.shape else y


@seen
class ShapeAsText(Toy):
    def forward(self, x):
        return self.b(self.a(x)) * len(f"{tuple(x.shape)}")


# -- children --------------------------------------------------------------------------------------


@graph
def SharedModule():
    toy = Toy()
    toy.b = toy.a
    return toy


@graph
class CalledTwice(Toy):
    def forward(self, x):
        return self.b(self.a(self.a(x)))


@graph
def TiedWeights():
    toy = Toy()
    toy.b.weight = toy.a.weight
    return toy


@graph
def SharedContainer():
    toy = Toy()
    return nn.Sequential(OrderedDict(first=toy, act=nn.ReLU(), again=toy))


@graph
class ScriptedChild(Toy):
    def setup(self):
        self.b = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))


@torch.jit.script
def scripted(x: Tensor):
    if bool(x.sum() > 0):
        return x * 2
    return x * 3


@seen
class ScriptedFunction(Toy):
    def forward(self, x):
        return self.b(scripted(self.a(x)))


@seen
def ScriptedRoot():
    return torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, w):
        return w + w.tanh()


@graph
def Parametrized():
    toy = Toy()
    parametrize.register_parametrization(toy.a, "weight", Doubled())
    return toy


@graph
def WeightNorm():
    toy = Toy()
    parametrizations.weight_norm(toy.a)
    return toy


@graph
def SpectralNorm():
    toy = Toy()
    parametrizations.spectral_norm(toy.a)
    return toy


@graph
def OldWeightNorm():
    toy = Toy()
    nn.utils.weight_norm(toy.a)
    return toy


@seen
def OldWeightNormAfterCall():
    toy = Toy()
    nn.utils.weight_norm(toy.a)
    toy(torch.randn(2, 4))  # now deepcopy refuses
    return toy


class Own(nn.Linear):
    """A layer of one's own that derives from torch.nn."""

    def forward(self, x):
        w = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, w, self.bias)


@graph
class OwnLayer(Toy):
    def setup(self):
        self.a = Own(4, 4)


@trap("graph", args=tokens)
class Recurrent(Toy):
    def setup(self):
        self.rnn = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        y, (h, _) = self.rnn(self.a(x))
        return self.b(self.out(y)), h


@trap("graph", args=tokens)
class Attention(Toy):
    def setup(self):
        self.attn = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)

    def forward(self, x):
        y, weights = self.attn(x, x, self.a(x), need_weights=True)
        return self.b(y), weights


@trap("graph", args=tokens)
class Encoder(Toy):
    def setup(self):
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.b(self.encoder(self.a(x)))


@seen
class Lazy(Toy):
    def setup(self):
        self.b = nn.LazyLinear(3)


@graph
class Listed(Toy):
    def setup(self):
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.heads = nn.ModuleDict({"one": nn.Linear(4, 2), "two": nn.Linear(4, 3)})

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x) * i
        x = self.layers[-1](x) + sum(layer(x) for layer in self.layers[:2])
        return {name: head(x) for name, head in self.heads.items()}, self.heads["one"](x)


@graph
class SlicedSequential(Toy):
    def setup(self):
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        return self.b(self.body[2:](self.body[:2](x)) + self.body[0](x))


@graph
class ParameterDirect(Toy):
    def setup(self):
        self.scale = nn.Parameter(torch.randn(4))
        self.steps = nn.ParameterList([torch.randn(4) for _ in range(3)])

    def forward(self, x):
        y = F.linear(x, self.a.weight.mT, self.a.bias) * self.scale
        for step in self.steps:
            y = y + step
        return y @ self.steps[1].diag() + self.a.in_features


@graph
class TensorAttribute(Toy):
    def setup(self):
        self.shift = torch.randn(4)

    def forward(self, x):
        return self.b(self.a(x) + self.shift) * CONSTANT


@seen
class ReturnsParameter(Toy):
    def forward(self, x):
        return self.a.weight, self.b(x), self.a.bias


class Windows(nn.Module):
    """Returns sizes beside the tensor."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, 2)

    def forward(self, x):
        y = self.conv(x)
        return y.flatten(2).transpose(1, 2), y.shape[-2], y.shape[-1]


@trap("graph", args=images, others=lambda: [((torch.randn(2, 3, 8, 4),), {})])
class SizesFromChild(Toy):
    def setup(self):
        self.embed = Windows()

    def forward(self, x):
        y, h, w = self.embed(x)
        return self.b(self.a(y)).transpose(1, 2).reshape(x.shape[0], 4, h, w)


class Lazily(nn.Module):
    def forward(self, x):
        return (part for part in x.chunk(2, 1))


@seen
class GeneratorFromChild(Toy):
    def setup(self):
        self.split = Lazily()

    def forward(self, x):
        return self.b(torch.cat([torch.tanh(p) for p in self.split(self.a(x))], 1))


class Encodes(Toy):
    def encode(self, x):
        return torch.tanh(self.a(x))


@seen
class ChildMethod(Toy):
    def setup(self):
        self.inner = Encodes()

    def forward(self, x):
        return self.b(self.inner.encode(x)) + self.inner.a.forward(x)


@seen
class Recursive(Toy):
    def forward(self, x, depth=2):
        return self.b(x) if depth == 0 else self(self.a(x), depth - 1)


@seen
class ModuleArgument(Toy):
    def setup(self):
        self.inner = Applies()

    def forward(self, x):
        return self.inner(self.b, self.a(x))


class Applies(nn.Module):
    def forward(self, f, x):
        return f(x)


@seen
class OverriddenCall(Toy):
    def __call__(self, x):
        return 2 * super().__call__(x + 1)


@seen
class OverriddenGetattr(Toy):
    def __getattr__(self, name):
        return super().__getattr__("a" if name == "alias" else name)

    def forward(self, x):
        return self.b(self.alias(x))


@graph
class CallsSuper(Toy):
    def forward(self, x):
        return super().forward(x) + self.a(x)


@graph
class NestedBlocks(Toy):
    def setup(self):
        self.blocks = nn.Sequential(CallsSuper(), FunctionalDropout(), Plain())

    def forward(self, x):
        return self.b(self.blocks(self.a(x)))


@seen
class OneOpaqueChild(Toy):
    def setup(self):
        self.inner = DataBranch()

    def forward(self, x):
        return self.b(self.inner(self.a(x)))


# -- arguments and outputs -------------------------------------------------------------------------


@trap(
    "graph",
    kwargs=lambda b: {"shift": torch.randn(b, 1)},
    others=lambda: [(rows(2), {}), (rows(2), {"scale": 3.0}), ((*rows(2), torch.randn(1), 2), {})],
)
class Keywords(Toy):
    def forward(self, x, shift=None, scale=1.0, *, flag=True):
        y = self.a(x) * scale
        if shift is not None:
            y = y + shift
        return self.b(y) if flag else y


@trap("graph", args=lambda b: (torch.randn(b, 4), None), others=lambda: [(rows(2) + rows(2), {})])
class NoneArgument(Toy):
    def forward(self, x, mask):
        return self.b(self.a(x)) if mask is None else self.b(self.a(x) * mask)


@trap(
    "graph",
    args=lambda b: (torch.randn(b, 4), True, "sum", 2),
    others=lambda: [
        ((*rows(2), False, "sum", 2), {}),
        ((*rows(2), True, "mean", 1), {}),
        ((*rows(2), True, "max", 0), {}),
        ((*rows(2), 1, "sum", True), {}),
    ],
)
class StaticArguments(Toy):
    def forward(self, x, flag, how, n):
        for _ in range(n):
            x = self.a(x)
        x = self.b(x) if flag is True else x
        if how not in ("sum", "mean"):
            raise ValueError(f"how must be 'sum' or 'mean', not {how!r}")
        return x.sum(1) if how == "sum" else x.mean(1)


@trap(
    args=lambda b: ([torch.randn(b, 4), torch.randn(b, 4)],), others=lambda: [(([*rows(2)],), {})]
)
class ListInput(Toy):
    def forward(self, xs):
        return self.b(sum(self.a(x) for x in xs)), len(xs)


@trap(
    "graph",
    args=lambda b: ({"x": torch.randn(b, 4), "more": {"y": torch.randn(b, 4)}},),
    others=lambda: [(({"x": torch.randn(2, 4)},), {})],
)
class DictInput(Toy):
    def forward(self, batch):
        y = self.a(batch["x"])
        return self.b(y + batch["more"]["y"]) if "more" in batch else self.b(y)


@trap(args=lambda b: (torch.randn(b, 4), []), others=lambda: [((*rows(2), [1.0]), {})])
class MutatesArgument(Toy):
    def forward(self, x, log):
        log.append(float(x.shape[0]))
        return self.b(self.a(x)) * len(log)


@trap(args=lambda b: (torch.randn(b, 4), SimpleNamespace(keys=None, scale=2.0)))
class ObjectArgument(Toy):
    def forward(self, x, cache):
        y = self.a(x)
        cache.keys = y if cache.keys is None else torch.cat([cache.keys, y])
        return self.b(cache.keys) * cache.scale


@trap(
    "graph",
    args=lambda b: (torch.randint(9, (b, 5)),),
    kwargs=lambda b: {"labels": torch.randint(4, (b,))},
    others=lambda: [((torch.randint(9, (2, 7)),), {})],
)
class LossInside(Toy):
    def setup(self):
        self.embed = nn.Embedding(9, 4)

    def forward(self, ids, labels=None):
        logits = self.b(self.a(self.embed(ids)).mean(1))
        return {
            "loss": None if labels is None else F.cross_entropy(logits, labels),
            "logits": logits,
        }


@trap("graph", others=lambda: [((torch.randn(2, 4), torch.randn(2, 4)), {"scale": 2.0})])
class VariableArguments(Toy):
    def forward(self, *xs, **options):
        return self.b(sum(self.a(x) for x in xs)) * options.get("scale", 1.0)


class Pair(NamedTuple):
    y: Tensor
    z: Tensor | None


@dataclass
class Found:
    y: Tensor
    name: str = "found"
    z: Tensor | None = None


class Output(OrderedDict):
    """A dictionary that also answers to attributes."""

    def __getattr__(self, name):
        return self[name]


@graph
class DictOutput(Toy):
    def forward(self, x):
        y = self.a(x)
        return {"y": y, "rest": (self.b(y), [y.sum(), None]), "n": 3}


@seen
class NamedTupleOutput(Toy):
    def forward(self, x):
        return Pair(self.b(self.a(x)), None)


@seen
class DataclassOutput(Toy):
    def forward(self, x):
        return Found(self.b(self.a(x)))


@seen
class OutputOfChild(Toy):
    def setup(self):
        self.one, self.two, self.three = NamedTupleOutput(), DataclassOutput(), OwnMapping()

    def forward(self, x):
        more = self.three(x)
        return self.b(self.one(x).y + self.two(x).y + more.y + more["y"])


class OwnMapping(Toy):
    def forward(self, x):
        return Output(y=self.b(self.a(x)))


seen(OwnMapping)


@graph
class MaxOutput(Toy):
    def forward(self, x):
        y = self.a(x).max(1)
        return self.b(x) * y.values[:, None], y.indices, None, torch.topk(x, 2)[1]


@graph
class ReturnsInput(Toy):
    def forward(self, x):
        return x


@seen
class IgnoresInput(Toy):
    def forward(self, x):
        return self.a(torch.ones(2, 4, dtype=self.a.weight.dtype))


@seen
class ReturnsNothing(Toy):
    def forward(self, x):
        self.a(x)


# -- aliases, in place -----------------------------------------------------------------------------


@graph
class InPlaceActivation(Toy):
    def forward(self, x):
        y = self.a(x)
        y += 1
        y.mul_(2).relu_()
        y[:, 0] = 0
        y[y > 3] = 3
        y[:, 1:3] *= 0.5
        return self.b(y)


@seen
class InPlaceInput(Toy):
    def forward(self, x):
        x.mul_(2)
        x[:, 0] = 1
        return self.b(self.a(x))


@seen
class InPlaceModule(Toy):
    def setup(self):
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.a(x)
        return self.b(self.act(y)) + y


@graph
class AliasedViews(Toy):
    def forward(self, x):
        y = self.a(x)
        left, right = y[:, :2], y[:, 2:]
        z = y.view(-1)
        left.add_(1)
        z[:2].zero_()
        return self.b(y + 0), right, y.t(), y


@graph
class EinopsFunctions(Toy):
    def setup(self):
        self.fold = Rearrange("b h c -> b (h c)")

    def forward(self, x):
        y = rearrange(self.a(x), "b (h c) -> b h c", h=2)
        return self.b(self.fold(y)) + reduce(y, "b h c -> b 1", "mean")


@seen
class Vmapped(Toy):
    def forward(self, x):
        return self.b(torch.func.vmap(lambda row: self.a(row).tanh())(x))


@seen
class GradInside(Toy):
    def forward(self, x):
        return self.b(torch.func.grad(lambda y: self.a(y).tanh().sum())(x))


@seen
class AutogradInside(Toy):
    def forward(self, x):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            force = torch.autograd.grad(self.a(y).tanh().sum(), y, create_graph=self.training)[0]
        return self.b(force)


# -- hooks -----------------------------------------------------------------------------------------


def doubles(module, args, output):
    """A forward hook."""
    LOG.append("hook")
    return 2 * output


def shifts(module, args):
    """A forward pre-hook."""
    LOG.append("before")
    return (args[0] + 1,)


class Stateful:
    """A hook that remembers; a deep copy of the module copies it."""

    def __init__(self):
        self.calls = 0

    def __call__(self, module, args, output):
        self.calls += 1
        return output * self.calls


def hooked(*hooks: tuple[str, str, object]) -> nn.Module:
    """Two toys, one inside the other, with hooks (kind, where, function)."""
    toy = Toy()
    toy.a = Plain()
    for kind, where, function in hooks:
        getattr(toy.get_submodule(where), f"register_{kind}")(function)
    return toy


@seen
def HookOnRoot():
    return hooked(("forward_hook", "", doubles), ("forward_pre_hook", "", shifts))


@seen
def HookOnChildContainer():
    return hooked(("forward_hook", "a", doubles), ("forward_pre_hook", "a", shifts))


@seen
def HookOnLeaf():
    return hooked(("forward_hook", "a.b", doubles), ("forward_pre_hook", "b", shifts))


@seen
def StatefulHook():
    return hooked(("forward_hook", "a", Stateful()), ("forward_hook", "b", Stateful()))


@seen
def BackwardHook():
    return hooked(
        ("full_backward_hook", "a", lambda m, i, o: (3 * i[0],)),
        ("full_backward_pre_hook", "b", lambda m, o: (2 * o[0],)),
    )


@trap(after=lambda m: (m.a.register_forward_hook(doubles), m.a.b.register_forward_hook(doubles)))
def HookAddedLater():
    return hooked()


# -- what changes after capture --------------------------------------------------------------------


@trap("graph", after=lambda m: setattr(m, "recompute", True))
class FlagToggled(Toy):
    recompute = False

    def setup(self):
        self.recompute = False
        self.inner = Counting()

    def forward(self, x):
        if self.recompute and self.training:
            return self.b(checkpoint(self.inner, x, use_reentrant=False))
        return self.b(self.inner(x))


@trap("graph", after=lambda m: setattr(m.inner, "scale", 5.0))
class ChildFlagToggled(Toy):
    def setup(self):
        self.inner = Toy()
        self.inner.scale = 2.0

    def forward(self, x):
        return self.inner(x) * self.inner.scale


@trap(after=lambda m: setattr(m.config, "scale", 5.0))
class ConfigToggled(Toy):
    def setup(self):
        self.config = SimpleNamespace(scale=2.0)

    def forward(self, x):
        return self.b(self.a(x)) * self.config.scale if self.config.scale else self.a(x)


@trap(after=lambda m: m.scales.append(7.0))
class ListToggled(Toy):
    def setup(self):
        self.scales = [1.0, 2.0]

    def forward(self, x):
        for scale in self.scales:
            x = self.a(x) * scale
        return self.b(x)


@trap(after=lambda m: setattr(m, "act", F.gelu))
class FunctionToggled(Toy):
    def setup(self):
        self.act = F.relu

    def forward(self, x):
        return self.b(self.act(self.a(x)))


@trap(after=lambda m: setattr(m, "_scale", 5.0))
class PropertyToggled(Toy):
    def setup(self):
        self._scale = 2.0

    @property
    def scale(self):
        return self._scale + 1

    def forward(self, x):
        return self.b(self.a(x)) * self.scale


@trap(after=lambda m: setattr(m, "shift", m.shift * 3))
class TensorRebound(TensorAttribute):
    pass


@trap(after=lambda m: m.shift.mul_(3))
class TensorWritten(TensorAttribute):
    pass


@trap(after=lambda m: setattr(m, "scale", None))
class BufferRemoved(Toy):
    def setup(self):
        self.register_buffer("scale", torch.ones(4) * 3)

    def forward(self, x):
        return self.b(self.a(x)) if self.scale is None else self.b(self.a(x) * self.scale)


@trap("graph", after=lambda m: setattr(m, "b", nn.Linear(4, 7, dtype=m.a.weight.dtype)))
class ChildReplaced(Toy):
    pass


@trap("graph", after=lambda m: setattr(m, "extra", None))
class ChildRemoved(Toy):
    def setup(self):
        self.extra = nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x)) if self.extra is None else self.b(self.extra(x))


@trap("graph", after=lambda m: m.layers.append(nn.Linear(4, 4)))
class ListExtended(Toy):
    def setup(self):
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.b(x)


@trap("graph", after=lambda m: (m.body.append(nn.Linear(4, 4)), m.body.pop(0)))
class SequentialChanged(Toy):
    def setup(self):
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return self.b(self.body(self.a(x)))


@trap(
    "graph",
    after=lambda m: (parametrize.register_parametrization(m.a, "weight", Doubled()), m.b.eval()),
)
class ParametrizedLater(Toy):
    pass


@trap("graph", after=lambda m: (setattr(m.a, "bias", None), m.b.requires_grad_(False)))
class ParameterRemoved(Toy):
    def forward(self, x):
        return self.b(self.a(x)) + (0 if self.a.bias is None else self.a.bias)


@trap("graph", after=lambda m: m.register_parameter("w", nn.Parameter(torch.ones(4))))
class ParameterAdded(Toy):
    def forward(self, x):
        return self.b(self.a(x)) * getattr(self, "w", 1.0)


@trap(after=lambda m: setattr(m, "forward", lambda x: m.a(x)))
class ForwardSetLater(Toy):
    pass


class ForwardOnInstance(Toy):
    def setup(self):
        self.forward = self.other

    def other(self, x):
        return self.a(self.b(x))


seen(ForwardOnInstance)
