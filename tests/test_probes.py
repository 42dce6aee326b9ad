"""Probes measure what two separate runs would, and between measurements they are not there."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.graph import placing

LOGITS = "b c h w -> b k"


class Block(nn.Module):
    def __init__(self, a, b, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(b)
        self.skip = nn.Conv2d(a, b, 1, stride) if a != b else None
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.norm(self.conv(x))
        y += x if self.skip is None else self.skip(x)
        return self.act(y)


class Copied(nn.Module):
    def forward(self, x):
        return x.clone()


class Opaque(nn.Module):
    """A container that no graph stands for: it reads data."""

    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)
        self.mix = nn.Linear(c, c)

    def forward(self, x):
        y = self.conv(x)
        if float(y.mean()) > 1e9:
            return y
        return y * self.mix(y.mean((-2, -1)))[..., None, None]


class Net(nn.Module):
    def __init__(self, opaque=False):
        super().__init__()
        self.stem = Block(3, 6)
        self.body = nn.Sequential(Block(6, 6), Block(6, 8, 2))
        self.murky = Opaque(8) if opaque else nn.Identity()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.drop(self.murky(self.body(self.stem(x))).mean((-2, -1))))


class Cloud(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(1, 4)

    def forward(self, x):
        return (x * torch.sigmoid(self.up(x.norm(dim=-1, keepdim=True)))[..., :1]).mean(1)


def lively(net):
    """Statistics and gains that are not those of a fresh model."""
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net.eval()


@pytest.fixture
def net():
    return lively(Net())


@pytest.fixture
def x():
    return torch.randn(3, 3, 9, 9)


def outputs(net, x, names):
    """What the layers of these names give, in a run of its own."""
    found = {}
    hooks = [
        net.get_submodule(n).register_forward_hook(
            lambda m, args, out, n=n: found.update({n: out.clone()})
        )
        for n in names
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return found


def naive(net, x, names, turns=(1, 2, 3)):
    """Store and compare: two separate runs an element."""
    num, den = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    here = outputs(net, x, names)
    for k in turns:
        there = outputs(net, x.rot90(k, (-2, -1)), names)
        for n in names:
            moved = here[n].rot90(k, (-2, -1)) if here[n].ndim == 4 else here[n]
            num[n] += float((there[n] - moved).double().square().sum())
            den[n] += float(there[n].double().square().sum())
    return {n: (num[n] / den[n]) ** 0.5 for n in names}


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("opaque", [False, True])
def test_probes_agree_with_storing_and_comparing(x, dtype, tol, opaque):
    net = lively(Net(opaque)).to(dtype)
    m = ew.equivariantize(net, "C4", LOGITS, probes=True, example=x.to(dtype))
    found = m.equiwrap.probes.measure(x.to(dtype)).errors
    layers = [n for n in found if "add" not in n]
    assert {"stem.conv", "body.0.norm", "body.1.skip"} <= set(layers)
    assert ("murky.conv" in layers) == opaque
    wanted = naive(net, x.to(dtype), layers)
    assert max(wanted.values()) > 0.1
    for name in layers:
        assert abs(found[name] - wanted[name]) <= tol * max(1, wanted[name]), name


def test_a_residual_add_is_probed_where_its_value_stands(net, x):
    m = ew.equivariantize(net, "C4", LOGITS, probes=True, example=x)
    found = m.equiwrap.probes.measure(x).errors
    adds = [n for n in found if "add" in n]
    assert [n.rsplit(".", 1)[0] for n in adds] == ["stem", "body.0", "body.1"]
    for block in (net.stem, *net.body):  # what the add gives, before it is overwritten
        block.act = nn.Sequential(Copied(), block.act)
    copies = ["stem.act.0", "body.0.act.0", "body.1.act.0"]
    wanted = naive(net, x, copies)
    for add, name in zip(adds, copies, strict=True):
        assert abs(found[add] - wanted[name]) < 1e-6


def test_an_equivariant_layer_has_no_error_and_a_broken_one_has(net, x):
    with torch.no_grad():
        for w in (net.stem.conv.weight, net.body[0].conv.weight):
            w.copy_(torch.stack([w.rot90(k, (-2, -1)) for k in range(4)]).mean(0))
        net.body[0].conv.weight[0, 0, 0, 0] += 0.1
    m = ew.equivariantize(net, "C4", LOGITS, probes=True, example=x)
    report = m.equiwrap.probes.measure(x)
    assert report.errors["stem.conv"] < report.floor
    assert report.errors["body.0.conv"] > 1e-3
    assert report.floor < 1e-6


def classes(model):
    return {n: type(m) for n, m in model.named_modules()}


def test_off_is_the_model_itself(net, x):
    before, plain, keys = classes(net), net(x), list(net.state_dict())
    state = {n: dict(m.__dict__) for n, m in net.named_modules()}
    m = ew.equivariantize(net, "C4", LOGITS, probes=True, example=x)
    m.train()
    m.equiwrap.probes.measure(x)
    with m.equiwrap.probes.on():
        assert classes(net) != before
        assert torch.equal(m(x), net.eval()(x)) or torch.allclose(m(x), plain, atol=1e-5)
    assert all(mod.training for mod in net.modules())
    net.eval()
    assert classes(net) == before
    assert {n: dict(m.__dict__) for n, m in net.named_modules()} == state
    assert list(m.state_dict()) == keys
    assert torch.equal(net(x), plain)
    assert torch.equal(ew.unwrap(m)(x), plain)


def test_the_classes_come_back_when_the_model_raises(net, x):
    before = classes(net)
    m = ew.equivariantize(net, "C4", LOGITS, probes=True, example=x)
    with pytest.raises(RuntimeError), m.equiwrap.probes.on():
        m(x.double())
    with pytest.raises(ew.SignatureError, match="another shape"), m.equiwrap.probes.on():
        m(torch.randn(3, 3, 12, 12))
    assert classes(net) == before
    torch.testing.assert_close(m(x), ew.equivariantize(net, "C4", LOGITS)(x))


def test_on_adds_what_measure_adds_and_reset_forgets(net, x):
    m = ew.equivariantize(net, "C4", LOGITS, probes=["stem.conv", "head"], example=x)
    probes = m.equiwrap.probes
    for i in range(3):
        with probes.on(i):
            torch.testing.assert_close(m(x), net(x))
    added = probes.read().errors
    assert added == pytest.approx(probes.measure(x).errors, rel=1e-6)
    assert list(added) == ["stem.conv", "head"]
    probes.reset()
    assert all(e != e for e in probes.read().errors.values())  # nan: nothing was added


def test_a_choice_is_names_expressions_or_a_filter(net, x):
    def chosen(where):
        m = ew.equivariantize(net, "C4", LOGITS, probes=where, example=x)
        return [p.name for p in m.equiwrap.probes.inner.placed]

    convs = ["stem.conv", "body.0.conv", "body.1.conv"]
    assert chosen(r".*\.conv") == convs
    assert chosen(convs[::-1]) == convs
    assert chosen("body.0") == ["body.0"]
    assert chosen(lambda mod, fqn: isinstance(mod, nn.Conv2d) and "skip" not in fqn) == convs
    with pytest.raises(ew.SignatureError, match=r"nearest are stem\.conv"):
        chosen("stem.cnv")
    with pytest.raises(ew.SignatureError, match="chooses none"):
        chosen(lambda mod, fqn: False)


def test_other_sizes_are_followed(net, x):
    m = ew.equivariantize(net, "C4", LOGITS, probes=["stem.conv", "body.1.conv"], example=x)
    first = m.equiwrap.probes.inner
    for shape in [(1, 3, 9, 9), (5, 3, 9, 9), (2, 3, 12, 12)]:
        other = torch.randn(shape)
        found = m.equiwrap.probes.measure(other).errors
        assert found == pytest.approx(naive(net, other, list(found)), rel=1e-5)
        assert (m.equiwrap.probes.inner is first) == (shape[-1] == 9)


def test_every_chosen_node_is_placed_or_named_with_its_reason(x):
    m = ew.equivariantize(lively(Net(opaque=True)), "C4", LOGITS, probes=True, example=x)
    inner = m.equiwrap.probes.inner
    tiers = {p.name: p.tier for p in inner.placed}
    assert tiers["stem.conv"] == "graph"
    assert tiers["murky.conv"] == "hook"
    assert "opaque code" in inner.missed["murky.mix"]
    assert "head" in inner.missed
    assert not set(tiers) & set(inner.missed)
    text = str(m.equiwrap.report())
    assert "1 by hook" in text
    assert "Not probed: murky.mix has no type" in text
    assert "not probed: murky.mix" in str(m.equiwrap.probes.measure(x))


def test_vectors_are_probed_too():
    net, x = Cloud().double(), torch.randn(4, 6, 3, dtype=torch.float64)
    m = ew.equivariantize(net, "O(3)", "b n v -> b v", probes=True, example=x)
    found = m.equiwrap.probes.measure(x)
    assert found.errors == {"up": pytest.approx(0, abs=1e-12)}


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_insert_their_own_when_first_asked(net, x, copier):
    m = ew.equivariantize(net, "C4", LOGITS, probes=r".*\.conv", example=x)
    wanted = m.equiwrap.probes.measure(x).errors
    twin = copier(m)
    assert "first" in str(twin.equiwrap.report())
    assert twin.equiwrap.probes.measure(x).errors == wanted
    with torch.no_grad():
        twin.stem.conv.weight.neg_()
    assert twin.equiwrap.probes.measure(x).errors != wanted
    assert m.equiwrap.probes.measure(x).errors == wanted
    assert m.equiwrap.config.to_dict()["probes"] == r".*\.conv"


def test_errors_by_layer_without_asking_beforehand(net, x):
    m = ew.equivariantize(net, "C4", LOGITS)
    found = m.equiwrap.errors(x, layers=True)
    assert found.errors == pytest.approx(
        naive(net, x, [n for n in found.errors if "add" not in n])
        | {n: e for n, e in found.errors.items() if "add" in n},
        rel=1e-5,
    )


def test_an_example_is_made_for_images_and_asked_for_otherwise():
    m = ew.equivariantize(lively(Net()), "C4", probes="stem.conv")
    assert [p.name for p in m.equiwrap.probes.inner.placed] == ["stem.conv"]
    with pytest.raises(ew.SignatureError, match="give example=x"):
        ew.equivariantize(Cloud(), "O(3)", "b n v -> b v", probes=True)
    with pytest.raises(ew.SignatureError, match="followed through a network"):
        ew.equivariantize(
            Cloud(), "E(3)", "b n p -> b p", probes=True, example=torch.randn(2, 5, 3)
        )


def test_in_place_too(net, x):
    before = classes(net)
    m = ew.equivariantize_(net, "C4", LOGITS, probes=True, example=x)
    wrapped = type(net)
    found = m.equiwrap.probes.measure(x).errors
    assert type(net) is wrapped
    assert found["stem.conv"] > 0.1
    ew.unwrap(net)
    assert classes(net) == before


@pytest.mark.parametrize("hooked", [set(), {"stem", "body.1"}])
def test_one_graph_off_and_one_on(net, x, hooked, monkeypatch):
    from torch._dynamo.testing import CompileCounterWithBackend

    if hooked and torch.__version__ < "2.10":
        pytest.skip("the dynamo of torch 2.9 cannot read a module's own forward")
    monkeypatch.setattr(placing, "unlike", lambda *_: hooked)  # as if these had failed
    m = ew.equivariantize(net, "C4", LOGITS, probes=True, example=x, frame="whole")
    probes, wanted = m.equiwrap.probes, m(x)
    eager = probes.measure(x).errors
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(m, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(x), wanted)
    assert counter.frame_count == 1
    probes.reset()
    with probes.on(0):
        compiled(x)
        compiled(x)
    assert counter.frame_count == 2
    torch.testing.assert_close(compiled(x), wanted)
    with probes.on(0):
        compiled(x)
    assert counter.frame_count == 2
    once = probes.read().errors
    probes.reset()
    with probes.on(0):
        m(x)
    assert probes.read().errors == pytest.approx(once, rel=1e-5)
    assert eager.keys() == once.keys()
    tiers = {p.name: p.tier for p in probes.inner.placed}
    assert tiers["stem.conv"] == ("hook" if hooked else "graph")
    assert any("no module to watch" in why for why in probes.inner.missed.values()) == bool(hooked)


def test_the_sums_are_neither_state_nor_graph(net, x):
    m = ew.equivariantize(net, "C4", LOGITS, probes=True, example=x)
    with m.equiwrap.probes.on():
        y = m(x)
    sums = m.equiwrap.probes.inner.sums.sums
    assert not y.requires_grad
    assert sums.grad_fn is None
    assert not any(b is sums for b in m.buffers())
    assert not any("sums" in k for k in m.state_dict())
    assert m(x).requires_grad


def test_a_wrong_element_is_caught(net, x):
    """Teeth: an equivariant layer is no longer one if ρ(g⁻¹) takes the place of ρ(g)."""
    with torch.no_grad():
        w = net.stem.conv.weight
        w.copy_(torch.stack([w.rot90(k, (-2, -1)) for k in range(4)]).mean(0))
    m = ew.equivariantize(net, "C4", LOGITS, probes="stem.conv", example=x)
    probes, group = m.equiwrap.probes, m.equiwrap.signature.group
    assert probes.measure(x).errors["stem.conv"] < 1e-6
    probes.reset()
    with probes.on(0):
        kind = probes.inner.moves[0][0][1]
        probes.inner.moves[0] = [(None, kind, kind.mover(group, probes.inner.elements[2]))]
        m(x)
    assert probes.read().errors["stem.conv"] > 0.1
