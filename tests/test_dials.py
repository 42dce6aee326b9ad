"""The two dials: linear in what they promise, the same at every call, gone without a trace."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import equiwrap as ew
from equiwrap.groups import parse_group
from equiwrap.measure import equivariance_error
from equiwrap.measure.acting import act, pick
from equiwrap.penalty import read
from equiwrap.signature import Signature

SIGNATURE = "b c h w -> b k"
MODES = ["trivial", "regular"]
GROUPS = ["C4", "D4"]
SIZE = 13  # odd, and odd again after a stride
DIAL = st.floats(0, 1, allow_subnormal=False)
FAST = settings(max_examples=15, deadline=None)


class Net(nn.Module):
    """A strided network with normalisation, a position table and a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(16)
        self.table = nn.Parameter(0.5 * torch.randn(1, 16, 7, 7))
        self.mix = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.second = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        h = self.norm(self.stem(x)).relu() + self.table
        h = h + self.second(self.mix(h)).relu()
        return self.head(h.mean((-2, -1)))


def plain(seed=0):
    """No parameter and no statistic at its initial value."""
    torch.manual_seed(seed)
    net = Net().double()
    with torch.no_grad():
        for norm in (net.norm, net.second):
            for p in (norm.weight, norm.bias, norm.running_mean):
                p.normal_()
            norm.running_var.uniform_(0.5, 2)
    return net.eval()


def images(n=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


def soft(net, b=0.3, group="C4", hidden="trivial", **more):
    return ew.equivariantize(
        net, group, SIGNATURE, method="project", softness=b or None, hidden=hidden,
        example=images(), **more,
    )  # fmt: skip


def average(net, b, group="C4"):
    return ew.equivariantize(net, group, SIGNATURE, frame="whole", softness=b)


def trained(model, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for i in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(images(8, i)), torch.arange(8) % 5).backward()
        optimizer.step()
    return model.eval()


# -- the linear laws -------------------------------------------------------------------------------

LAYERS = {  # how each layer acts, and on what: the road of inputs and outputs
    "trivial": {
        "stem": ("b c h w -> b o h w", (3, SIZE, SIZE)),
        "mix": ("b c h w -> b o h w", (16, 7, 7)),
        "table": ("b c h w -> b c h w", ()),
    },
    "regular": {
        "stem": ("b c h w -> b (r j) h w", (3, SIZE, SIZE)),
        "norm": ("b (r j) h w -> b (r j) h w", (16, 7, 7)),
        "table": ("b (r j) h w -> b (r j) h w", ()),
        "mix": ("b (r j) h w -> b (r j) h w", (16, 7, 7)),
        "second": ("b (r j) h w -> b (r j) h w", (16, 7, 7)),
        "head": ("b (r j) -> b k", (16,)),
    },
}


@torch.no_grad()
def layer_defects(weights, group, hidden):
    """`{layer: [g, b, …]}`: *ρ(g) L(x) − L(ρ(g) x)* for random x, run with these weights.

    A normalisation multiplies two of its tensors: its defect is taken in its shift alone, with the
    other weights those of the projection.
    """
    found, generator = {}, torch.Generator().manual_seed(7)
    net = plain()
    net.load_state_dict(weights)
    elements = parse_group(group).elements()
    for name, (text, shape) in LAYERS[hidden].items():
        sig = Signature.parse(text, group)
        (_, into), (_, out) = sig.inputs[0], sig.outputs[0]
        x = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        if name in ("norm", "second"):
            x = torch.zeros_like(x)
        gaps = []
        for i in range(len(elements)):
            g = pick(elements, i)
            if name == "table":
                gaps.append(act(out, g, net.table) - net.table)
            else:
                layer = getattr(net, name)
                gaps.append(act(out, g, layer(x)) - layer(act(into, g, x)))
        found[name] = torch.stack(gaps)
    return found


def linear_weights(handle, b):
    """The state at b; the scales of the normalisations at 0, which their shift is multiplied by."""
    state = handle.fold(b).state_dict()
    hard = handle.fold(0.0).state_dict()
    for name in ("norm", "second"):
        for part in ("weight", "running_mean", "running_var"):
            state[f"{name}.{part}"] = hard[f"{name}.{part}"]
    return state


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("hidden", MODES)
@pytest.mark.parametrize("group", GROUPS)
def test_the_defect_of_every_layer_is_linear_in_the_dial_of_the_weights(group, hidden, steps):
    net = soft(plain(), group=group, hidden=hidden)
    if steps:
        trained(net, steps)
    whole = layer_defects(linear_weights(net.equiwrap, 1.0), group, hidden)
    for name, gap in whole.items():
        assert gap.norm() > 1e-3, name  # the plain layer fails
    touched = {t.path.split(".")[0] for t in net.equiwrap.targets}
    assert touched == set(whole)

    @FAST
    @given(b=DIAL)
    def law(b):
        now = layer_defects(linear_weights(net.equiwrap, b), group, hidden)
        for name, gap in now.items():
            torch.testing.assert_close(gap, b * whole[name], rtol=0, atol=1e-10)
            assert abs(gap.norm() - b * whole[name].norm()) <= 1e-10 * whole[name].norm()

    law()


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("group", GROUPS)
def test_the_error_of_the_model_is_linear_in_the_dial_of_the_function(group, steps):
    model = trained(plain(), steps) if steps else plain()
    sig, x = Signature.parse(SIGNATURE, group), images()
    elements, kind = sig.group.elements(), sig.inputs[0][1]
    turned = [act(kind, pick(elements, i), x) for i in range(len(elements))]

    @torch.no_grad()
    def gaps(net):
        return torch.stack([net(y) - net(x) for y in turned])

    whole = gaps(model)
    assert whole.norm() > 1e-2

    @FAST
    @given(b=DIAL)
    def law(b):
        torch.testing.assert_close(gaps(average(model, b, group)), b * whole, rtol=0, atol=1e-10)

    law()


def test_the_error_of_the_model_is_not_linear_in_the_dial_of_the_weights():
    """Which is why there are two dials: layers compose."""
    model, x = plain(), images()
    net = soft(model)
    sizes = []
    for b in (0.5, 1.0):
        net.equiwrap.set_softness(b)
        sizes.append((net(x.rot90(1, (2, 3))) - net(x)).norm().item())
    assert abs(sizes[0] / sizes[1] - 0.5) > 1e-3


@pytest.mark.parametrize("hidden", MODES)
@pytest.mark.parametrize("group", GROUPS)
def test_zero_is_exact_and_one_is_the_plain_model_bit_for_bit(group, hidden):
    model, x = plain(), images()
    assert float(equivariance_error(model, group, x, signature=SIGNATURE)) > 0.02
    net = soft(model, 0, group, hidden)
    assert float(net.equiwrap.errors(x)) < 1e-12
    net.equiwrap.set_softness(1.0)
    assert torch.equal(net(x), model(x))
    trained(net)
    assert torch.equal(net(x), model(x))
    net.equiwrap.set_softness(0.0)
    assert float(net.equiwrap.errors(x)) < 1e-12


@FAST
@given(b=st.floats(0, 0.999), hidden=st.sampled_from(MODES))
def test_the_dial_is_continuous_to_both_ends(b, hidden):
    """W_b moves by |W − PW| times the step, so it cannot jump; nor can the output."""
    model, x, step = plain(), images(), 1e-9
    net = soft(model, hidden=hidden)
    for low, high in ((b, b + step), (0.0, step), (1 - step, 1.0)):
        outs = []
        for value in (low, high):
            net.equiwrap.set_softness(value)
            outs.append(net(x))
        torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-6)


def test_a_projected_model_projected_again_is_the_same():
    """W ↦ W_b is canonical: PP = P, and b twice is b²."""
    model = plain()
    once = soft(model, 0.5).equiwrap.fold()
    twice = soft(once, 0.5).equiwrap.fold()
    expected = soft(model, 0.5).equiwrap.fold(0.25)
    for one, two in zip(twice.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-14)


# -- calls -----------------------------------------------------------------------------------------

KINDS = {
    "weights": lambda m: soft(m),
    "weights, regular": lambda m: soft(m, 0.3, "D4", "regular"),
    "weights, zero": lambda m: soft(m, 0),
    "function": lambda m: average(m, 0.3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_calls_are_identical_and_leave_nothing_behind(kind):
    model, x = plain(), images()
    net = KINDS[kind](model)
    before = copy.deepcopy(net.state_dict())
    attributes = set(net.__dict__) | {f"{n}.{k}" for n, m in net.named_modules() for k in vars(m)}
    first = net(x)
    for _ in range(4):
        assert torch.equal(net(x), first)
    assert not torch.equal(first, model(x))
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
    now = set(net.__dict__) | {f"{n}.{k}" for n, m in net.named_modules() for k in vars(m)}
    assert now == attributes


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_load_strictly_both_ways(kind):
    model, other, x = plain(), plain(5), images()
    net = KINDS[kind](plain(3))
    net.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(net(x), KINDS[kind](model)(x))
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other(x), model(x))


def test_the_dial_turns_live_and_back():
    net, x = soft(plain(), 0.3), images()
    start = net(x)
    for b in (0.9, 0.0, 1.0, 0.3):
        net.equiwrap.set_softness(b)
        torch.testing.assert_close(net(x), net.equiwrap.fold()(x), rtol=0, atol=1e-13)
        assert torch.equal(net(x), start) == (b == 0.3)
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ew.SignatureError, match="softness"):
            net.equiwrap.set_softness(wrong)
    assert net.equiwrap.softness == 0.3


@pytest.mark.parametrize("road", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_keep_the_dial_and_turn_alone(road):
    net, x = soft(plain(), 0.3), images()
    net.equiwrap.set_softness(0.6)
    expected, twin = net(x), road(net)
    assert twin.equiwrap.softness == 0.6
    assert torch.equal(twin(x), expected)
    twin.equiwrap.set_softness(0.1)
    assert torch.equal(net(x), expected)
    assert not torch.equal(twin(x), expected)
    with torch.no_grad():
        twin.stem.weight.zero_()
    assert torch.equal(net(x), expected)


def test_unwrap_gives_the_original():
    model, x = plain(), images()
    before = model(x)
    net = soft(model, 0)
    assert not torch.equal(net(x), before)
    assert torch.equal(ew.unwrap(net)(x), before)
    assert torch.equal(model(x), before)
    assert type(ew.unwrap(net)) is Net
    with ew.disabled(net):
        assert torch.equal(net(x), before)


def test_the_twin_in_place_is_the_same():
    model, x = plain(), images()
    expected = soft(plain(), 0.3)(x)
    found = ew.equivariantize_(
        model, "C4", SIGNATURE, method="project", softness=0.3, hidden="trivial", example=x
    )
    assert found is model
    assert torch.equal(model(x), expected)
    assert torch.equal(ew.unwrap(model)(x), plain()(x))


@pytest.mark.parametrize("hidden", MODES)
def test_project_writes_what_the_dial_runs_on(hidden):
    written, x = plain(), images()
    net = soft(plain(), 0.3, hidden=hidden)
    ew.project_(written, "C4", SIGNATURE, example=x, hidden=hidden, softness=0.3)
    torch.testing.assert_close(written(x), net(x), rtol=0, atol=1e-13)
    assert type(written) is Net


@pytest.mark.parametrize("hidden", MODES)
def test_a_compiled_dial_is_the_eager_one(hidden):
    net, x = soft(plain(), 0.3, hidden=hidden), images()
    fast = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fast(x), net(x), rtol=0, atol=1e-12)


def test_a_compiled_dial_turns_without_compiling_again():
    """For the first b, with b as a symbol, and at either end; then never again."""
    net, x = soft(plain(), 0.3), images()
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(net, fullgraph=True, backend=counter)
    for some in ((0.3, 0.7, 0.0, 1.0), torch.linspace(0.05, 0.95, 12).tolist()):
        before = counter.frame_count
        for b in some:
            net.equiwrap.set_softness(b)
            torch.testing.assert_close(fast(x), net(x), rtol=0, atol=1e-12)
    assert counter.frame_count == before


@pytest.mark.parametrize("hidden", MODES)
def test_an_exported_dial_keeps_the_keys_of_the_plain_model(hidden):
    model, x = plain(), images()
    net = soft(model, 0.3, hidden=hidden)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x), rtol=0, atol=1e-12)
    assert set(program.state_dict) == set(model.state_dict())


def test_nothing_is_decomposed(monkeypatch):
    """No SVD, no eigenvectors, no QR: a projection is a mean over elements, at any b."""

    def refused(*args, **kwargs):
        raise AssertionError("a decomposition was called")

    for name in ("svd", "svdvals", "eig", "eigh", "eigvals", "eigvalsh", "qr", "lstsq", "pinv"):
        monkeypatch.setattr(torch.linalg, name, refused)
    for name in ("svd", "pinverse", "svd_lowrank", "pca_lowrank"):
        monkeypatch.setattr(torch, name, refused)
    monkeypatch.setattr(torch.Tensor, "svd", refused)
    with pytest.raises(AssertionError, match="decomposition"):
        torch.linalg.svd(torch.eye(2))
    for kind in KINDS.values():
        net = kind(plain())
        net(images()).sum().backward()
        str(net.equiwrap.report())
    soft(plain(), 0.5, "D4", "regular").equiwrap.fold()


def test_a_weight_that_two_layers_share_is_softened_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.two.weight, self.head = self.one.weight, nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.two(self.one(x).relu()).mean((-2, -1)))

    torch.manual_seed(0)
    model, x = Tied().double(), images()
    net = soft(model, 0.5)
    weight, (target,) = model.one.weight.detach().clone(), net.equiwrap.targets
    hard = target.projector(weight)
    torch.testing.assert_close(net.equiwrap.fold()(x), net(x), rtol=0, atol=1e-14)
    ew.project_(model, "C4", SIGNATURE, example=x, softness=0.5)
    assert model.two.weight is model.one.weight
    torch.testing.assert_close(model.one.weight.detach(), hard + 0.5 * (weight - hard))


@pytest.mark.parametrize("hidden", MODES)
def test_a_first_call_in_inference_mode_spoils_nothing(hidden):
    net, x = soft(plain(), 0.3, "D4", hidden), images()
    with torch.inference_mode():
        expected = net(x).clone()
    found = net(x)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=0)
    assert net(x[:0]).shape == (0, 5)


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", MODES)
@pytest.mark.parametrize("group", GROUPS)
def test_gradients_at_zero_lie_in_the_equivariant_subspace(group, hidden):
    model = plain()
    net = soft(model, 0, group, hidden)
    for module in (net, model):
        module.zero_grad()
        cross_entropy(module(images(6)), torch.arange(6) % 5).backward()
        rest = {}
        for target in net.equiwrap.targets:
            weight = read(module, target.path)
            if isinstance(weight, nn.Parameter):
                off = target.projector(weight.grad) - weight.grad
                rest[target.path] = float(off.norm() / weight.grad.norm())
        assert "table" in rest
        if module is net:
            assert max(rest.values()) < 1e-12
        else:
            assert min(rest.values()) > 1e-3  # the plain gradient is not


@FAST
@given(b=DIAL)
def test_the_gradient_is_that_of_the_softened_weights(b):
    """*∂/∂W f(W_b) = P∇ + b (1 − P)∇*, with ∇ the gradient at W_b, P being symmetric."""
    model, x = plain(), images()
    net = soft(model, 0.5)
    net.equiwrap.set_softness(b)
    paths = [t.path for t in net.equiwrap.targets]
    net.zero_grad()
    net(x).square().sum().backward()
    found = [net.get_parameter(path).grad.clone() for path in paths]
    at = net.equiwrap.fold(b)
    at(x).square().sum().backward()
    for target, grad in zip(net.equiwrap.targets, found, strict=True):
        slope = at.get_parameter(target.path).grad
        hard = target.projector(slope)
        torch.testing.assert_close(grad, hard + b * (slope - hard), rtol=1e-9, atol=1e-9)


def test_training_writes_the_statistics_of_the_plain_model_and_eval_projects_them():
    model, x = plain(), images(6)
    net = soft(model, 0, "D4", "regular")
    before = model.norm.running_mean.clone()
    net.train()
    net(x)
    statistic = model.norm.running_mean
    assert net.norm.running_mean is statistic
    assert not torch.equal(statistic, before)
    net.eval()
    target = next(t for t in net.equiwrap.targets if t.path == "norm.running_mean")
    assert (target.projector(statistic) - statistic).norm() > 1e-3  # as trained, it is not
    folded = net.equiwrap.fold()
    torch.testing.assert_close(folded.norm.running_mean, target.projector(statistic))
    torch.testing.assert_close(folded(x), net(x), rtol=0, atol=1e-12)
    kept = statistic.clone()
    assert float(net.equiwrap.errors(x)) < 1e-12
    assert torch.equal(model.norm.running_mean, kept)


def test_an_exact_model_stays_exact_while_it_trains():
    net, x = soft(plain(), 0), images()
    for _ in range(3):
        trained(net, 1)
        assert float(net.equiwrap.errors(x)) < 1e-12


def test_functional_calls_and_averages_of_weights_go_through_the_dial():
    model, x = plain(), images()
    net = soft(model, 0.3)
    halved = {k: v / 2 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    found = functional_call(net, halved, (x,))
    other = plain()
    other.load_state_dict(halved)
    torch.testing.assert_close(found, soft(other, 0.3)(x), rtol=0, atol=1e-12)


# -- refusals --------------------------------------------------------------------------------------


def test_an_even_grid_is_refused_by_name_and_the_average_is_exact_there():
    model = plain()
    model.table.data = torch.randn(1, 16, 6, 6, dtype=torch.float64)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    with pytest.raises(ew.EquivarianceError, match="stem: stride 2 on an even grid"):
        ew.equivariantize(model, "C4", SIGNATURE, method="project", example=x)
    assert float(average(model, 0.0).equiwrap.errors(x)) < 1e-12


def test_a_weight_that_is_computed_is_refused_at_zero():
    """Its parametrization is no tensor of the model that could be projected."""
    model = plain()
    nn.utils.parametrizations.weight_norm(model.mix)
    with pytest.raises(ew.EquivarianceError, match="mix"):
        soft(model, 0)
    assert soft(model, 0.3).equiwrap.label != "EXACT"
