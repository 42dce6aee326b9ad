"""Children: shared, scripted, replaced, made on the way, and what they return."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from capture_traps import CONSTANT, Toy, graph, images, seen, tokens, trap
from capture_traps_modes import FunctionalDropout, Plain
from capture_traps_questions import DataBranch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

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
