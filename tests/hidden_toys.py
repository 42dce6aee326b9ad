"""Small networks, each with one thing that hidden channels meet: a name, a net, a signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOYS: dict[str, Toy] = {}


class Toy(NamedTuple):
    """How to build it, its input's side and channels, and its signature."""

    build: Callable[[], nn.Module]
    side: int
    channels: int
    pattern: str


class Do(nn.Module):
    """A function of a module with these parts."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def toy(pattern: str = "b c h w -> b k", side: int = 9, channels: int = 3) -> Any:
    """Enter the network that a function builds under the function's name."""

    def enter(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        TOYS[build.__name__] = Toy(build, side, channels, pattern)
        return build

    return enter


def conv(i: int, o: int, k: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the grid."""
    return nn.Conv2d(i, o, k, **{"padding": k // 2, **options})


def pooled(x: Tensor) -> Tensor:
    """The mean over pixels."""
    return x.mean((2, 3))


def chain(*layers: nn.Module, last: int) -> nn.Sequential:
    """Layers, a pool and a head."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 5))


def around(function: Callable[[Tensor], Tensor], wide: int, out: int) -> nn.Module:
    """A convolution, a function of its channels, a head."""
    return Do(
        lambda m, x: m.h(pooled(function(m.a(x).relu()))), a=conv(3, wide), h=nn.Linear(out, 5)
    )


def parameter(*shape: int) -> nn.Parameter:
    """Random entries."""
    return nn.Parameter(torch.randn(shape))


def tokens(x: Tensor) -> Tensor:
    """`b c h w -> b (h w) c`."""
    return x.flatten(2).transpose(1, 2)


# -- layers ----------------------------------------------------------------------------------------

CHAINS = {
    "plain": lambda: chain(conv(3, 16), nn.ReLU(), conv(16, 24), nn.GELU(), last=24),
    "no bias": lambda: chain(
        conv(3, 16, bias=False), nn.ReLU(), conv(16, 8, bias=False), nn.ReLU(), last=8
    ),
    "not divisible": lambda: chain(
        conv(3, 10), nn.ReLU(), conv(10, 16), nn.SiLU(), conv(16, 7), nn.ReLU(), last=7
    ),
    "batch norm": lambda: chain(
        conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), nn.BatchNorm2d(16, affine=False), last=16
    ),
    "group norm": lambda: chain(conv(3, 32), nn.GroupNorm(4, 32), nn.ReLU(), last=32),
    "group norm of small groups": lambda: chain(
        conv(3, 32), nn.GroupNorm(16, 32), nn.ReLU(), conv(32, 16), nn.ReLU(), last=16
    ),
    "instance norm": lambda: chain(
        conv(3, 16), nn.InstanceNorm2d(16, affine=True), nn.ReLU(), last=16
    ),
    "prelu": lambda: chain(conv(3, 16), nn.PReLU(16), conv(16, 16), nn.PReLU(), last=16),
    "depthwise": lambda: chain(
        conv(3, 16), nn.ReLU(), conv(16, 16, groups=16), nn.ReLU(), conv(16, 8, 1), last=8
    ),
    "depth multiplier": lambda: chain(conv(3, 16), nn.ReLU(), conv(16, 32, groups=16), last=32),
    "grouped": lambda: chain(
        conv(3, 32), nn.ReLU(), conv(32, 64, groups=4), nn.ReLU(), conv(64, 16, 1), last=16
    ),
    "grouped input": lambda: chain(conv(3, 48, groups=3), nn.ReLU(), last=48),
    "channel shuffle": lambda: chain(
        conv(3, 32), nn.ChannelShuffle(4), nn.ReLU(), conv(32, 16), nn.ReLU(), last=16
    ),
    "glu": lambda: chain(conv(3, 32), nn.GLU(1), conv(16, 16), nn.ReLU(), last=16),
    "circular and reflecting": lambda: chain(
        conv(3, 16, padding_mode="circular"), nn.ReLU(), conv(16, 8, padding_mode="reflect"), last=8
    ),
    "local response": lambda: chain(conv(3, 16), nn.LocalResponseNorm(3), nn.ReLU(), last=16),
    "flat head": lambda: nn.Sequential(
        conv(3, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(144, 32),
        nn.ReLU(), nn.Linear(32, 5),
    ),
    "batch norm of vectors": lambda: nn.Sequential(
        conv(3, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 32),
        nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5),
    ),
    "pixel unshuffle": lambda: chain(nn.PixelUnshuffle(3), conv(27, 16), nn.ReLU(), last=16),
}  # fmt: skip
for _name, _build in CHAINS.items():
    TOYS[_name] = Toy(_build, 9, 3, "b c h w -> b k")

# -- functions of channels -------------------------------------------------------------------------

FUNCTIONS = {
    "chunk": (lambda y: y.chunk(2, 1)[0] * y.chunk(2, 1)[1].tanh(), 32, 16),
    "functional glu": (lambda y: F.glu(y, 1), 32, 16),
    "uneven split": (lambda y: torch.cat(y.split([8, 24], 1)[::-1], 1), 32, 32),
    "halves": (lambda y: y[:, :16] + y[:, 16:], 32, 16),
    "every second": (lambda y: y[:, ::2], 32, 16),
    "the first three": (lambda y: y[:, :3], 32, 3),
    "functional shuffle": (lambda y: F.channel_shuffle(y, 2), 16, 16),
    "shuffle by views": (lambda y: y.unflatten(1, (4, 8)).transpose(1, 2).flatten(1, 2), 32, 32),
    "flip": (lambda y: y.flip(1), 16, 16),
    "roll": (lambda y: y.roll(1, 1), 16, 16),
    "sort": (lambda y: y.sort(1)[0], 16, 16),
    "cumulative sum": (lambda y: y.cumsum(1), 16, 16),
    "largest four": (lambda y: y.mean((2, 3)).topk(4, 1)[0][..., None, None], 16, 4),
    "softmax": (lambda y: y.softmax(1), 16, 16),
    "maxout inside fields": (lambda y: y.unflatten(1, (8, 2)).amax(2), 16, 8),
    "maxout across fields": (lambda y: y.unflatten(1, (2, 8)).amax(1), 16, 8),
    "both signs": (lambda y: torch.cat([y.relu(), (-y).relu()], 1), 16, 32),
    "largest channel": (lambda y: y - y.amax(1, keepdim=True), 16, 16),
    "a ramp of gains": (lambda y: y * torch.linspace(0, 1, 16)[:, None, None].to(y), 16, 16),
    "in place": (lambda y: _halved(y), 16, 16),
    "gram matrix": (
        lambda y: torch.einsum("bchw,bdhw->bcd", y, y).flatten(1)[..., None, None], 8, 64,
    ),
    "channel attention": (
        lambda y: ((f := y.flatten(2)) @ f.mT).softmax(-1).matmul(f).unflatten(2, (9, 9)), 16, 16,
    ),
    "pyramid": (
        lambda y: torch.cat(
            [F.adaptive_avg_pool2d(y, n).flatten(1)[..., None, None] for n in (1, 2, 3)], 1
        ), 8, 112,
    ),
}  # fmt: skip
for _name, (_function, _wide, _out) in FUNCTIONS.items():
    TOYS[_name] = Toy(lambda f=_function, w=_wide, o=_out: around(f, w, o), 9, 3, "b c h w -> b k")


def _halved(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, :8] = y[:, :8] * 2
    return y


# -- topologies ------------------------------------------------------------------------------------


@toy()
def residual():
    return Do(
        lambda m, x: m.h(pooled((y := m.a(x)) + m.b(y.relu()))),
        a=conv(3, 16), b=conv(16, 16), h=nn.Linear(16, 5),
    )  # fmt: skip


@toy()
def squeeze():
    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), conv(16, 8, 1), nn.ReLU(), conv(8, 16, 1), nn.Sigmoid()
    )
    return Do(
        lambda m, x: m.h(pooled((y := m.a(x)) * m.g(y))), a=conv(3, 16), g=gate, h=nn.Linear(16, 5)
    )


@toy()
def densely():
    return Do(
        lambda m, x: m.h(pooled(m.n(torch.cat([y := m.a(x).relu(), m.b(y), x], 1)).relu())),
        a=conv(3, 16), b=conv(16, 16), n=nn.BatchNorm2d(35), h=nn.Linear(35, 5),
    )  # fmt: skip


@toy()
def tied_module():
    return Do(
        lambda m, x: m.h(pooled(m.b(m.b(m.a(x).relu()).relu()).relu())),
        a=conv(3, 16), b=conv(16, 16), h=nn.Linear(16, 5),
    )  # fmt: skip


@toy()
def tied_weight():
    net = Do(
        lambda m, x: m.h(pooled(m.c(m.b(m.a(x).relu()).relu()).relu())),
        a=conv(3, 16), b=conv(16, 16), c=conv(16, 16), h=nn.Linear(16, 5),
    )  # fmt: skip
    net.c.weight = net.b.weight
    return net


@toy()
def tied_transposed():
    return Do(
        lambda m, x: F.linear(m.h(pooled(m.a(x))).relu(), m.h.weight.t()),
        a=conv(3, 16), h=nn.Linear(16, 8),
    )  # fmt: skip


@toy()
def functional():
    return Do(
        lambda m, x: F.linear(
            pooled(F.batch_norm(F.conv2d(x, m.w, m.b, 1, 1), m.mean, m.var, m.gain).relu()), m.v
        ),
        w=parameter(16, 3, 3, 3), b=parameter(16), gain=parameter(16), v=parameter(5, 16),
        mean=nn.Parameter(torch.rand(16), False), var=nn.Parameter(torch.rand(16) + 0.5, False),
    )  # fmt: skip


@toy()
def contracted():
    return Do(
        lambda m, x: torch.einsum("bchw,co->bohw", m.a(x).relu(), m.w).relu().mean((2, 3)) @ m.v,
        a=conv(3, 16), w=parameter(16, 8), v=parameter(8, 5),
    )  # fmt: skip


@toy()
def modulated():
    return Do(
        lambda m, x: (
            (y := m.a(x)), (z := m.f(pooled(y).relu())[..., None, None].chunk(2, 1)),
            m.h(pooled(y * (1 + z[0]) + z[1])),
        )[-1],
        a=conv(3, 16), f=nn.Linear(16, 32), h=nn.Linear(16, 5),
    )  # fmt: skip


@toy()
def attention():
    def forward(m, x):
        t = tokens(m.a(x))
        q, k, v = m.q(m.n(t)).reshape(-1, 9, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.mT / 4 + m.t).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return m.h((t + m.p(y)).mean(1))

    return Do(
        forward, a=conv(3, 32, 3, stride=3, padding=0), n=nn.LayerNorm(32), q=nn.Linear(32, 96),
        t=parameter(2, 9, 9), p=nn.Linear(32, 32), h=nn.Linear(32, 5),
    )  # fmt: skip


@toy()
def attention_layer():
    return Do(
        lambda m, x: m.h(m.m(t := tokens(m.a(x)), t, t)[0].mean(1)),
        a=conv(3, 16, 3, stride=3, padding=0), m=nn.MultiheadAttention(16, 2, batch_first=True),
        h=nn.Linear(16, 5),
    )  # fmt: skip


@toy()
def encoder_layer():
    return Do(
        lambda m, x: m.h(m.e(tokens(m.a(x))).mean(1)), a=conv(3, 16, 3, stride=3, padding=0),
        e=nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), h=nn.Linear(16, 5),
    )  # fmt: skip


@toy()
def class_token():
    def forward(m, x):
        t = torch.cat([m.k.expand(len(x), -1, -1), tokens(m.a(x))], 1) + m.t
        return m.h((t + m.f(t))[:, 0])

    return Do(
        forward, a=conv(3, 16, 3, stride=3, padding=0), k=parameter(1, 1, 16),
        t=parameter(1, 10, 16),
        f=nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), h=nn.Linear(16, 5),
    )  # fmt: skip


@toy()
def recurrent():
    steps = nn.LSTM(16, 8, 2, batch_first=True, bidirectional=True)
    return Do(
        lambda m, x: m.h(m.r(pooled(m.a(x)).unsqueeze(1).repeat(1, 4, 1))[0].mean(1)),
        a=conv(3, 16), r=steps, h=nn.Linear(16, 5),
    )  # fmt: skip


@toy()
def cell():
    return Do(
        lambda m, x: m.b(m.r(pooled(m.a(x))), pooled(x)),
        a=conv(3, 16), r=nn.GRUCell(16, 8), b=nn.Bilinear(8, 3, 5),
    )  # fmt: skip


# -- outputs ---------------------------------------------------------------------------------------


@toy("b c h w -> b c h w")
def unet():
    return Do(
        lambda m, x: m.u(torch.cat([m.up(m.b(m.down(m.a(x))).relu()), x], 1)),
        a=conv(3, 16), b=conv(16, 16), u=conv(19, 2), down=nn.MaxPool2d(3, 2, 1),
        up=nn.Upsample(9, mode="bilinear"),
    )  # fmt: skip


@toy("b c h w -> b c h w", side=8)
def transposed():
    return nn.Sequential(
        nn.Conv2d(3, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), conv(8, 2)
    )


@toy("b c h w -> b c h w", side=4)
def pixel_shuffle():
    return nn.Sequential(
        conv(3, 16), nn.ReLU(), conv(16, 32), nn.PixelShuffle(2), nn.ReLU(), conv(8, 2)
    )


@toy("b c h w -> b v h w")
def field():
    return nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16), nn.ReLU(), conv(16, 2))


@toy("b v h w -> b v h w", channels=2)
def moved_field():
    return Do(lambda m, x: x + m.b(m.a(x).relu()), a=conv(2, 16), b=conv(16, 2))


@toy("b c h w -> b (2 v) h w")
def two_fields():
    return nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 4))


@toy("b c h w -> {image: b c h w, logits: b k}")
def named():
    return Do(
        lambda m, x: {"image": m.o(y := m.a(x).relu()), "logits": m.h(pooled(y))},
        a=conv(3, 16), o=conv(16, 2), h=nn.Linear(16, 5),
    )  # fmt: skip


@toy("b c h w -> b c h w, b k")
def both():
    return Do(
        lambda m, x: (m.o(y := m.a(x).relu()), m.h(pooled(y))),
        a=conv(3, 16), o=conv(16, 2), h=nn.Linear(16, 5),
    )  # fmt: skip
