"""Wrapping around a sub-network: exact on its features, and the rest of the model as it was."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.frames import Learned
from equiwrap.frames.keys import SYMBOLIC
from equiwrap.testing import assert_equivariant

FIELD = "b c h w -> b c h w"


class Block(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv = nn.Conv2d(a, b, 3, padding=1)
        self.norm = nn.BatchNorm2d(b)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class Energy(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8).double())

    def forward(self, x):
        return (x * self.weight).sum((1, 2, 3))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Block(3, 4)
        self.body = nn.Sequential(Block(4, 4), nn.Sequential(Block(4, 5), nn.Identity()))
        self.head = nn.Linear(5, 3)
        self.spare = nn.Conv2d(3, 3, 1)
        self.num_classes = 3

    def features(self, x):
        return self.body(self.stem(x))

    def forward(self, x):
        return self.head(self.features(x).amax((-2, -1)))


@pytest.fixture
def net():
    return Net().double().eval()


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8, dtype=torch.float64)


def turned(x, k):
    return x.rot90(k, (-2, -1))


def gap(f, x):
    with torch.no_grad():
        y = f(x)
        return max((f(turned(x, k)) - turned(y, k)).norm() / y.norm() for k in (1, 2, 3))


@pytest.mark.parametrize("path", ["body", "body.1", "body.1.0", "stem"])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_features_are_equivariant_and_were_not(net, x, path, in_place):
    feats = torch.randn(2, 3 if path == "stem" else 4, 8, 8, dtype=torch.float64)
    assert gap(net.get_submodule(path), feats) > 0.1
    plain = net(x)
    make = ew.equivariantize_ if in_place else ew.equivariantize
    model = make(net, "C4", FIELD, at=path, frame="whole")
    part = model.get_submodule(path)
    assert gap(part, feats) < 1e-12
    assert_equivariant(part, "C4", feats)
    assert not torch.allclose(model(x), plain)
    with ew.disabled(model):
        assert torch.equal(model(x), plain)
    if not in_place:
        assert torch.equal(net(x), plain)
        assert gap(net.get_submodule(path), feats) > 0.1
    assert ew.unwrap(model) is net
    assert type(net) is Net
    assert torch.equal(net(x), plain)


def test_it_is_the_same_as_wrapping_the_part_by_hand(net, x):
    model = ew.equivariantize(net, "D4", FIELD, at="body.1", frame="whole")
    by_hand = copy.deepcopy(net)
    by_hand.body[1] = ew.equivariantize(by_hand.body[1], "D4", FIELD, frame="whole")
    torch.testing.assert_close(model(x), by_hand(x), rtol=0, atol=0)
    torch.testing.assert_close(model.features(x), by_hand.features(x), rtol=0, atol=0)


def test_several_parts_make_an_equivariant_whole(net, x):
    model = ew.equivariantize(net, "C4", FIELD, at=["stem", "body.0", "body.1"], frame="whole")
    assert gap(model.features, x) < 1e-12
    assert gap(net.features, x) > 0.1
    assert set(model.equiwrap.errors(x)) == {"stem", "body.0", "body.1"}
    assert all(float(e) < 1e-12 for e in model.equiwrap.errors(x).values())
    assert model.equiwrap.config.at == ("stem", "body.0", "body.1")
    assert "body.0" in str(model.equiwrap.report())


def test_nothing_about_the_model_moves(net, x):
    model = ew.equivariantize(net, "C4", FIELD, at="body.1")
    assert isinstance(model, Net)
    assert model.num_classes == 3
    assert list(model.state_dict()) == list(net.state_dict())
    assert list(dict(model.named_modules())) == list(dict(net.named_modules()))
    assert all(a is b for a, b in zip(model.parameters(), net.parameters(), strict=True))
    model.train()
    assert net.body[1][0].norm.training
    assert net.training
    net.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})
    torch.testing.assert_close(model.body[1][0].conv.weight, net.body[1][0].conv.weight)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("in_place", [False, True])
def test_copies_are_whole_and_independent(net, x, copier, in_place):
    make = ew.equivariantize_ if in_place else ew.equivariantize
    model = make(net, "C4", FIELD, at=["stem", "body.1.0"], frame="whole")
    twin = copier(model)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    with torch.no_grad():
        twin.body[1][0].conv.weight.mul_(2)
    assert not torch.allclose(twin(x), model(x))
    assert gap(twin.body[1][0], torch.randn(2, 4, 8, 8).double()) < 1e-12
    assert type(ew.unwrap(twin)) is Net
    assert ew.unwrap(twin).body[1][0].conv.weight is twin.body[1][0].conv.weight


def test_a_training_step_keeps_the_law_and_moves_the_plain_model(net, x):
    model = ew.equivariantize(net, "C4", FIELD, at="body", frame="whole").train()
    before = net.body[0].conv.weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(b < a for a, b in pairwise(losses))
    assert not torch.equal(net.body[0].conv.weight, before)
    model.eval()
    assert gap(model.body, torch.randn(2, 4, 8, 8).double()) < 1e-12


@pytest.mark.skipif(not SYMBOLIC, reason="older dynamo does not follow a property named _modules")
@pytest.mark.parametrize("path", ["body", "body.1.0"])
def test_it_compiles_to_one_graph(net, x, path):
    from torch._dynamo.testing import CompileCounterWithBackend

    model = ew.equivariantize(net, "C4", FIELD, at=path, frame="whole")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count == 1


def test_a_replaced_child_is_used_as_it_is(net, x):
    model = ew.equivariantize(net, "C4", FIELD, at="stem", frame="whole")
    model.stem = Block(3, 4).double().eval()
    assert model.stem is net.stem
    assert torch.equal(model(x), net(x))


def test_a_learned_frame_has_its_own_keys_and_loads_plain_checkpoints(net, x):
    model = ew.equivariantize(net, "C4", FIELD, at="body", frame=Learned(Energy()))
    extra = [k for k in model.state_dict() if k not in net.state_dict()]
    assert extra
    assert all(k.startswith("body.equiwrap.") for k in extra)
    model.load_state_dict(net.state_dict())
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="Missing"):
        model.load_state_dict({k: v for k, v in net.state_dict().items() if "head" not in k})


def test_the_outputs_of_a_part_are_read_off_the_example(net, x):
    model = ew.equivariantize(net, "C4", at="body", frame="whole", example=x, tol=1e-12)
    assert str(model.equiwrap.parts["body"].signature) == FIELD
    assert "before" in str(model.equiwrap.report())


def test_what_cannot_be_wrapped_is_said(net, x):
    with pytest.raises(ew.SignatureError, match=r"nearest are .*body\.1"):
        ew.equivariantize(net, "C4", FIELD, at="bodi.1")
    with pytest.raises(ew.SignatureError, match="does not call it"):
        ew.equivariantize(net, "C4", FIELD, at="spare")
    with pytest.raises(ew.SignatureError, match="none inside another"):
        ew.equivariantize(net, "C4", FIELD, at=["body", "body.1"])
    with pytest.raises(ew.SignatureError, match="belongs to the whole"):
        ew.equivariantize(net, "C4", FIELD, at="body", probes=True)
    with pytest.raises(ew.SignatureError, match="give signature="):
        ew.measure.equivariance_error(ew.equivariantize(net, "C4", FIELD, at="body"), "C4", x)
    assert type(net) is Net


def test_wrapping_again_replaces(net, x):
    model = ew.equivariantize(net, "C4", FIELD, at="body", frame="whole")
    with pytest.warns(ew.EquiwrapWarning, match="replaces"):
        again = ew.equivariantize(model, "C4", "b c h w -> b k", frame="whole")
    assert ew.unwrap(again) is net
    assert_equivariant(again, "C4", x)
