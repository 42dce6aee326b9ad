"""Questions of type, of data and of shape."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from capture_traps import Toy, graph, images, seen, tokens, trap
from torch import Tensor, nn

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
