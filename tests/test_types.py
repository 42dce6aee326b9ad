"""The rules against the truth: what is called safe passes, what is called broken breaks."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from reference_types import probed, typed, worst
from torch import nn

from equiwrap.graph.snap import project_weights

GROUPS = ["C2", "C4", "D4"]


def image(n, channels=3):
    return torch.randn(1, channels, n, n)


def settled(net, x, group):
    """The network in float64 with projected weights, and its types."""
    typing = typed(net, x, group, "b c h w -> b c h w")
    net = net.double()
    project_weights(net, typing)
    return typing, net


# -- the alignment law -----------------------------------------------------------------------------

GRID = [
    (k, s, p, d)
    for k, s, d in itertools.product(range(1, 8), (1, 2, 3), (1, 2))
    for p in {0, 1, k // 2}
]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("k", range(1, 8))
def test_a_convolution_is_equivariant_iff_its_sampling_is_centred(k, group):
    for (_, s, p, d), n in itertools.product((g for g in GRID if g[0] == k), (14, 15)):
        if n + 2 * p <= d * (k - 1):
            continue
        x = image(n)
        typing, net = settled(nn.Sequential(nn.Conv2d(3, 2, k, s, p, d)), x, group)
        law = (n + 2 * p - d * (k - 1) - 1) % s == 0
        assert law == (not typing.misaligned), (k, s, p, d, n)
        error = worst(net, x.double(), group)
        assert (error < 1e-12) == law, (k, s, p, d, n, error)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_a_pool_is_equivariant_iff_its_windows_are_centred(pool, group):
    for k, s, p, n in itertools.product(range(1, 6), (1, 2, 3), (0, 1, 2), (12, 13)):
        if p > k // 2:
            continue
        x = image(n)
        typing, net = settled(nn.Sequential(pool(k, s, p)), x, group)
        law = (n + 2 * p - k) % s == 0
        assert law == (not typing.misaligned), (k, s, p, n)
        assert (worst(net, x.double(), group) < 1e-12) == law, (k, s, p, n)


# -- the table of operations -----------------------------------------------------------------------


class Do(nn.Module):
    """A function as a network, behind a convolution that gives it something to keep."""

    def __init__(self, function, channels=4, then=None):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.function = function
        self.then = then or nn.Identity()

    def forward(self, x):
        return self.then(self.function(self.first(x)))


def conv(**kwargs):
    return nn.Conv2d(4, 4, 3, **kwargs)


SAFE = {
    "adaptive average": (Do(nn.AdaptiveAvgPool2d(5)), 12),
    "adaptive maximum": (Do(nn.AdaptiveMaxPool2d(7)), 12),
    "zero padding": (Do(conv(padding=1)), 12),
    "reflect padding": (Do(conv(padding=1, padding_mode="reflect")), 12),
    "replicate padding": (Do(conv(padding=1, padding_mode="replicate")), 12),
    "circular padding": (Do(conv(padding=1, padding_mode="circular")), 12),
    "padding of both sides": (Do(lambda x: F.pad(x, (2, 2, 2, 2))), 12),
    "same padding": (Do(conv(padding="same", dilation=2)), 12),
    "depthwise": (Do(conv(padding=1, groups=4)), 12),
    "dilation": (Do(conv(dilation=3)), 12),
    "bilinear": (Do(lambda x: F.interpolate(x, size=17, mode="bilinear")), 12),
    "bilinear corners": (Do(nn.Upsample(size=7, mode="bilinear", align_corners=True)), 12),
    "bicubic": (Do(lambda x: F.interpolate(x, size=9, mode="bicubic")), 12),
    "nearest up": (Do(nn.Upsample(scale_factor=2)), 12),
    "nearest-exact": (Do(lambda x: F.interpolate(x, size=8, mode="nearest-exact")), 12),
    "transposed": (Do(nn.ConvTranspose2d(4, 4, 4, 2, 1)), 12),
    "batch norm": (Do(nn.BatchNorm2d(4)), 12),
    "instance norm": (Do(nn.InstanceNorm2d(4, affine=True)), 12),
    "group norm": (Do(nn.GroupNorm(2, 4)), 12),
    "layer norm of tokens": (Do(lambda x: x.flatten(2).mT, then=nn.LayerNorm(4)), 6),
    "layer norm of images": (Do(nn.Identity(), then=nn.LayerNorm([4, 6, 6])), 6),
    "softmax over space": (Do(lambda x: x.flatten(2).softmax(-1)), 6),
    "global pool": (Do(lambda x: x.mean((2, 3))), 6),
    "residual": (Do(lambda x: x + F.silu(x)), 6),
    "concatenation": (Do(lambda x: torch.cat([x, x.relu()], 1)), 6),
    "a token padded": (Do(lambda x: F.pad(x.flatten(2), (1, 0)).mT, then=nn.Linear(4, 4)), 6),
    "a gate": (Do(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), 6),
    "flatten and linear": (Do(nn.Flatten(), then=nn.Linear(4 * 36, 5)), 6),
    "tokens mixed": (Do(lambda x: x.flatten(2), then=nn.Sequential(nn.Linear(36, 36))), 6),
    "pixels to channels": (Do(nn.PixelUnshuffle(2), then=nn.Conv2d(16, 4, 3, padding=1)), 12),
    "channels to pixels again": (Do(lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 3), 3)), 12),
    "focus": (
        Do(
            lambda x: torch.cat([x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)], 1),
            then=nn.Conv2d(16, 4, 3, padding=1),
        ),
        12,
    ),
    "every second pixel, end to end": (Do(lambda x: x[:, :, ::2, ::2].relu()), 7),
    "a convolution of tokens": (
        Do(lambda x: x.flatten(2)[:, :, None] * x.flatten(2)[..., None], then=nn.Conv2d(4, 2, 1)),
        4,
    ),
    "windows": (Do(lambda x: x.unfold(2, 4, 2).unfold(3, 4, 2).amax((-2, -1))), 12),
    "columns": (Do(lambda x: F.fold(F.unfold(x, 3, padding=1), (12, 12), 3, padding=1)), 12),
    "a shifted window": (
        Do(lambda x: x.roll((-2, -2), (2, 3)).unflatten(3, (3, 4)).unflatten(2, (3, 4))),
        12,
    ),
    "strips": (Do(lambda x: x * x.mean(2, keepdim=True) * x.mean(3, keepdim=True)), 12),
}


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("name", SAFE)
def test_safe_operations_are_typed_and_pass(name, group, monkeypatch):
    net, n = SAFE[name]
    typing, found = probed(net.double().float().eval(), image(n), group)
    assert not typing.untyped, [(s.name, s.why.reason) for s in typing.untyped]
    assert not typing.misaligned
    assert found.label == "EXACT"
    assert max(e for key, e in found.errors.items() if not typing.sites[key].loose) < 1e-12
    monkeypatch.setattr("equiwrap.graph.snap.project_weights", lambda *_: [])
    _, before = probed(net, image(n), group)
    assert before.failing  # the kernels as drawn are not symmetric


class Ramp(nn.Module):
    def forward(self, x):
        return x + torch.arange(x.shape[-1]).sin()


class Sines(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.linspace(0, 3, 36).sin().reshape(1, 36, 1))

    def forward(self, x):
        return x.flatten(2).mT + self.table


BREAKS = {
    "even grid, stride 2": (Do(conv(stride=2, padding=1)), 12, "stride", "stride 2 on an even"),
    "pool off centre": (Do(nn.MaxPool2d(3, 2, 1)), 12, "stride", "not centred"),
    "ceil_mode": (Do(nn.MaxPool2d(2, 2, ceil_mode=True)), 11, "stride", "not centred"),
    "pad one side": (Do(lambda x: F.pad(x, (0, 1, 0, 1))), 12, "padding", "pads 0 pixels on one"),
    "same with an even kernel": (
        Do(nn.Conv2d(4, 4, 2, padding="same")), 12, "padding", "even kernel"),
    "output_padding": (
        Do(nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1)), 12, "padding", "output_padding"),
    "nearest down": (Do(lambda x: F.interpolate(x, size=5)), 12, "stride", "nearest"),
    "nearest-exact at ties": (
        Do(lambda x: F.interpolate(x, size=9, mode="nearest-exact")), 12, "stride", "nearest"),
    "nearest by halves": (Do(lambda x: F.interpolate(x, size=18)), 12, "stride", "nearest"),
    "a flat kernel": (Do(nn.Conv2d(4, 4, (1, 3), padding=(0, 1))), 12, "other", "1 × 3"),
}  # fmt: skip
REFUSED = {
    "odd window": (
        Do(lambda x: x.roll((-3, -3), (2, 3)).reshape(-1, 4, 2, 7, 2, 7)),
        14,
        "odd window",
    ),
    "sines added": (Do(Ramp()), 6, "position table"),
    "sines as a buffer": (Do(Sines()), 6, "position table"),
    "pixel shuffle": (Do(nn.PixelShuffle(2)), 6, "flatten"),
    "some pixels": (Do(lambda x: x[:, :, ::2, ::2]), 6, "stride"),
    "one pixel": (Do(lambda x: x[:, :, 0, 0]), 6, "flatten"),
    "thinned": (Do(lambda x: x[:, :, ::2, ::2].sum((2, 3))), 6, "stride"),
    "a cut grid": (Do(lambda x: x.reshape(len(x), 4, 4, 9)), 6, "flatten"),
    "a sum along rows": (Do(lambda x: x.cumsum(2)), 6, "other"),
}


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("name", BREAKS)
def test_operations_that_break_are_named_and_fail(name, group):
    net, n, kind, words = BREAKS[name]
    typing, found = probed(net.eval(), image(n), group)
    assert [site.broken[0].kind for site in typing.misaligned][:1] == [kind]
    assert words in typing.misaligned[0].broken[0].reason
    assert found.label == "MISALIGNED"
    assert found.failing[0].at.key == typing.misaligned[0].at.key
    assert found.errors[typing.misaligned[0].at.key] > 1e-3


@pytest.mark.parametrize("name", REFUSED)
def test_operations_without_a_type_are_named_with_their_kind(name):
    net, n, kind = REFUSED[name]
    typing, found = probed(net.eval(), image(n), "C4")
    reasons = [s.why for s in typing.untyped] or [typing.output]
    assert reasons[0].kind == kind, reasons[0].reason
    assert found.label != "EXACT"


def test_a_flat_kernel_is_fine_where_the_group_keeps_the_axes_apart():
    for group in ("C2", "D2"):
        typing, found = probed(BREAKS["a flat kernel"][0], image(12), group)
        assert found.label == "EXACT"
        assert len(typing.kernels) == 2
