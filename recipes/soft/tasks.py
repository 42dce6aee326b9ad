"""Four tasks whose targets break a group by a known amount: what is learned, and on which net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad, silu, softplus

import equiwrap as ew
from equiwrap.groups import Group, parse_group
from equiwrap.penalty import Target, targets_of
from equiwrap.representations import Defining, TensorProduct, Trivial
from equiwrap.reynolds.blocks import Blocks

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """Data in three parts, a net, its targets, and the budget of every method.

    `asymmetry` is DEE = ‖f* − Qf*‖ on the test inputs, where f* is known.
    """

    name: str
    group: Group
    signature: str
    net: Callable[[], nn.Module]
    find: Callable[[nn.Module, Tensor], tuple[Target, ...]]
    train: Pair
    val: Pair
    test: Pair
    steps: int
    batch: int
    rate: float = 3e-3
    asymmetry: float | None = None

    @property
    def labels(self) -> bool:
        """True for classes, False for regression."""
        return not self.train[1].is_floating_point()

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Cross entropy, or the squared error summed over the entries of an output."""
        if self.labels:
            return cross_entropy(out, y)
        return (out - y).square().flatten(1).sum(1).mean()

    def error(self, out: Tensor, y: Tensor) -> float:
        """Per cent of wrong classes, or the loss."""
        return float(
            100 * (out.argmax(-1) != y).double().mean() if self.labels else self.loss(out, y)
        )


def typed(signature: str, group: str, net: nn.Module, x: Tensor) -> tuple[Target, ...]:
    """The targets that the types find, hidden channels being regular."""
    model = ew.equivariantize(
        net, group, signature, method="penalize", hidden="regular", example=x[:4]
    )
    return tuple(targets_of(model))


# -- controlled breaking: C4 on two vectors --------------------------------------------------------


def turned(x: Tensor) -> list[Tensor]:
    """`x[b, 4]`, two vectors of the plane, under the four quarter turns."""
    found = [x]
    for _ in range(3):
        a, b, c, d = found[-1].unbind(1)
        found.append(torch.stack([-b, a, -d, c], 1))
    return found


def even(x: Tensor) -> Tensor:
    """An invariant function of two vectors; not yet of unit size."""
    u, v = torch.complex(x[:, 0], x[:, 1]), torch.complex(x[:, 2], x[:, 3])
    dot, cross = 0.7 * (u.conj() * v).real, 0.7 * (u.conj() * v).imag
    four = (u**4).real / (u.abs() ** 3 + 1e-3)
    return torch.sin(dot) + torch.cos(cross) - 0.5 + 0.1 * four


def odd(x: Tensor) -> Tensor:
    """*h − P h*: what no invariant function can say."""
    h = [torch.sin(y[:, 0] + y[:, 3]) + 0.5 * y[:, 1] * y[:, 2] for y in turned(x)]
    return h[0] - torch.stack(h).mean(0)


def sweep(seed: int, eps: float, n: int = 200, steps: int = 600) -> Task:
    """*y = f(x) + ε f_⊥(x) + 0.1 ξ*, f invariant, f_⊥ of average 0, both of unit size: DEE = ε."""
    draw = torch.Generator().manual_seed(1000 + seed)
    big = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0))
    one, two = (f(big).square().mean().sqrt() for f in (even, odd))

    def part(count: int, noise: float) -> Pair:
        x = torch.randn(count, 4, generator=draw)
        y = even(x) / one + eps * odd(x) / two + noise * torch.randn(count, generator=draw)
        return x, y[:, None]

    signature = "b (2 v) -> b 1"
    return Task(
        name=f"sweep ε = {eps:g}",
        group=parse_group("C4"),
        signature=signature,
        net=lambda: nn.Sequential(
            nn.Linear(4, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
        ),
        find=partial(typed, signature, "C4"),
        train=part(n, 0.1),
        val=part(2 * n, 0.1),
        test=part(2000, 0.0),
        steps=steps,
        batch=min(n, 200),
        rate=1e-2,
        asymmetry=eps,
    )


# -- the modified inertia tensor: O(3) on five bodies ----------------------------------------------

O3 = parse_group("O(3)")
V, T = Defining(O3), TensorProduct((Defining(O3), Defining(O3)))


class Tensors(nn.Module):
    """A net of scalars, vectors and matrices: O(3)-equivariant when its linear layers are.

    `x[b, 20] → [b, 3, 3]`. Between the layers, for neighbours k, l among c channels:
    s + ⟨v_k, v_l⟩, σ(a) v + t v and σ(b) t + v_k v_lᵀ, with gates a, b from scalars of their own.
    """

    def __init__(self, c: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.c = c
        rows = [((5, Trivial(1)), (5, V))] + [((c, Trivial(1)), (c, V), (c, T))] * depth
        wide = ((3 * c, Trivial(1)), (c, V), (c, T))
        self.pieces = [(wide, row) for row in rows[:-1]] + [(((1, T),), rows[-1])]
        sizes = [[sum(n * rep.size for n, rep in side) for side in pair] for pair in self.pieces]
        self.layers = nn.ModuleList(nn.Linear(i, o) for o, i in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """The layers with the products between them."""
        for layer in self.layers[:-1]:
            x = self.products(layer(x))
        return self.layers[-1](x).unflatten(-1, (3, 3))

    def products(self, z: Tensor) -> Tensor:
        """`[b, 3c + 3c + 9c] → [b, c + 3c + 9c]`."""
        c = self.c
        s, a, b, v, t = z.split([c, c, c, 3 * c, 9 * c], -1)
        v, t = v.unflatten(-1, (c, 3)), t.unflatten(-1, (c, 3, 3))
        near = v.roll(1, 1)
        s = silu(s) + (v * near).sum(-1)
        t, v = (
            b.sigmoid()[..., None, None] * t + v[..., :, None] * near[..., None, :],
            a.sigmoid()[..., None] * v + (t @ v[..., None])[..., 0],
        )
        return torch.cat([s, v.flatten(1), t.flatten(1)], -1)


def declared(net: nn.Module, x: Tensor) -> tuple[Target, ...]:
    """The targets of `Tensors`, whose representations are known."""
    assert isinstance(net, Tensors)
    found = []
    for i, (out, into) in enumerate(net.pieces):
        for name, side in (("weight", into), ("bias", ((1, Trivial(1)),))):
            path = f"layers.{i}.{name}"
            shape = tuple(net.get_parameter(path).shape)
            found.append(Target(path, Blocks(O3, out, side), shape))
    return tuple(t for t in found if t.share < 1)


def inertia_of(x: Tensor) -> Tensor:
    """*Σ m (|r|² 1 − r rᵀ)*: five masses, then five positions `x[b, 20] → [b, 3, 3]`."""
    m, r = x[:, :5], x[:, 5:].unflatten(1, (5, 3))
    square = torch.einsum("bk,bki,bki->b", m, r, r)
    return square[:, None, None] * torch.eye(3) - torch.einsum("bk,bki,bkj->bij", m, r, r)


def inertia(seed: int, eps: float = 0.3, n: int = 1000, steps: int = 600) -> Task:
    """*Y = I + ε (I z) zᵀ* in units of its rms norm: z is the direction that breaks O(3).

    The mean of (I z) zᵀ over O(3) is I/3, so DEE is ε times the size of I (z zᵀ − 1/3).
    """
    draw = torch.Generator().manual_seed(2000 + seed)
    z = torch.diag(torch.tensor([0.0, 0.0, 1.0]))

    def part(count: int) -> Pair:
        m = softplus(torch.randn(count, 5, generator=draw))
        x = torch.cat([m, torch.randn(count, 15, generator=draw)], 1)
        return x, inertia_of(x) @ (torch.eye(3) + eps * z)

    train, val, test = part(n), part(n), part(n)
    unit = float(train[1].square().sum((1, 2)).mean().sqrt())
    train, val, test = ((x, y / unit) for x, y in (train, val, test))
    off = inertia_of(test[0]) @ (z - torch.eye(3) / 3) * (eps / unit)
    return Task(
        name=f"inertia ε = {eps:g}",
        group=O3,
        signature="b (5 + 5 v) -> b v v",
        net=Tensors,
        find=declared,
        train=train,
        val=val,
        test=test,
        steps=steps,
        batch=min(n, 250),
        asymmetry=float(off.square().sum((1, 2)).mean().sqrt()),
    )


# -- images on a grid of 65 × 65 -------------------------------------------------------------------


def small(classes: int = 10) -> nn.Module:
    """A strided net on odd sizes, 65 → 33 → 17 → 9 → 5 → 3, whose lattices stay centred."""
    widths = (1, 8, 16, 32, 64, 64)
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Conv2d(i, o, 3, 2, 1), nn.GELU()]
        nn.init.kaiming_normal_(layers[-2].weight)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)
    )


def digits(seed: int, n: int = 300, steps: int = 200) -> Task:
    """Real digits in any of four poses; a six or nine upright, or upside down and called the other.

    The coin that turns these two is fair, so no invariant function tells them apart: a hard model
    errs on half of them, a tenth of all.
    """
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    images = interpolate(pad(images, (2, 2, 2, 2)), size=65, mode="bilinear", align_corners=True)
    labels = torch.tensor(bunch.target)
    draw = torch.Generator().manual_seed(3000 + seed)
    pose = torch.randint(4, labels.shape, generator=draw)
    twins = (labels == 6) | (labels == 9)
    pose[twins] = 2 * (pose[twins] % 2)
    labels = torch.where(twins & (pose == 2), 15 - labels, labels)
    posed = [x.rot90(k, (-2, -1)) for x, k in zip(images, pose.tolist(), strict=True)]
    images = torch.stack(posed)
    order = torch.randperm(len(labels), generator=draw)
    parts = [
        (images[i], labels[i]) for i in (order[:n], order[n : n + 400], order[n + 400 : n + 1200])
    ]
    return Task(
        name="digits 65 × 65",
        group=parse_group("C4"),
        signature="b c h w -> b k",
        net=small,
        find=partial(typed, "b c h w -> b k", "C4"),
        train=parts[0],
        val=parts[1],
        test=parts[2],
        steps=steps,
        batch=50,
    )
