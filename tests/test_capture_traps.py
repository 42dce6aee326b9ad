"""A captured and installed model does what the untouched one does, bit for bit, whatever its
forward is up to; plain tracing does not."""

from __future__ import annotations

import copy
import warnings

import capture_traps_calls
import capture_traps_children
import capture_traps_data
import capture_traps_modes
import capture_traps_questions
import capture_traps_values
import pytest
import torch
from capture_traps import LOG, TRAPS, Toy, Trap
from capture_traps_modes import Plain
from reference_capture import (
    assert_same,
    attributes,
    differences,
    frozen,
    leaves,
    note,
    seeded,
    snapshot,
)
from torch import nn
from torch.func import functional_call

from equiwrap.graph import capture, opaque

FILES = (
    *(capture_traps_calls, capture_traps_children, capture_traps_data),
    *(capture_traps_modes, capture_traps_questions, capture_traps_values),
)
ALL = pytest.mark.parametrize("trap", TRAPS.values(), ids=str)
GRAPH = [trap for trap in TRAPS.values() if trap.tier == "graph"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def fresh_globals():
    """Traps write down sizes, hooks and switches of a program in their files."""
    capture_traps_values.OPTIONS["scale"] = 1.0
    capture_traps_values.SIZES.clear()
    for cached in (capture_traps_values.half, capture_traps_modes.table):
        cached.cache_clear()


def build(trap: Trap) -> nn.Module:
    seeded(1)
    return trap.make().eval()


def installed(trap: Trap):
    """The untouched twin, the installed model, and the way back."""
    twin, model = build(trap), build(trap)
    seeded(2)
    undo = capture(model, *trap.args(2), **trap.kwargs(2)).install(model)
    for net in (twin, model):
        seeded(3)
        trap.after(net)
    return twin, model, undo


def compare(twin: nn.Module, model: nn.Module, call, where: str, **options) -> None:
    args, kwargs = call
    one = note(twin, args, kwargs, log=LOG, **options)
    assert_same(one, note(model, args, kwargs, log=LOG, **options), where)


def calls(trap: Trap):
    """(what, arguments): the example's batch, one, three, then the other paths."""
    seeded(4)
    for b in (2, 1, 3):
        yield f"batch {b}", (trap.args(b), trap.kwargs(b))
    for i, call in enumerate(trap.others()):
        yield f"other {i}", call


# -- the law ---------------------------------------------------------------------------------------


@ALL
def test_an_installed_model_does_what_the_untouched_one_does(trap):
    twin, model, _ = installed(trap)
    for train in (False, True, False):
        for net in (twin, model):
            net.train(train)
            if trap.name == "ChildStaysInEval":
                net.drop.eval()
        for seed, (what, call) in enumerate(calls(trap)):
            compare(twin, model, call, f"{what}, train={train}", seed=seed)


@ALL
def test_the_same_without_gradients_and_under_autocast(trap):
    twin, model, _ = installed(trap)
    for what, call in calls(trap):
        compare(twin, model, call, f"{what}, no grad", grad=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            compare(twin, model, call, f"{what}, autocast")


@ALL
def test_the_same_in_double_precision(trap):
    twin, model, _ = installed(trap)
    for net in (twin, model):
        net.double()
    for what, call in calls(trap):
        compare(twin, model, call, what, wide=True)


@ALL
def test_capture_leaves_model_arguments_and_generators_as_they_were(trap):
    model = build(trap)
    seeded(2)
    args, kwargs = trap.args(2), trap.kwargs(2)
    call = list(snapshot_of((args, kwargs)))
    spaces = [dict(vars(m)) for m in (*FILES, torch, torch.Tensor)]
    heard, before = len(LOG), snapshot(model)
    found = capture(model, *args, **kwargs)
    assert_same(before, snapshot(model), "capture")
    undo = found.install(model)
    undo()
    assert_same(before, snapshot(model), "install and undo")
    assert_same(call, list(snapshot_of((args, kwargs))), "arguments")
    assert len(LOG) == heard, "hooks ran"
    now = [dict(vars(m)) for m in (*FILES, torch, torch.Tensor)]
    for old, new in zip(spaces, now, strict=True):
        assert old.keys() == new.keys()
        assert all(old[k] is new[k] for k in old)


def snapshot_of(value):
    yield from frozen(leaves(value))
    yield from ((k, v._version) for k, v in leaves(value) if isinstance(v, torch.Tensor))


@ALL
def test_an_installed_model_is_copied_loaded_and_undone(trap):
    twin, model, undo = installed(trap)
    keys = list(twin.state_dict())
    assert list(model.state_dict()) == keys
    try:
        copy.deepcopy(twin)
    except Exception as reason:
        with pytest.raises(type(reason)):
            copy.deepcopy(model)
    else:
        net = copy.deepcopy(model)
        compare(copy.deepcopy(twin), net, (trap.args(2), trap.kwargs(2)), "deepcopy")
    assert type(twin).__qualname__ in [cls.__qualname__ for cls in type(model).__mro__]
    undo()
    kinds = [(n, type(m).__qualname__) for n, m in model.named_modules(remove_duplicate=False)]
    assert kinds == [
        (n, type(m).__qualname__) for n, m in twin.named_modules(remove_duplicate=False)
    ]
    compare(twin, model, (trap.args(2), trap.kwargs(2)), "after undo")


# -- what is seen ----------------------------------------------------------------------------------


@pytest.mark.parametrize("trap", GRAPH, ids=str)
def test_the_roots_that_can_be_seen_are_seen(trap):
    model = build(trap)
    found = capture(model, *trap.args(2), **trap.kwargs(2))
    assert found.tiers[""] == "graph", found.reasons.get("")


@ALL
def test_every_container_has_a_tier_and_every_opaque_one_a_reason(trap):
    model = build(trap)
    found = capture(model, *trap.args(2), **trap.kwargs(2))
    assert set(found.tiers.values()) <= {"graph", "hook"}
    assert set(found.reasons) == {name for name, tier in found.tiers.items() if tier == "hook"}
    assert all(reason and "\n" not in reason for reason in found.reasons.values())
    if not isinstance(model, torch.jit.ScriptModule):
        assert "" in found.tiers
    assert found.visible(nn.Linear) - found.plans.keys() <= found.visible()
    assert found.visible() <= dict(model.named_modules(remove_duplicate=False)).keys()


def test_visible_layers_are_named_and_selected_by_kind():
    model = build(TRAPS["NestedBlocks"])
    found = capture(model, torch.randn(2, 4))
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert found.visible(nn.Linear) == linear == found.visible((nn.Linear, nn.Conv2d))
    assert found.visible(nn.Conv2d) == set()


def test_an_opaque_child_costs_its_own_level_only():
    model = build(TRAPS["OneOpaqueChild"])
    found = capture(model, torch.randn(2, 4))
    assert found.tiers == {"": "graph", "inner": "hook"}
    assert found.visible(nn.Linear) == {"a", "b"}


def test_opaque_classes_and_functions_are_not_looked_into():
    @opaque
    def helper(x):
        return x * 2

    @opaque
    class Inner(Plain):
        pass

    class Outer(Toy):
        def setup(self):
            self.inner = Inner()

        def forward(self, x):
            return helper(self.inner(self.a(x)))

    model = Outer()
    twin, found = copy.deepcopy(model), capture(model, torch.randn(2, 4))
    assert found.tiers[""] == "graph"
    assert found.tiers.get("inner", "hook") == "hook"
    assert not {"inner.a", "inner.b"} & found.visible()
    found.install(model)
    compare(twin, model, ((torch.randn(3, 4),), {}), "opaque")


def test_a_call_that_raises_is_no_error_of_capture():
    model = build(TRAPS["Plain"])
    twin = copy.deepcopy(model)
    found = capture(model, torch.randn(2, 5))
    assert set(found.tiers.values()) == {"hook"}
    found.install(model)
    for n in (4, 5):
        compare(twin, model, ((torch.randn(2, n),), {}), f"{n} features")


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_capture_does_not_depend_on_the_mode_that_it_is_called_in(around):
    twin, model = build(TRAPS["NestedBlocks"]), build(TRAPS["NestedBlocks"])
    model.train()
    with around():
        found = capture(model, torch.randn(2, 4))
    assert set(found.tiers.values()) == {"graph"}
    assert model.training
    found.install(model)
    compare(twin.train(), model, ((torch.randn(3, 4),), {}), "train")


def test_install_twice_and_undo_in_any_order():
    twin, model = build(TRAPS["NestedBlocks"]), build(TRAPS["NestedBlocks"])
    found = capture(model, torch.randn(2, 4))
    first = found.install(model)
    second = capture(model, torch.randn(2, 4)).install(model)
    call = ((torch.randn(2, 4),), {})
    compare(twin, model, call, "twice")
    second()
    compare(twin, model, call, "second undone")
    first()
    assert type(model) is type(twin)
    compare(twin, model, call, "both undone")


# -- around the model ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NestedBlocks", "Keywords", "Encoder", "OneOpaqueChild"])
def test_training_checkpoints_and_functional_calls_go_on(name):
    trap = TRAPS[name]
    twin, model, _ = installed(trap)
    for net in (twin, model):
        net.train()
        optimiser = torch.optim.Adam(net.parameters(), 0.1)
        for step in range(3):
            seeded(step)
            out = net(*trap.args(2), **trap.kwargs(2))
            (out[0] if isinstance(out, tuple) else out).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
    assert_same(list(attributes(twin)), list(attributes(model)), "three steps")
    fresh = build(trap)
    assert not any(fresh.load_state_dict(model.state_dict(), strict=True))
    args, kwargs = trap.args(2), trap.kwargs(2)
    weights = {k: v + 1 for k, v in twin.state_dict().items()}
    outs = []
    for net in (twin, model):
        seeded(0)
        outs.append(functional_call(net, weights, args, kwargs))
    for a, b in zip(*[o if isinstance(o, tuple) else (o,) for o in outs], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "name", ["NestedBlocks", "DynamicView", "TrainingBranch", "PadsToMultiple"]
)
@pytest.mark.parametrize("train", [False, True])
def test_an_installed_model_compiles_to_one_graph(name, train):
    torch._dynamo.reset()
    trap = TRAPS[name]
    twin, model, _ = installed(trap)
    twin.train(train), model.train(train)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    args = trap.args(2)
    with torch.no_grad():
        seeded(0)
        here = twin(*args)
        seeded(0)
        torch.testing.assert_close(
            torch.compile(model, fullgraph=True, backend=backend)(*args), here
        )
    assert len(graphs) == 1
    torch._dynamo.reset()
    seeded(0)
    again = torch.compile(model, fullgraph=True, backend="aot_eager")(*args)
    again.sum().backward()
    if not (train and name == "NestedBlocks"):  # functionalised random numbers are others
        torch.testing.assert_close(again, here)


# -- teeth -----------------------------------------------------------------------------------------


def test_plain_tracing_refuses_or_is_silently_wrong_on_most():
    wrong, refused = [], []
    for trap in TRAPS.values():
        twin, model = build(trap), build(trap)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = torch.fx.symbolic_trace(model)
        except Exception:
            refused.append(trap.name)
            continue
        for net in (twin, model):
            seeded(3)
            try:
                trap.after(net)
            except Exception:
                wrong.append(trap.name)
        for train in (False, True):
            twin.train(train), model.train(train)
            for _, (args, kwargs) in calls(trap):
                one, two = note(twin, args, kwargs), note(model, args, kwargs)
                keep = ("output", "gradient", "generator", "raises", "argument")
                found = differences(*[[i for i in n if i[0].startswith(keep)] for n in (one, two)])
                if found:
                    wrong.append(trap.name)
    assert len(refused) >= 70
    assert len(set(wrong)) >= 70


class Wrong(Toy):
    """One thing after another goes wrong by a little."""

    how = ""

    def forward(self, x):
        y = self.b(self.a(x))
        if self.how == "value":
            y = torch.cat([y[:1] * (1 + 2**-20), y[1:]])
        elif self.how == "gradient":
            y = y.detach() + 0 * y
        elif self.how == "flag":
            y = y.detach()
        elif self.how == "random":
            torch.rand(1)
        elif self.how == "attribute":
            self.count = 1
        elif self.how == "buffer":
            self.a.bias.data[0] += 1
            y = y + 0
        elif self.how == "alias":
            x.add_(0.5)
        elif self.how == "type":
            y = (y,)
        elif self.how == "strides":
            y = y.t().contiguous().t()
        elif self.how == "raises":
            raise ValueError("another one")
        elif self.how == "warning":
            warnings.warn("a trap said so", stacklevel=1)
        return y


@pytest.mark.parametrize(
    "how",
    [
        *("value", "gradient", "flag", "random", "attribute", "buffer"),
        *("alias", "type", "strides", "raises", "warning"),
    ],
)
def test_the_comparison_notices(how):
    seeded(0)
    good, bad = Wrong(), Wrong()
    bad.load_state_dict(good.state_dict())
    x = torch.randn(3, 4)
    assert_same(note(good, (x,), {}), note(bad, (x,), {}), "alike")
    Wrong.how = how
    try:
        other = note(bad, (x,), {})
    finally:
        Wrong.how = ""
    assert differences(note(good, (x,), {}), other)
