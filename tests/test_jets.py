"""The Lorentz frame: massless constituents, strong boosts, and every way to have no rest frame."""

from __future__ import annotations

import time

import pytest
import torch
from reference import Dense, Sets, relative
from reference_jets import rest_loop

import equiwrap as ew
from equiwrap.frames import Rest
from equiwrap.groups import boost, parse_group
from equiwrap.testing import check_frame, tolerance

D = torch.float64
GROUPS = ["SO+(1,3)", "SO(1,3)", "O(1,3)"]
OUTPUTS = {"b k": (5,), "b n v": (30, 4), "b v": (4,)}


def jet(n, pt, mass=0.0):
    """n constituents around one axis."""
    share = torch.rand(n, 1, dtype=D) + 0.1
    axis = torch.tensor([1.0, 0, 0], dtype=D) + 0.2 * torch.randn(n, 3, dtype=D)
    p = pt * share / share.sum() * axis
    return torch.cat([(p.square().sum(-1, keepdim=True) + mass**2).sqrt(), p], -1)


def boosts(beta, count):
    way = torch.nn.functional.normalize(torch.randn(count, 3, dtype=D), dim=-1)
    gamma = torch.full((count, 1), (1 - beta**2) ** -0.5, dtype=D)
    return boost(torch.cat([gamma, gamma * beta * way], -1))


def momenta(*rows):
    return torch.tensor(rows, dtype=D)


def events():
    """Vectors of every kind, by name; each spans something time-like."""
    isotropic = torch.randn(6, 3, dtype=D)
    light = torch.cat([isotropic.norm(dim=-1, keepdim=True), isotropic], -1)
    flat = light.clone()
    flat[:, 3] = 0
    flat[:, 0] = flat[:, 1:].norm(dim=-1)
    spacelike = torch.cat([0.3 * light[:, :1], isotropic], -1)
    return {
        "massless": light,
        "mass 0.05": torch.cat([(light[:, :1].square() + 0.05**2).sqrt(), isotropic], -1),
        "scale 1e-6": 1e-6 * light,
        "scale 1e6": 1e6 * light,
        "two, back to back": momenta([1, 1, 0, 0], [1, -1, 0, 0]),
        "one, massive": momenta([2, 1, 0, 0]),
        "equal ones": momenta([2, 1, 0, 0]).repeat(4, 1),
        "rank 3": flat,
        "zero rows": torch.cat([light, torch.zeros(4, 4, dtype=D)]),
        "space-like and one time-like": torch.cat([spacelike, momenta([9, 0.1, 0, 0])]),
        "only space-like, spanning": torch.cat([spacelike, -0.7 * spacelike.roll(1, 0)]),
        "total zero": torch.cat([light, -light]),
        "past": -light,
        "tetrahedron": momenta([3, 1, 1, 1], [3, 1, -1, -1], [3, -1, 1, -1], [3, -1, -1, 1]),
    }


@pytest.mark.parametrize("pattern", OUTPUTS)
@pytest.mark.parametrize("group", GROUPS)
def test_massless_jets_up_to_5_tev_and_boosts_up_to_0999(group, pattern):
    plain, worst = Dense(30, 4, OUTPUTS[pattern]), 0.0
    model = ew.equivariantize(plain, group, f"b n v -> {pattern}")
    kind, out = model.equiwrap.signature.inputs[0][1], model.equiwrap.signature.outputs[0][1]
    for pt in (10, 100, 1000, 5000):
        x = torch.stack([jet(30, pt) for _ in range(3)])
        y = model(x)
        assert y.abs().amax() > 0.01
        for beta in (0.6, 0.9, 0.99, 0.999):
            h = boosts(beta, 3) @ parse_group(group).sample(3)
            moved, expected = kind.act(h, x, 1), out.act(h, y, 1)
            assert relative(plain(moved), plain(x)) > 1e-3
            worst = max(worst, relative(model(moved), expected))
    assert worst <= 1e-8


@pytest.mark.parametrize("group", GROUPS)
def test_every_kind_of_event_is_exact_beside_a_generic_one(group):
    for title, x in events().items():
        both = torch.stack([x, torch.randn(len(x), 4, dtype=D).abs() + momenta([2, 0, 0, 0])])
        for pattern, shape in {"b k": (5,), "b n v": (len(x), 4), "b v v": (4, 4)}.items():
            model = ew.equivariantize(Dense(len(x), 4, shape), group, f"b n v -> {pattern}")
            found = model.equiwrap.errors(both, elements=4)
            assert found.worst <= tolerance(D), f"{title}, {pattern}: {found.worst:.1e}"


@pytest.mark.parametrize("group", GROUPS)
def test_single_precision_is_exact_or_refused(group):
    frame, done = Rest(), 0
    for title, x in events().items():
        x = x.float()[None]
        model = ew.equivariantize(
            Dense(x.shape[1], 4, (5,), torch.float32), group, "b n v -> b k", frame=frame
        )
        try:
            worst = model.equiwrap.errors(x, elements=4).worst
        except ew.FrameError:
            worst = None
        if worst is not None:
            done += 1
            assert worst <= 1e-3, f"{title}: {worst:.1e}"
    assert done >= 9
    strong = (jet(30, 5000.0, 0.14)[None] @ boosts(0.999, 1).mT).float()
    with pytest.raises(ew.FrameError, match=r"Sample 0 .*\(γ|γ = "):
        frame(parse_group(group), [strong])


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (torch.zeros(3, 4, dtype=D), "all its vectors are zero"),
        (momenta([1, 1, 0, 0]), "no combination"),
        (momenta([1, 1, 0, 0], [2, 2, 0, 0]), "no combination"),
        (momenta([0, 1, 0, 0], [0, 0, 1, 0]), "no combination"),
    ],
)
def test_a_stabiliser_that_is_not_compact_gets_a_sentence(x, why):
    model = ew.equivariantize(Dense(len(x), 4, (2,)), "SO+(1,3)", "b n v -> b k")
    generic = torch.rand(len(x), 4, dtype=D) + momenta([3, 0, 0, 0])
    with pytest.raises(ew.FrameError, match=f"Sample 1 .*{why}"):
        model(torch.stack([generic, x]))
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")(torch.stack([generic, x]))
    assert traced[1].isnan().all()
    assert traced[0].isfinite().all()
    if len(x) > 2:  # two are back to back at rest: a symmetry, of which traced code takes one side
        assert relative(traced[:1], model(generic[None])) < 1e-10


def test_the_groups_tell_apart_what_they_should():
    x = torch.rand(4, 6, 4, dtype=D) + momenta([3, 0, 0, 0])
    mirror, reversal = torch.ones(4, dtype=D), torch.ones(4, dtype=D)
    mirror[1], reversal[0] = -1, -1
    net = Dense(6, 4, (3,))
    same = {}
    for name in GROUPS:
        model = ew.equivariantize(net, name, "b n v -> b k")
        y = model(x)
        parts = {"mirror": mirror, "reversal": reversal, "both": mirror * reversal}
        same[name] = [k for k, g in parts.items() if relative(model(x * g), y) < 1e-9]
    assert same == {"SO+(1,3)": [], "SO(1,3)": ["both"], "O(1,3)": ["mirror", "reversal", "both"]}


@pytest.mark.parametrize("group", ["O(1,1)", "SO+(1,1)", "SO+(1,2)", "O(1,2)", "SO(1,4)"])
def test_other_dimensions(group):
    d = parse_group(group).dim
    x = torch.randn(3, 7, d, dtype=D)
    x[..., 0] = x[..., 1:].norm(dim=-1) * 1.1
    check_frame(Rest(), group, x, tol=1e-7)
    model = ew.equivariantize(Dense(7, d, (7, d)), group, "b n v -> b n v")
    assert model.equiwrap.errors(x).worst < 1e-9


def test_the_order_of_the_particles_does_not_matter_and_padding_is_free():
    x = torch.stack([jet(12, 100.0) for _ in range(4)])
    model = ew.equivariantize(Sets(4, 4, False), "SO+(1,3)", "b n v -> b n v")
    order = torch.randperm(12)
    assert relative(model(x[:, order]), model(x)[:, order]) < 1e-9
    frame, group = Rest(), parse_group("SO+(1,3)")
    padded = torch.cat([x, torch.zeros(4, 5, 4, dtype=D)], 1)
    assert relative(frame(group, [padded]).elements, frame(group, [x]).elements) < 1e-9


def test_gradients_are_those_of_finite_differences_on_both_roads():
    for x in (jet(5, 3.0)[None], torch.randn(1, 6, 4, dtype=D)):
        x = x.requires_grad_()
        model = ew.equivariantize(
            Dense(x.shape[1], 4, (x.shape[1], 4)), "SO+(1,3)", "b n v -> b n v"
        )
        assert torch.autograd.gradcheck(lambda x, m=model: m(x).tanh().sum(), x, atol=1e-4)
    for title, x in events().items():
        x = x[None].requires_grad_()
        model = ew.equivariantize(Dense(x.shape[1], 4, (3,)), "O(1,3)", "b n v -> b k")
        model(x).sum().backward()
        assert x.grad.isfinite().all(), title


def test_nan_stays_in_its_sample():
    x = torch.stack([jet(8, 10.0) for _ in range(3)])
    model = ew.equivariantize(Dense(8, 4, (3,)), "SO+(1,3)", "b n v -> b k")
    y = model(x)
    x[1, 2, 0] = torch.nan
    assert model(x)[1].isnan().all()
    assert relative(model(x)[[0, 2]], y[[0, 2]]) < 1e-12


def test_the_batched_frame_is_the_loops_frame_and_much_faster():
    x = torch.stack([jet(30, 100.0) for _ in range(256)])
    frame, group = Rest(), parse_group("SO+(1,3)")

    def seconds(call, rounds):
        best = []
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            best.append(time.perf_counter() - start)
        return min(best)

    assert relative(frame(group, [x[:16]]).elements[:, 0], rest_loop(x[:16])) < 1e-6
    whole = seconds(lambda: frame(group, [x]), 5)
    alone = seconds(lambda: rest_loop(x[:32]), 2) * 8
    assert alone > 5 * whole, f"{alone / whole:.0f} x"
