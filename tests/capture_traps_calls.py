"""Arguments and outputs, aliases, writes in place, hooks, and what changes after capture."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from capture_traps import LOG, Toy, graph, rows, seen, trap
from capture_traps_children import Doubled, TensorAttribute
from capture_traps_modes import Counting, Plain
from einops import rearrange, reduce
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

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
