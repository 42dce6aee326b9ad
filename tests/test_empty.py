"""An empty batch is a batch: right shapes, zero gradients, no error, for every group and frame."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.frames import Drawn, Learned, Partial, SpectralAverage

D = torch.float64
N = 4  # points, pixels a side


class Total(nn.Module):
    """*Σ x* of every sample, spread over an output of the given shapes; no symmetry is needed."""

    def __init__(self, *outs):
        super().__init__()
        self.outs, self.weight = outs, nn.Parameter(torch.ones((), dtype=D))

    def forward(self, *inputs):
        total = sum((self.weight * x).flatten(1).sum(1) for x in inputs)  # [b]
        found = [total.reshape(-1, *[1] * len(out)).expand(-1, *out).clone() for out in self.outs]
        return found[0] if len(found) == 1 else tuple(found)


class Scores(nn.Module):
    """*How large an image is on its left*, `x[b, c, h, w] → [b]`."""

    def forward(self, x):
        ramp = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        return (x * ramp).flatten(1).sum(1)


class Self(nn.Module):
    """The points as their own vectors, or the scores of rows."""

    def __init__(self, scores=False):
        super().__init__()
        self.scores = scores

    def forward(self, x):
        return x.sum(-1) if self.scores else x


# letters of an axis and their sizes; every group has its own v
SIZES = {"n": N, "c": 3, "k": 2, "1": 1, "h": N, "w": N, "d": N, "2": 2}


def shape(pattern, v):
    names = pattern.split()[1:]
    return tuple(v if name in "vpa" else SIZES[name] for name in names)


CLOUD = ["b k", "b v", "b n v", "b n k"]
POINTS = ["b k", "b v", "b p", "b n p", "b n v"]
IMAGE = ["b k", "b c h w", "b v h w"]
VOXEL = ["b k", "b c d h w"]
PARTS = [("O(3)", 3, "v"), ("SO(3)", 3, "v"), ("E(3)", 3, "p"), ("SE(2)", 2, "p")]
PARTS += [("SO+(1,3)", 4, "v"), ("U(2)", 2, "v"), ("GL(3)", 3, "v"), ("R+", 3, "v")]
CASES = [
    # (group, size of v, inputs, outputs, frames)
    *[(g, 2, "b c h w", IMAGE, ["auto", "key", "whole", "haar"]) for g in ("C1", "C2", "C4", "D4")],
    *[(g, 2, "b c h w", IMAGE, ["auto", "whole"]) for g in ("C3", "C8", "D1", "D2", "D3")],
    *[(g, 2, "b c h w", IMAGE, ["auto", "haar"]) for g in ("SO(2)", "O(2)")],
    ("C4", 2, "b c h w", ["b k"], ["confidence"]),
    ("T(2)", 2, "b c h w", ["b k", "b c h w"], ["auto", "shift", "whole"]),
    *[(g, 3, "b c d h w", VOXEL, ["auto", "key", "whole"]) for g in ("O", "O_h")],
    *[(g, 3, "b n v", CLOUD, ["auto", "whole"]) for g in ("O", "O_h")],
    ("C4", 2, "b n v", CLOUD, ["auto", "whole", "haar"]),
    *[
        (g, int(g[-2]), "b n v", CLOUD, ["auto", "pca", "haar"])
        for g in ("SO(2)", "O(2)", "SO(3)", "O(3)", "SO(4)", "O(4)")
    ],
    *[
        (g, int(g[-2]), "b n p", POINTS, ["auto", "pca", "haar"])
        for g in ("SE(2)", "E(2)", "SE(3)", "E(3)")
    ],
    *[(g, int(g[-2]), "b n v", CLOUD, ["weighted"]) for g in ("SO(2)", "O(2)", "SO(3)", "O(3)")],
    *[(g, int(g[-2]), "b n p", POINTS, ["weighted"]) for g in ("SE(2)", "E(2)", "SE(3)", "E(3)")],
    ("O(3)", 3, "b n v, b n a, b v", ["b k", "b a"], ["auto", "pca", "weighted"]),
    *[(g, 4, "b n v", CLOUD, ["auto"]) for g in ("SO+(1,3)", "SO(1,3)", "O(1,3)")],
    ("SO+(1,2)", 3, "b n v", CLOUD, ["auto"]),
    *[
        (g, int(g[-2]), "b n v", CLOUD, ["auto", "haar"])
        for g in ("U(1)", "U(3)", "SU(2)", "SU(3)")
    ],
    *[(g, int(g[-2]), "b n v", CLOUD, ["auto"]) for g in ("GL(3)", "SL(3)")],
    ("Aff(2)", 2, "b n p", ["b k", "b p", "b n p"], ["auto"]),
    ("S(n)", 3, "b n c", ["b k", "b n k", "b n n"], ["auto", "sorted", "whole", "separated"]),
    ("S(n)", 3, "b n 2", ["b k", "b n k"], ["weighted", "haar"]),
    ("S(n)", 3, "b n n", ["b k", "b n k", "b n n"], ["labelled", "whole"]),
    ("R+", 3, "b n v", CLOUD, ["auto", "size"]),
    ("C4 x SO(2)", 2, "b n v", CLOUD, ["auto"]),
    ("R+ x O(3)", 3, "b n v", CLOUD, ["auto"]),
    ("S(n) x R+ x SO(3)", 3, "b n v", CLOUD[:3], ["auto"]),
    *[
        (f"S(n) x {g}", d, f"b n {p}", ["b k", f"b {p}", f"b n {p}"], ["auto", "joint"])
        for g, d, p in PARTS
    ],
]
FLAT = [
    (group, v, inputs, tuple(outs), frame)
    for group, v, inputs, outs, frames in CASES
    for frame in frames
]


def tensors(group, v, inputs, b):
    kinds = [torch.randn(b, *shape(p, v), dtype=D) for p in inputs.split(", ")]
    if "U(" in group:
        kinds = [torch.complex(x, torch.randn_like(x)) for x in kinds]
    if "(1," in group:  # massive
        kinds = [torch.cat([x.norm(dim=-1, keepdim=True) + 1, x[..., 1:]], -1) for x in kinds]
    return [x.requires_grad_() for x in kinds]


def agree(model, full, empty):
    """The empty batch gives what a batch of two gives, less its samples; gradients are zeros."""
    two, none = model(*full), model(*empty)
    assert type(two) is type(none)
    leaves = none if isinstance(none, tuple) else (none,)
    for y, z in zip(two if isinstance(two, tuple) else (two,), leaves, strict=True):
        assert z.shape == (0, *y.shape[1:])
        assert z.dtype == y.dtype
    sum(z.abs().sum() for z in leaves).backward()
    for x in empty:
        assert x.grad.shape == x.shape
    for p in model.parameters():
        assert p.grad is not None
        assert not p.grad.any()


@pytest.mark.parametrize(("group", "v", "inputs", "outs", "frame"), FLAT)
def test_shapes_and_gradients(group, v, inputs, outs, frame):
    if frame == "labelled":
        pytest.importorskip("igraph", reason="needs python-igraph")
    plain = Total(*[shape(o, v) for o in outs])
    signature = f"{inputs} -> {', '.join(outs)}"
    model = ew.equivariantize(plain, group, signature, frame=frame)
    full, empty = (tensors(group, v, inputs, b) for b in (2, 0))
    for mode in (True, False):
        agree(model.train(mode), full, empty)
        model.zero_grad()


OBJECTS = [
    ("C4", 2, "b c h w", ("b k",), Learned(Scores())),
    ("D4", 2, "b c h w", ("b c h w",), Learned(Scores(), straight_through=True)),
    ("O(3)", 3, "b n v", ("b v",), Learned(Self())),
    ("SE(3)", 3, "b n p", ("b n p",), Drawn(Self())),
    ("S(n)", 3, "b n c", ("b n k",), Drawn(Self(scores=True))),
    ("SO(2)", 2, "b c h w", ("b k",), Partial(45)),
    ("SO(2)", 2, "b n v", ("b n v",), Partial(45)),
]
OPTIONS = [{"chunk": 1}, {"stochastic": True}, {"detach_frame": True}, {"ties": "first"}]


@pytest.mark.parametrize(("group", "v", "inputs", "outs", "frame"), OBJECTS)
def test_frames_with_networks_and_drawn_ones(group, v, inputs, outs, frame):
    test_shapes_and_gradients(group, v, inputs, outs, frame)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("group", "v", "inputs", "outs"),
    [
        ("D4", 2, "b c h w", ("b c h w", "b k")),
        ("T(2)", 2, "b c h w", ("b k",)),
        ("SE(3)", 3, "b n p", ("b n p",)),
        ("S(n)", 3, "b n c", ("b n k",)),
        ("SU(2)", 2, "b n v", ("b n v",)),
    ],
)
def test_options_of_frames(group, v, inputs, outs, option):
    plain = Total(*[shape(o, v) for o in outs])
    model = ew.equivariantize(plain, group, f"{inputs} -> {', '.join(outs)}", **option)
    for mode in (True, False):
        agree(model.train(mode), *(tensors(group, v, inputs, b) for b in (2, 0)))
        model.zero_grad()


@pytest.mark.parametrize("group", ["O(3)", "E(3)", "S(n)", "S(n) x SE(3)", "R+", "SL(3)"])
@pytest.mark.parametrize("lead", [(0, 2), (2, 0), (0, 0)])
def test_several_batch_axes_of_which_one_is_empty(group, lead):
    letter = "c" if group == "S(n)" else "p" if "E(" in group else "v"
    plain = Total((N, 3), (2,))
    model = ew.equivariantize(plain, group, f"... n {letter} -> ... n {letter}, ... k")
    points, values = model(torch.randn(*lead, N, 3, dtype=D))
    assert points.shape == (*lead, N, 3)
    assert values.shape == (*lead, 2)


def test_a_mask_and_other_arguments_follow():
    class Masked(Total):
        def forward(self, x, mask, time):
            return super().forward(x * mask[..., None] + time[:, None, None])

    for group in ("SE(3)", "S(n) x E(3)", "S(n) x R+"):
        p = "v" if "R+" in group else "p"
        signature = f"x: b n {p}, mask: b n, time: _ -> b n {p}"
        model = ew.equivariantize(Masked((N, 3)), group, signature, mask="mask")
        x = torch.randn(0, N, 3, dtype=D, requires_grad=True)
        y = model(x, torch.ones(0, N, dtype=torch.bool), torch.zeros(0, dtype=D))
        assert y.shape == (0, N, 3)
        y.sum().backward()
        assert x.grad.shape == x.shape


class Rows(nn.Module):
    """Sums over the graphs that `batch` names; how many there are is given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=D))

    def forward(self, pos, batch, count):
        energy = torch.zeros(count, 1, dtype=D).index_add(0, batch, self.weight * pos[:, :1])
        return energy, self.weight * pos


@pytest.mark.parametrize(
    ("group", "frame"),
    [
        *[(g, f) for g in ("O(3)", "SE(3)", "E(2)") for f in ("auto", "pca", "weighted", "haar")],
        *[("R+", "auto"), ("O", "whole"), ("SO+(1,2)", "auto"), ("R+ x SO(3)", "auto")],
    ],
)
def test_a_ragged_batch_without_a_graph(group, frame):
    p, d = "p" if "E" in group else "v", 2 if "(2)" in group else 3
    signature = f"pos: (b n) {p} | batch, count: _ -> b 1, (b n) {p}"
    model = ew.equivariantize(Rows(), group, signature, frame=frame)
    pos = torch.randn(0, d, dtype=D, requires_grad=True)
    energy, forces = model(pos, torch.zeros(0, dtype=torch.long), 0)
    assert energy.shape == (0, 1)
    assert forces.shape == (0, d)
    (energy.sum() + forces.sum()).backward()
    assert pos.grad.shape == (0, d)
    assert model.weight.grad == 0


def test_eigenvectors_of_no_graph():
    class Sums(Total):
        def forward(self, vectors, values):
            return super().forward(vectors * values.unsqueeze(1))

    some = torch.diag(torch.arange(3.0, dtype=D)).expand(2, 3, 3)
    agree(SpectralAverage(Sums((2,))), [some], [some[:0].clone().requires_grad_()])


@pytest.mark.parametrize(
    ("group", "signature", "size"),
    [
        ("C4", "b c h w -> b k", (3, N, N)),
        ("C8", "b c h w -> b k", (3, N, N)),
        ("SE(3)", "b n p -> b n p", (N, 3)),
        ("S(n)", "b n c -> b", (N, 3)),
    ],
)
def test_the_error_on_nothing_is_zero_and_says_so(group, signature, size):
    out = {"b k": (2,), "b n p": (N, 3), "b": ()}[signature.split(" -> ")[1]]
    plain = Total(out)
    wrapped = ew.equivariantize(plain, group, signature)
    x = torch.randn(0, *size, dtype=D)
    for model in (plain, wrapped):
        found = ew.measure.equivariance_error(model, group, x, signature=signature)
        assert (found.value, found.worst, found.half_width, found.samples) == (0, 0, 0, 0)
        assert found.worst_input == -1
        assert "0 inputs" in str(found)
        ew.testing.assert_equivariant(model, group, x, signature=signature)


def test_the_plain_network_is_still_refused_on_something():
    x = torch.randn(4, N, 3, dtype=D)
    with pytest.raises(ew.EquivarianceError):
        ew.testing.assert_equivariant(Total((3,)), "O(3)", x, signature="b n v -> b v")


def test_a_compiled_model_and_a_real_one():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
    net = nn.Sequential(body, nn.Flatten(), nn.Linear(4, 2)).eval()
    for frame in ("key", "whole"):
        model = ew.equivariantize(net, "D4", "b c h w -> b k", frame=frame)
        x = torch.randn(0, 3, 8, 8, requires_grad=True)
        assert model(x).shape == (0, 2)
        model(x).sum().backward()
        assert torch.compile(model, backend="eager", fullgraph=True)(x).shape == (0, 2)
