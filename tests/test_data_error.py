"""The data's own asymmetry: the dial, its interval, the bracket, and the gain of wrapping."""

from __future__ import annotations

import pytest
import torch
from reference_measure import Quarters, least_squares_dial

import equiwrap as ew
from equiwrap.measure import PartialSet, data_error, model_error

SIG = "b (c v) -> b k"


def random_network(seed, outputs=1, width=24):
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(4, width, generator=rng).double()
    v = torch.randn(width, outputs, generator=rng).double() / width**0.5
    return lambda x: torch.tanh(x @ w) @ v


def test_the_dial_is_the_least_squares_weight_of_the_broken_part():
    data, net = Quarters(0), random_network(1)
    x, y = data.draw(400, 0.5, 0.2, torch.Generator().manual_seed(2))

    def average(v):
        turns = [v]
        for _ in range(3):
            turns.append(data.turn(turns[-1]))
        return sum(net(t) for t in turns) / 4

    found = data_error(net, "C4", (x, y), signature=SIG)
    assert float(found.dial) == pytest.approx(least_squares_dial(net, average, x, y), rel=1e-9)
    gain = ((y - net(x)).square().mean() - (y - average(x)).square().mean()).item()
    assert float(found.gain) == pytest.approx(gain, rel=1e-9)
    assert float(found.risk) == pytest.approx(float((y - net(x)).square().mean()), rel=1e-9)
    assert float(found.broken) ** 2 == pytest.approx(float((net(x) - average(x)).square().mean()))
    batches = [(x[i : i + 64], y[i : i + 64]) for i in range(0, 400, 64)]
    split = data_error(net, "C4", batches, signature=SIG)
    assert float(split.dial) == pytest.approx(float(found.dial), rel=1e-9)
    assert split.dial.samples == 400


def test_intervals_of_the_dial_cover_the_truth():
    """f = f_inv + a·f_⊥ on data of DEE ε: α* = ε / a whatever the noise."""
    data, rng, hits, runs = Quarters(3), torch.Generator().manual_seed(4), 0, 600
    for _ in range(runs):
        x, y = data.draw(250, 0.3, 0.5, rng)
        f = lambda v: sum(data.parts(v)[i] * s for i, s in ((0, 1.0), (1, 0.6))).unsqueeze(-1)  # noqa: E731
        found = data_error(f, "C4", (x, y), signature=SIG)
        hits += found.dial.low <= 0.5 <= found.dial.high
    assert 0.92 <= hits / runs <= 0.97, hits / runs


def test_intervals_of_the_sampled_dial_cover_the_truth():
    """f = ‖x‖² + a·x on the plane under SO(2), y = ‖x‖² + b·x + noise: α* = a·b / ‖a‖²."""
    rng, hits, runs = torch.Generator().manual_seed(5), 0, 600
    a, b = torch.tensor([[0.8, 0.3], [0.5, -0.2]], dtype=torch.float64)
    truth = float(a @ b / a.square().sum())
    for i in range(runs):
        x = torch.randn(250, 2, generator=rng, dtype=torch.float64)
        noise = torch.randn(250, 1, generator=rng, dtype=torch.float64)
        y = x.square().sum(-1, keepdim=True) + x @ b[:, None] + 0.3 * noise
        f = lambda v: v.square().sum(-1, keepdim=True) + v @ a[:, None]  # noqa: E731
        found = data_error(f, "SO(2)", (x, y), signature="b v -> b k", samples=2, seed=7 * i)
        hits += found.dial.low <= truth <= found.dial.high
    assert 0.92 <= hits / runs <= 0.97, hits / runs


def test_intervals_of_the_logit_dial_cover_the_truth():
    """Labels drawn from softmax(f_inv + 0.5·f_⊥) of a model f = f_inv + f_⊥: α* = 0.5."""
    net, data = random_network(6, outputs=3), Quarters(0)
    rng, hits, runs = torch.Generator().manual_seed(7), 0, 400
    for _ in range(runs):
        x = torch.randn(300, 4, generator=rng).double()
        turns = [x]
        for _ in range(3):
            turns.append(data.turn(turns[-1]))
        kept = sum(2 * net(t) for t in turns) / 4
        p = (kept + 0.5 * (2 * net(x) - kept)).softmax(-1)
        y = torch.multinomial(p, 1, generator=rng).squeeze(-1)
        found = data_error(lambda v: 2 * net(v), "C4", (x, y), signature=SIG)
        hits += found.dial.low <= 0.5 <= found.dial.high
    assert 0.92 <= hits / runs <= 0.97, hits / runs


def test_the_logit_dial_is_the_minimum_on_a_grid():
    net, data = random_network(8, outputs=4), Quarters(0)
    x = torch.randn(300, 4).double()
    y = (net(x) + 0.5 * torch.randn(300, 4)).argmax(-1)
    found = data_error(net, "C4", (x, y), signature=SIG)
    turns = [x, data.turn(x), data.turn(data.turn(x)), -data.turn(x)]
    kept = sum(net(t) for t in turns) / 4
    loss = [
        float(torch.nn.functional.cross_entropy(kept + a * (net(x) - kept), y))
        for a in torch.linspace(-2, 12, 1401).tolist()
    ]
    grid = -2 + 0.01 * min(range(1401), key=loss.__getitem__)
    assert float(found.dial) == pytest.approx(grid, abs=0.006)
    at = torch.nn.functional.cross_entropy(net(x), y) - torch.nn.functional.cross_entropy(kept, y)
    assert float(found.gain) == pytest.approx(float(at), rel=1e-9)


def test_wrapping_saves_the_error_where_the_target_is_equivariant():
    data, net = (
        Quarters(9),
        torch.nn.Sequential(
            torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)
        ).double(),
    )
    rng = torch.Generator().manual_seed(10)
    x, y = data.draw(4000, 0.0, 0.3, rng)
    wrapped = ew.equivariantize(net, "C4", SIG, frame="whole")
    with torch.no_grad():
        drop = float((net(x) - y).square().mean() - (wrapped(x) - y).square().mean())
    mee = model_error(net, "C4", x, signature=SIG)
    found = data_error(net, "C4", (x, y), signature=SIG)
    assert drop == pytest.approx(float(found.gain), rel=1e-9)
    assert found.gain.low <= float(mee) ** 2 <= found.gain.high
    # the noise of the drop is twice that of ⟨f_⊥, y − Qf⟩: enough inputs make it 10 %
    x, y = data.draw(200_000, 0.0, 0.3, rng)
    with torch.no_grad():
        drop = float((net(x) - y).square().mean() - (wrapped(x) - y).square().mean())
    assert drop == pytest.approx(float(model_error(net, "C4", x, signature=SIG)) ** 2, rel=0.1)
    x, y = data.draw(20_000, 1.0, 0.3, rng)  # a target that is not equivariant: no such law
    broken = data_error(net, "C4", (x, y), signature=SIG)
    assert abs(float(broken.gain) - float(broken.broken) ** 2) > 0.1 * float(broken.broken) ** 2


def trained(x, y, seed):
    """A network left to itself: two layers of 64 tanh units, 250 steps of AdamW."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 1),
    )
    step = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1e-2)
    for _ in range(250):
        step.zero_grad()
        (net(x) - y).square().mean().backward()
        step.step()
    return net.eval()


@pytest.mark.parametrize("dee", [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0])
def test_a_freely_trained_model_finds_the_asymmetry_of_its_data(dee):
    data, rng = Quarters(11), torch.Generator().manual_seed(12)
    x, y = (t.float() for t in data.draw(500, dee, 0.2, rng))
    held = tuple(t.float() for t in data.draw(500, dee, 0.2, rng))
    found = data_error(trained(x, y, 13), "C4", held, signature=SIG)
    assert abs(float(found) - dee) <= max(0.1, 0.35 * dee)
    assert found.lower.low <= dee <= found.upper
    if dee >= 0.4:
        assert "noise" not in found.advice


def test_advice_follows_the_interval():
    data = Quarters(14)
    x, y = data.draw(2000, 0.5, 0.1, torch.Generator().manual_seed(15))

    def model(size):
        return lambda v: (data.parts(v)[0] + size * data.parts(v)[1]).unsqueeze(-1)

    said = {
        s: data_error(model(s), "C4", (x, y), signature=SIG) for s in (0.0, 0.1, 0.5, 1.0, -0.5)
    }
    assert "nothing to turn" in said[0.0].advice
    assert "lower the penalty" in said[0.1].advice
    assert "leave it" in said[0.5].advice
    assert "softness=0.5" in said[1.0].advice
    assert "wrong on these data" in said[-0.5].advice
    assert said[1.0].softness == pytest.approx(0.5, abs=0.05)
    assert float(said[1.0]) == pytest.approx(0.5, abs=0.05)
    clean = data_error(
        model(0.3), "C4", (x, data.parts(x)[0].unsqueeze(-1) + torch.randn(2000, 1)), signature=SIG
    )
    assert "is noise here" in clean.advice
    for text in ("α*", "DEE", "wrapping saves", "held-out"):
        assert text in str(said[1.0])


def test_the_recommended_softness_is_the_best_blend():
    data = Quarters(16)

    class Net(torch.nn.Module):
        def forward(self, v):
            kept, broken = data.parts(v)
            return (kept + 1.0 * broken).unsqueeze(-1)

    x, y = data.draw(3000, 0.5, 0.1, torch.Generator().manual_seed(17))
    c = data_error(Net(), "C4", (x, y), signature=SIG).softness
    risk = []
    for s in (c - 0.1, c, c + 0.1):
        soft = ew.equivariantize(Net(), "C4", SIG, frame="whole", softness=s)
        risk.append(float((soft(x) - y).square().mean()))
    assert risk[1] < min(risk[0], risk[2])


def test_partial_sets_and_vector_targets_and_bad_data():
    x = torch.randn(300, 3, 2, dtype=torch.float64)
    f = lambda v: v + 0.3 * v[..., :1]  # noqa: E731
    near = data_error(f, PartialSet("SO(2)", 30), (x, x), signature="b n v -> b n v")
    assert near.lower is None
    assert "no group" in str(near)
    whole = data_error(f, "SO(2)", (x, x), signature="b n v -> b n v")
    assert float(whole.dial) == pytest.approx(0, abs=0.25)  # the target is equivariant
    assert whole.lower is not None
    with pytest.raises(ew.SignatureError, match="data are empty"):
        data_error(f, "SO(2)", [], signature="b n v -> b n v")
    with pytest.raises(ew.SignatureError, match="batches"):
        data_error(f, "SO(2)", [x], signature="b n v -> b n v")
    with pytest.raises(ew.SignatureError, match="shapes"):
        data_error(f, "SO(2)", (x, x[:, :2]), signature="b n v -> b n v")


def test_a_loader_of_images_and_labels_runs_as_written():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    pairs = torch.utils.data.TensorDataset(torch.randn(40, 1, 8, 8), torch.arange(40) % 3)
    found = data_error(net, "C4", torch.utils.data.DataLoader(pairs, batch_size=16))
    assert found.dial.samples == 40
    assert "cross entropy" in str(found)
    assert found.lower is None
