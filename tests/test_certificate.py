"""The certificate: its bound holds, its shares sum to one, and it says what it cannot know."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import equiwrap as ew
from equiwrap.audit import lipschitz_local  # noqa: F401  its rules enter the table
from equiwrap.audit.lipschitz import Met, carried
from equiwrap.errors import SignatureError


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def bounded(module, name, u, v, *others, **kwargs):
    """‖f(u) − f(v)‖ and its bound, on the pair stacked along the batch."""
    both = torch.cat([u, v])
    call = module if module is not None else getattr(F, name, None) or getattr(torch, name)
    with torch.no_grad():
        found = [call(x, *others, **kwargs) for x in (u, v, both)]
    error = float((u - v).norm())
    met = Met(
        name if module is None else "",
        module,
        (both, *others),
        kwargs,
        lambda x: error if x is both else 0.0,
        found[2],
    )
    return float((found[0] - found[1]).norm()), carried(met)[0]


IMAGES = {
    "conv": nn.Conv2d(4, 6, 3, padding=1),
    "strided": nn.Conv2d(4, 6, 5, stride=2, padding=2, bias=False),
    "grouped": nn.Conv2d(4, 6, 3, groups=2),
    "dilated": nn.Conv2d(4, 6, 3, dilation=2),
    "circular": nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "max": nn.MaxPool2d(3, 2, 1),
    "mean": nn.AvgPool2d(2),
    "overlapping mean": nn.AvgPool2d(3, 1),
    "global": nn.AdaptiveAvgPool2d(1),
    "adaptive": nn.AdaptiveAvgPool2d(3),
    "adaptive upwards": nn.AdaptiveAvgPool2d(21),
    "border mean": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "wide maximum": nn.MaxPool2d(3, 2, 1, dilation=2),
    "replicated": nn.Conv2d(4, 6, 7, padding=3, padding_mode="replicate"),
    "steep": nn.ELU(3.0),
    "leaky": nn.LeakyReLU(2.0),
    "norm": nn.BatchNorm2d(4).eval(),
    **{c.__name__: c() for c in (nn.ReLU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.SELU)},
    **{c.__name__: c() for c in (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.ELU, nn.Softplus)},
}


@pytest.mark.parametrize("near", [1e-4, 1.0, 10.0])
@pytest.mark.parametrize("name", IMAGES)
def test_no_layer_carries_more_than_its_constant(name, near):
    module = IMAGES[name].double()
    if name == "norm":
        module.running_var.uniform_(0.1, 2)
        nn.init.normal_(module.weight)
    for _ in range(5):
        u = 2 * drawn(2, 4, 8, 8)
        gap, most = bounded(module, "", u, u + near * drawn(2, 4, 8, 8))
        assert gap <= most * (1 + 1e-9)
        assert most < 60 * gap + 1e-9  # and it is no empty number


@pytest.mark.parametrize("near", [1e-4, 1.0, 10.0])
def test_products_attention_and_normalisation_hold_on_the_values_met(near):
    for _ in range(5):
        u = drawn(2, 3, 5, 8)
        v = u + near * drawn(*u.shape)
        k, values = drawn(4, 3, 5, 8), drawn(4, 3, 5, 8)
        for name, others in (
            ("mul", (k,)),
            ("matmul", (k.mT,)),
            ("scaled_dot_product_attention", (k, values)),
        ):
            both = torch.cat([u, v])
            call = getattr(torch, name, None) or getattr(F, name)
            out = call(both, *others)
            fixed = [torch.cat([o[:2], o[:2]]) for o in others]  # the same on both halves
            a, b = call(both, *fixed).chunk(2)
            error = float((u - v).norm())
            met = Met(
                name, None, (both, *fixed), {}, lambda x, b=both, e=error: e if x is b else 0.0, out
            )
            most, local = carried(met)
            assert local
            assert float((a - b).norm()) <= most * (1 + 1e-9)
        gap, most = bounded(nn.LayerNorm(8).double(), "", u, v)
        assert gap <= most * (1 + 1e-9)
        gap, most = bounded(None, "softmax", u, v, -1)
        assert gap <= most * (1 + 1e-9)


def test_padding_and_weighted_sums_carry_what_they_repeat():
    u = drawn(2, 3, 4, 4)
    v = u + drawn(2, 3, 4, 4)
    edge = torch.zeros_like(u)
    edge[..., 0, :] = 1
    for other in (v, u + edge):
        for mode in ("constant", "replicate", "reflect", "circular"):
            gap, most = bounded(None, "pad", u, other, (2, 2, 3, 3), mode=mode)
            assert gap <= most * (1 + 1e-9)
    gap, most = bounded(None, "add", u, v, u[:1], alpha=1)
    assert gap <= most * (1 + 1e-9)


class Small(nn.Module):
    """Convolutions, a residual, a pool and a head."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        h = torch.relu(self.one(x))
        return self.head((h + torch.tanh(self.norm(self.two(h)))).mean((-2, -1)))


@pytest.mark.parametrize("hidden", ["trivial", "regular"])
@pytest.mark.parametrize("b", [0.0, 0.02, 0.3, 1.0])
def test_the_bound_is_above_the_error_and_zero_for_an_exact_model(hidden, b):
    x = torch.randn(8, 3, 9, 9)
    model = ew.equivariantize(
        Small().eval(), "C4", method="project", softness=b, hidden=hidden, example=x
    )
    found = model.equiwrap.certificate(x)
    sampled = ew.measure.model_error(
        model, "C4", x[:4], signature=model.equiwrap.signature, form="pairwise"
    )
    rms = float(model(x[:4]).square().sum(-1).mean().sqrt())
    pairwise = float(sampled) / rms * math.sqrt(4 / 3)  # the identity has no error
    assert found.bound.value >= pairwise * (1 - 1e-3) - 1e-6
    if b == 0:
        assert found.bound.value < 1e-10
        assert found.error.exact
        assert found.shares == ()
    else:
        assert found.bound.value < 1e3 * pairwise
        assert abs(sum(share for _, share in found.shares) - 1) < 1e-6
        assert found.ratio > 0
    assert "bound" in str(found)


def test_a_misaligned_model_has_no_bound_and_a_deep_one_a_vacuous_one():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(2), _Mean()).eval()
    x = torch.randn(4, 3, 8, 8)
    made = ew.equivariantize(
        net, "C4", "b c h w -> b k", method="penalize", hidden="trivial", example=x
    )
    assert str(made.equiwrap.certificate(x).bound) == "unavailable: misaligned (0)"
    deep = nn.Sequential(
        *[part for _ in range(12) for part in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())], _Pool()
    ).eval()
    with torch.no_grad():
        for p in deep.parameters():
            p.mul_(3)
    made = ew.equivariantize(
        deep, "C4", "b c h w -> b k", method="penalize", hidden="trivial", example=x
    )
    assert made.equiwrap.certificate(x).bound.vacuous
    assert "vacuous" in str(made.equiwrap.certificate(x))


class _Mean(nn.Module):
    def forward(self, x):
        return x.mean(-1)


class _Pool(nn.Module):
    def forward(self, x):
        return x.mean((-2, -1))


class _Odd(nn.Module):
    """An operation whose growth nobody has written down."""

    def forward(self, x):
        return torch.special.erfcx(x.abs()).mean((-2, -1)) + torch.exp(x).mean((-2, -1))


def test_an_operation_without_a_constant_is_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), _Odd()).eval()
    x = torch.randn(4, 3, 8, 8)
    made = ew.equivariantize(
        net, "C4", "b c h w -> b k", method="penalize", hidden="trivial", example=x
    )
    found = made.equiwrap.certificate(x)
    assert found.bound.value is None
    assert "unavailable: " in str(found.bound)


def test_it_takes_loaders_and_refuses_nothing_at_all():
    x = torch.randn(6, 3, 9, 9)
    model = ew.equivariantize(Small(), "C4", method="penalize", example=x)
    loader = torch.utils.data.DataLoader([(row, 0) for row in x], batch_size=4)
    model.train()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = model.equiwrap.certificate(loader)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert found.error.samples == 6
    for nothing in ([], None, {"x": x}, ["x"]):
        with pytest.raises(SignatureError, match="takes inputs"):
            model.equiwrap.certificate(nothing)
