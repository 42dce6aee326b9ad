"""More traps: sizes as numbers, objects that are one and the same on the example, what children
answer, questions to the interpreter. Each is right on the example and wrong on another call."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from capture_traps import Toy, graph, images, rows, seen, tokens, trap
from capture_traps_children import Doubled
from capture_traps_modes import Plain
from torch import Tensor, is_grad_enabled, nn

OPTIONS = {"scale": 1.0}  # a switch of a whole program

# -- sizes as numbers ------------------------------------------------------------------------------


@seen
class TypeOfSize(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if type(x.shape[0]) is int else self.a(x)


@seen
class TypeOfShape(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if isinstance(x.shape, torch.Size) else self.a(x)


@seen
class SizeTimesTensor(Toy):
    def forward(self, x):
        y = x.shape[0] * self.a(x) - (x.shape[0] > 2 * x).to(x.dtype)
        return self.b(len(x) - y) / x.size(0)


@seen
class SizeTimesOthers(Toy):
    def forward(self, x):
        b = x.shape[0]
        y = torch.cat(b * [self.a(x[:1])]) * (b * True) * abs(b * 1j) + len(b * "ab")
        return self.b(y) * np.float32(2) * (b * np.float64(2.0)) + np.prod(x.shape).item()


@graph
class ShapeAlgebra(Toy):
    def forward(self, x):
        y = self.a(x).reshape((1, *x.shape[1:], x.shape[0])).reshape((-1,) + x.shape[1:])  # noqa: RUF005
        y = y.expand(torch.broadcast_shapes(x.shape, y.shape)) + sum(x.shape) + x.shape.numel()
        return self.b(y) + torch.tensor(x.shape).sum() + math.prod(x.shape[:-1]) + min(x.shape)


@seen
class ShapeMethods(Toy):
    def forward(self, x):
        at = x.shape.index(4) + 2 * list(x.shape).count(1) + sorted(x.shape)[0]
        return self.b(self.a(x)) * at + hash(x.shape) % 7 + (x.shape == torch.Size([2, 4]))


@graph
class ReturnsShape(Toy):
    def forward(self, x):
        b = x.shape[0]
        return self.a(x), x.shape, b, 2.0 * b, {"size": (b // 2, -b)}, x.shape[1:], x.numel()


@functools.lru_cache
def half(n: int) -> int:
    """A cached number."""
    return n // 2


@seen
class CachedSize(Toy):
    def forward(self, x):
        return self.b(self.a(x)), half(x.shape[0])


SIZES: dict[int, int] = {}


@seen
class SizeKeptOutside(Toy):
    def forward(self, x):
        SIZES.setdefault(x.shape[1], x.shape[1])
        return self.b(self.a(x)), SIZES[4], next(iter(SIZES))


@trap("graph", args=tokens, others=lambda: [((torch.randn(2, 8, 4),), {})])
class SizeInText(Toy):
    def forward(self, x):
        table = {5: "b n c -> b c", 8: "b n c -> b n"}
        return torch.einsum(table[x.shape[1]], self.a(x))


@seen
class SqueezedRank(Toy):
    def forward(self, x):
        y = self.a(x).squeeze(0)
        return self.b(y).sum(0) if y.dim() == 1 else self.b(y)


@seen
class SqueezedUnpack(Toy):
    def forward(self, x):
        *lead, c = self.a(x).squeeze(0).shape
        return self.b(x) * len(lead) + c


@seen
class NumberOfParts(Toy):
    def forward(self, x):
        return sum(self.b(self.a(part)).sum() for part in x.split(1))


@seen
class NumberOfChunks(Toy):
    def forward(self, x):
        return self.b(torch.cat([self.a(p) * i for i, p in enumerate(x.chunk(2))]))


@seen
class ViewOrElse(Toy):
    def forward(self, x):
        try:
            y = self.a(x).view(3, -1)
        except RuntimeError:
            y = self.b(x)
        return y + 1


@seen
class AsksHasattr(Toy):
    def forward(self, x):
        y = self.a(x)
        return self.b(y) if hasattr(y, "grad_fn") and y.grad_fn is not None else y


@graph
class MaskedByLimits(Toy):
    def forward(self, x):
        y = self.a(x).masked_fill(x > 0, torch.finfo(x.dtype).min)
        return self.b(y.softmax(-1)), torch.zeros((), dtype=torch.result_type(y, 2))


@trap("graph", args=lambda b: (torch.randn(b, 4), 2, 0.5))
class NumberArguments(Toy):
    def forward(self, x, n, p):
        return self.b(self.a(x) / n)[:, : n + 1] * p**n


@trap(args=lambda b: (torch.randn(b, 4), 2), others=lambda: [((*rows(2), v), {}) for v in NUMBERS])
class TypeOfNumber(Toy):
    def forward(self, x, n):
        if isinstance(n, (float, bool)):
            return self.a(x) * n
        return self.b(torch.full_like(x, n) + torch.tensor(n).to(x.dtype) + x // n)


NUMBERS = (3, 2.0, True, np.int64(2), -1, float("nan"))


@trap(args=lambda b: (torch.randn(b, 4), [2, 0.5, None], (True, "b")), others=lambda: [MANY])
class NestedPlain(Toy):
    def forward(self, x, ns, how):
        y = self.a(x) * ns[0] + ns[1]
        return self.b(y) if how[0] and ns[2] is None else y[:, : ns[0]]


MANY = ((torch.ones(2, 4), [1, 2.5, "x"], (False, "c")), {})

# -- guards that come too late ---------------------------------------------------------------------


@trap(args=images, others=lambda: [((torch.randn(2, 3, 8, 8),), {})])
class LateQuestion(nn.Module):
    """The answer depends on an inner shape, asked after statistics moved and numbers were drawn."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        y = self.drop(self.norm(self.conv(x)))
        return y.mean((2, 3)) if y.shape[-1] > 2 else y.amax((2, 3))


@seen
class LateQuestionInPlace(Toy):
    def forward(self, x):
        x.mul_(2)
        y = self.a(x)
        return self.b(y) if len(y) % 2 else y


# -- one and the same on the example ---------------------------------------------------------------


def same_twice(b: int) -> tuple[Tensor, Tensor]:
    """(x, x)."""
    return (torch.randn(b, 4),) * 2


@trap(args=same_twice, others=lambda: [((*rows(2), *rows(2)), {})])
class SameTensorTwice(Toy):
    def forward(self, x, y):
        return self.a(x) * self.b(y)


@trap(args=lambda b: (torch.randn(b, 4), torch.randn(b, 4)))
class SelfThenCross(Toy):
    def setup(self):
        self.inner = SameTensorTwice()

    def forward(self, x, y):
        return self.inner(self.a(x), y) + self.inner(x, x)


@seen
class ParameterAsInput(Toy):
    def forward(self, x):
        return self.b(x) + F.linear(x, self.a.weight) if x is not self.a.weight else x


@seen
class SameObject(Toy):
    def forward(self, x):
        y = torch.relu(x) if self.training else x
        return self.a(x) if y is x else self.b(y)


@trap(args=tokens, others=lambda: [((torch.randn(4, 5, 2).transpose(0, 2),), {})])
class ContiguousAlias(Toy):
    def forward(self, x):
        y = x.contiguous()
        y.mul_(3)
        return self.a(x) + self.b(y)


@trap(after=lambda m: setattr(m, "skip", nn.ReLU()))
class IdentityReplaced(Toy):
    def setup(self):
        self.skip = nn.Identity()

    def forward(self, x):
        y = self.a(x)
        return self.b(self.skip(y)) + y


@seen
class FloatAlias(Toy):
    def forward(self, x):
        y = self.a(x)
        z = y.float()
        return z.sum() + self.b(y), z, y


class Pads(nn.Module):
    """The input itself where nothing is missing."""

    def forward(self, x):
        n = -x.shape[1] % 5
        return F.pad(x, (0, 0, 0, n)) if n else x


@trap(args=tokens, others=lambda: [((torch.randn(2, 7, 4),), {})])
class PadsInChild(Toy):
    def setup(self):
        self.pad = Pads()

    def forward(self, x):
        y = self.a(self.pad(x))
        return self.b(y)[:, : x.shape[1]] + x


class Writes(torch.autograd.Function):
    """x → 2x, in place."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, grad):
        return 5 * grad


@seen
class FunctionInPlace(Toy):
    def forward(self, x):
        y = self.a(x).clone()
        Writes.apply(y)
        return self.b(y)


@torch.jit.script
def scripted_write(x: Tensor):
    x.mul_(3)


@seen
class ScriptInPlace(Toy):
    def forward(self, x):
        y = self.a(x).clone()
        scripted_write(y)
        return self.b(y)


@seen
class NumpyInPlace(Toy):
    def forward(self, x):
        y = torch.ones(4)
        np.asarray(y.data)[1:] = 5.0
        return self.b(self.a(x) * y)


@seen
class DataSwapped(Toy):
    def forward(self, x):
        y = self.a(x)
        y.data = y.data * 2
        return self.b(y)


@seen
class GradientHook(Toy):
    def forward(self, x):
        y = self.a(x)
        y.register_hook(lambda g: 3 * g)
        return self.b(y)


@seen
class Dispatched(Toy):
    def forward(self, x):
        y = torch.ops.aten.mul.Tensor(self.a(x), 2.0)
        return self.b(torch.ops.aten.relu(y) + torch._C._nn.gelu(y))


# -- what children answer --------------------------------------------------------------------------


class Answers(nn.Module):
    """Returns what `answer(x)` says beside a layer's output."""

    def __init__(self, answer):
        super().__init__()
        self.layer, self.answer = nn.Linear(4, 4), answer

    def forward(self, x):
        return self.layer(x), self.answer(x)


def answering(answer, use):
    """A parent that uses a child's second output."""

    class Parent(Toy):
        def setup(self):
            self.inner = Answers(answer)

        def forward(self, x):
            y, found = self.inner(self.a(x))
            return self.b(use(y, found))

    return Parent()


@seen
def BoolFromChild():
    return answering(lambda x: len(x) > 2, lambda y, flag: y + 1 if flag else y - 1)


@seen
def NoneFromChild():
    return answering(lambda x: None if len(x) == 2 else x, lambda y, z: y if z is None else y + z)


@seen
def NoneOnceFromChild():
    return answering(lambda x: x if len(x) == 2 else None, lambda y, z: y if z is None else y + z)


@seen
def TextFromChild():
    return answering(lambda x: "ab" if len(x) == 2 else "c", lambda y, name: y * len(name))


@seen
def ListFromChild():
    return answering(lambda x: [x * i for i in range(len(x))], lambda y, parts: y + sum(parts))


@seen
def DictFromChild():
    return answering(
        lambda x: {"x": x} if len(x) == 2 else {"x": x, "y": x}, lambda y, d: y + sum(d.values())
    )


@seen
def NumberFromChild():
    return answering(lambda x: len(x) / 2, lambda y, p: y * p)


@seen
def DataFromChild():
    return answering(lambda x: x.detach().abs().sum().item(), lambda y, p: y * p)


@seen
def ObjectFromChild():
    return answering(lambda x: SimpleNamespace(n=len(x), x=x), lambda y, s: y * s.n + s.x)


@seen
def FunctionFromChild():
    return answering(lambda x: lambda y: y * len(x), lambda y, f: f(y))


@seen
def DtypeFromChild():
    return answering(lambda x: x.dtype, lambda y, t: y * torch.ones(4, dtype=t))


class KeepsGrid(nn.Module):
    """Writes down the size for others to read."""

    def __init__(self):
        super().__init__()
        self.layer, self.grid = nn.Linear(4, 4), 0

    def forward(self, x):
        self.grid = x.shape[0]
        return self.layer(x)


@seen
class ReadsGridOfChild(Toy):
    def setup(self):
        self.embed = KeepsGrid()

    def forward(self, x):
        y = self.embed(self.a(x))
        return self.b(y) * self.embed.grid


class Collects(nn.Module):
    """Appends to its caller's list."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, log):
        log.append(x.shape[0])
        return self.layer(x)


@seen
class ListPassedDown(Toy):
    def setup(self):
        self.inner = Collects()

    def forward(self, x):
        log = []
        y = self.inner(x, log)
        return self.b(y) * log[0] * len(log)


class Keys:
    """A cache of keys, as language models hand it down."""

    def __init__(self):
        self.parts = []

    def update(self, x):
        self.parts.append(x)
        return torch.cat(self.parts, -1)


class UsesCache(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, cache=None):
        y = self.layer(x)
        return y if cache is None else cache.update(y).mean(-1, keepdim=True) * y


@trap(kwargs=lambda b: {"cache": None}, others=lambda: [(rows(2), {"use": False})])
class CachePassedDown(Toy):
    def setup(self):
        self.one, self.two = UsesCache(), UsesCache()

    def forward(self, x, cache=None, use=True):
        if use and cache is None:
            cache = Keys()
        y = self.two(self.one(self.a(x), cache=cache), cache=cache)
        return self.b(y), cache


@seen
class InPlaceInChild(Toy):
    def setup(self):
        self.inner = InPlace()

    def forward(self, x):
        y = self.a(x)
        self.inner(y)
        return self.b(y)


class InPlace(nn.Module):
    def forward(self, x):
        x.mul_(2)


@seen
class ChildRaises(Toy):
    def setup(self):
        self.inner = Refuses()

    def forward(self, x):
        try:
            y = self.inner(x)
        except ValueError:
            y = self.b(x)
        return self.a(y)


class Refuses(nn.Module):
    def forward(self, x):
        if len(x) == 2:
            raise ValueError("not two")
        return x * 2


# -- questions to the interpreter ------------------------------------------------------------------


@seen
class AsksForGradModeByName(Toy):
    def forward(self, x):
        return self.b(self.a(x)) if is_grad_enabled() else self.a(x)


@seen
class AsksInferenceMode(Toy):
    def forward(self, x):
        return self.a(x) if torch.is_inference_mode_enabled() else self.b(x)


@seen
class AsksDefaultDtype(Toy):
    def forward(self, x):
        return self.b(self.a(x)) * (2 if torch.get_default_dtype() == torch.float64 else 3)


@seen
class DeviceContext(Toy):
    def forward(self, x):
        with torch.device("cpu"):
            shift = torch.ones(4)
        return self.b(self.a(x) + shift)


@seen
class ForkedGenerator(Toy):
    def forward(self, x):
        with torch.random.fork_rng():
            noise = torch.randn(4)
        return self.b(self.a(x) + noise)


@seen
class SeedsItself(Toy):
    def forward(self, x):
        torch.manual_seed(len(x))
        return self.b(self.a(x) + torch.randn(4))


@seen
class DefaultDtypeContext(Toy):
    def forward(self, x):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        y = torch.ones(4)
        torch.set_default_dtype(before)
        return self.b(self.a(x)) * y


@seen
class SavedTensorHooks(Toy):
    def forward(self, x):
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t)
        with hooks:
            y = torch.tanh(self.a(x))
        return self.b(y)


@seen
class KernelContext(Toy):
    def forward(self, x):
        q = self.a(x)[:, None, None]
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            y = F.scaled_dot_product_attention(q, q, q)
        return self.b(y[:, 0, 0])


# -- later changes of which a plan must hear -------------------------------------------------------


@trap(after=lambda m: m.add_module("c", nn.Linear(4, 4)))
class NamedChildren(Toy):
    def forward(self, x):
        for _, layer in self.named_children():
            x = torch.tanh(layer(x))
        return x


@trap(after=lambda m: setattr(m, "scale", 4.0))
class AsksHasattrOfSelf(Toy):
    def forward(self, x):
        return self.b(self.a(x)) * self.scale if hasattr(self, "scale") else self.a(x)


@trap(after=lambda m: setattr(m, "scale", 4.0))
class ReadsOwnDict(Toy):
    def setup(self):
        self.scale = 2.0

    def forward(self, x):
        return self.b(self.a(x)) * self.__dict__["scale"] * vars(self).get("scale")


@trap(after=lambda m: setattr(next(c for c in type(m).__mro__ if "scale" in vars(c)), "scale", 4.0))
def ClassFlag():
    class Flagged(Toy):
        scale = 2.0

        def forward(self, x):
            return self.b(self.a(x)) * self.scale

    return Flagged()


@trap(after=lambda m: setattr(m, "choose", lambda x: x - 5))
class MethodReplaced(Toy):
    def choose(self, x):
        return x + 1

    def forward(self, x):
        return self.b(self.choose(self.a(x)))


@trap(after=lambda m: m.table.update(k=5.0))
class DictToggled(Toy):
    def setup(self):
        self.table = {"k": 2.0}

    def forward(self, x):
        return self.b(self.a(x)) * self.table["k"]


@trap(after=lambda m: m.tables.__setitem__(1, torch.ones(4) * 9))
class TensorsInList(Toy):
    def setup(self):
        self.tables = [torch.ones(4), torch.ones(4) * 2]

    def forward(self, x):
        return self.b(self.a(x) * self.tables[0]) + self.tables[1]


@trap(after=lambda m: OPTIONS.update(scale=3.0))
class GlobalFlag(Toy):
    def forward(self, x):
        return self.b(self.a(x)) * OPTIONS["scale"]


@trap(after=lambda m: (m.b.train(), m.requires_grad_(False), m.a.weight.requires_grad_(True)))
class FrozenLater(Toy):
    def forward(self, x):
        y = self.a(x)
        return self.b(y) if self.b.weight.requires_grad else y


@trap(after=lambda m: (setattr(m.inner, "a", m.b), setattr(m, "b", nn.Linear(4, 4))))
class SharedLater(Toy):
    def setup(self):
        self.inner = Plain()

    def forward(self, x):
        return self.b(self.inner(self.a(x)))


@trap(after=lambda m: nn.utils.parametrize.register_parametrization(m, "w", Doubled()))
class OwnParameterParametrizedLater(Toy):
    def setup(self):
        self.w = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.b(self.a(x)) * self.w
