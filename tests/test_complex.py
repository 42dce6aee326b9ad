"""U(d) and SU(d): every rank, ties, phases, real points in complex dress."""

from __future__ import annotations

import time

import pytest
import torch
from clouds import CUBE
from reference import relative
from reference_complex import unitary_loop
from torch import nn

import equiwrap as ew
from equiwrap.frames import ComplexAxes
from equiwrap.frames.complex_ties import heisenberg, phases, quaternions
from equiwrap.groups import parse_group
from equiwrap.testing import check_frame, tolerance

C = torch.complex128
REAL = {torch.complex64: torch.float32, C: torch.float64}


class Dense(nn.Module):
    """No symmetry at all; complex outputs by their parts."""

    def __init__(self, n, d, out, dtype=C, numbers="complex"):
        super().__init__()
        self.out, self.numbers = out, numbers
        size = torch.Size(out).numel() * (2 if numbers == "complex" else 1)
        self.body = nn.Sequential(
            nn.Linear(2 * n * d, 32, dtype=REAL[dtype]),
            nn.Tanh(),
            nn.Linear(32, size, dtype=REAL[dtype]),
        )

    def forward(self, x):
        y = self.body(torch.view_as_real(x.resolve_conj()).flatten(1))
        if self.numbers == "complex":
            y = torch.view_as_complex(y.unflatten(-1, (-1, 2)))
        return y.reshape(-1, *self.out)


def gauss(*shape):
    return torch.randn(*shape, dtype=C)


def clouds(d):
    """Clouds of every rank, and every kind of near miss, by name."""
    pair, three = min(2, d), gauss(3, d)
    found = {
        "generic, 20": gauss(20, d),
        "generic, 5": gauss(5, d),
        "one": gauss(1, d),
        "two": gauss(2, d),
        "three": three,
        "rank 1": gauss(6, 1) @ gauss(1, d),
        "rank 2": gauss(6, pair) @ gauss(pair, d),
        "zero": 0 * gauss(4, d),
        "plus and minus": torch.cat([three, -three]),
        "phases": torch.stack([q * p for q in gauss(2, d) for p in (1, 1j, -1, -1j)]),
        "scale 1e-6": 1e-6 * gauss(6, d),
        "scale 1e6": 1e6 * gauss(6, d),
    }
    for gap in (1e-3, 1e-5, 1e-6, 1e-8):
        x = gauss(6, d)
        x[1] = x[0] + gap * gauss(d)
        found[f"two within {gap:g}"] = x
        x = gauss(6, d)
        x[:, -1] *= gap
        found[f"thin, {gap:g}"] = x @ parse_group(f"U({d})").sample(1)[0]
    if d == 3:
        left = torch.randn(6, 3, dtype=torch.float64)
        left[:, 0] *= -torch.linalg.det(left[:3]).sign()
        found |= {"cube": CUBE.to(C), "left-handed": left + 0j}
    return found


@pytest.mark.parametrize("dtype", [torch.complex64, C])
@pytest.mark.parametrize("group", ["U(1)", "U(2)", "SU(2)", "U(3)", "SU(3)", "U(4)", "SU(4)"])
def test_every_rank_and_near_miss_is_exact_beside_a_generic_cloud(group, dtype):
    d = parse_group(group).dim
    for title, x in clouds(d).items():
        size = x.abs().amax()
        both = torch.stack([x, gauss(*x.shape) * (size if size > 0 else 1)]).to(dtype)
        n = len(x)
        for pattern, shape in {"b k": (4,), "b n v": (n, d), "b v v": (d, d)}.items():
            numbers = "real" if pattern == "b k" else "complex"
            net = Dense(n, d, shape, dtype, numbers)
            model = ew.equivariantize(net, group, f"b n v -> {pattern}")
            found = model.equiwrap.errors(both, elements=3)
            assert found.worst <= tolerance(REAL[dtype]), f"{title}, {pattern}: {found.worst:.1e}"


def test_the_plain_model_fails_and_outputs_are_not_zero():
    x = clouds(3)["rank 2"][None]
    net = Dense(6, 3, (6, 3))
    plain = ew.measure.equivariance_error(net, "U(3)", x, signature="b n v -> b n v")
    assert float(plain) > 0.1
    assert ew.equivariantize(net, "U(3)", "b n v -> b n v")(x).abs().amax() > 1e-2


@pytest.mark.parametrize("group", ["U(2)", "U(3)", "SU(3)"])
def test_the_frame_moves_with_the_group_and_ignores_the_order(group):
    x = gauss(4, 7, parse_group(group).dim)
    check_frame(ComplexAxes(), group, x, tol=1e-9)
    frame, g = ComplexAxes(), parse_group(group)
    order = torch.randperm(7)
    assert relative_of(frame(g, [x[:, order]]).elements, frame(g, [x]).elements) < 1e-12


def relative_of(a, b):
    return float((a - b).abs().amax() / b.abs().amax())


def test_su_tells_apart_what_u_does_not():
    x, phase = gauss(3, 5, 3), torch.tensor(0.6 + 0.8j, dtype=C)
    net = Dense(5, 3, (4,), numbers="real")
    u = ew.equivariantize(net, "U(3)", "b n v -> b k")
    su = ew.equivariantize(net, "SU(3)", "b n v -> b k")
    assert relative(u(phase * x), u(x)) < 1e-9
    assert relative(su(phase * x), su(x)) > 1e-2


@pytest.mark.parametrize(
    ("group", "design", "rank"),
    [
        ("U(2)", phases(2), 3),
        ("U(3)", phases(3), 3),
        ("SU(2)", quaternions(), 2),
        ("SU(3)", heisenberg(3), 2),
        ("SU(4)", heisenberg(4), 2),
    ],
)
def test_a_design_averages_tensors_as_haar_does(group, design, rank):
    g = parse_group(group)
    assert g.distance(design).amax() < 1e-12
    products = (design.unsqueeze(1) @ design).flatten(0, 1)
    gap = (products.unsqueeze(1) - design).abs().amax((-1, -2)).amin(1)
    if group.startswith("S"):
        assert gap.amax() < 1e-12  # a group
    haar = g.sample(20_000, generator=torch.Generator().manual_seed(0))

    def mean(elements):
        power = elements
        for _ in range(rank - 1):
            power = torch.einsum("gij,gkl->gikjl", power, elements).flatten(1, 2).flatten(2)
        return power.mean(0)

    assert (mean(design) - mean(haar)).abs().amax() < 0.03
    if rank == 1:
        assert mean(design).abs().amax() < 1e-12


def test_two_inputs_count_together():
    class Pair(Dense):
        def forward(self, x, y):
            return super().forward(torch.cat([x, y], 1))

    x, y = gauss(3, 1, 3), gauss(3, 4, 3)
    model = ew.equivariantize(Pair(5, 3, (3,)), "U(3)", "b n v, b m v -> b v")
    assert model.equiwrap.errors(x, y).worst < 1e-10


def test_gradients_nan_and_one_graph():
    x = gauss(2, 5, 3)
    model = ew.equivariantize(Dense(5, 3, (5, 3)), "SU(3)", "b n v -> b n v")
    one = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x).abs().square().sum(), one, atol=1e-4)
    for title, cloud in clouds(3).items():
        cloud = cloud[None].clone().requires_grad_()
        net = ew.equivariantize(Dense(cloud.shape[1], 3, (3,)), "U(3)", "b n v -> b k")
        net(cloud).abs().square().sum().backward()
        assert torch.view_as_real(cloud.grad).isfinite().all(), title
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative(torch.view_as_real(fast(x)), torch.view_as_real(model(x))) < 1e-12
    y = model(x)
    x[1, 2] = torch.nan
    assert relative_of(model(x)[:1], y[:1]) < 1e-12
    assert not model(x)[1].isfinite().any()


def test_real_inputs_get_a_sentence():
    model = ew.equivariantize(Dense(5, 3, (2,)), "U(3)", "b n v -> b k")
    with pytest.raises(ew.SignatureError, match=r"complex numbers are needed.*complex64"):
        model(torch.randn(2, 5, 3))


def test_the_batched_frame_is_the_loops_frame_and_much_faster():
    x, frame, group = gauss(256, 20, 3), ComplexAxes(), parse_group("U(3)")

    def seconds(call, rounds):
        best = []
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            best.append(time.perf_counter() - start)
        return min(best)

    assert relative_of(frame(group, [x]).elements[:, 0], unitary_loop(x)) < 1e-9
    whole = seconds(lambda: frame(group, [x]), 5)
    alone = seconds(lambda: unitary_loop(x[:64]), 2) * 4
    assert alone > 5 * whole, f"{alone / whole:.0f} x"
