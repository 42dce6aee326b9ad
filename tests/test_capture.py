"""Plans answer at every batch size, in eval and in train mode; faults of capture are named as such;
what is marked opaque stays shut."""

from __future__ import annotations

import copy
import threading
import time

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.graph import capture, install, level, record, verify
from equiwrap.graph import captured as home
from equiwrap.graph.plan import lookup


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = Block(), Block(), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.two(self.one(x)))


# -- whole models ----------------------------------------------------------------------------------


def resnet():
    timm = pytest.importorskip("timm")
    return timm.create_model("resnet18", num_classes=5), lambda b: (
        (torch.randn(b, 3, 32, 32),),
        {},
    )


def vit():
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    return net, lambda b: ((torch.randn(b, 3, 32, 32),), {})


def swin():
    vision = pytest.importorskip("torchvision")
    net = vision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=5)
    return net, lambda b: ((torch.randn(b, 3, 32, 32),), {})


def bert():
    hugging = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hugging.BertConfig(**sizes, intermediate_size=24, vocab_size=40)

    def call(b):
        mask = torch.ones(b, 7, dtype=torch.long)
        mask[-1, 5:] = 0
        return (), {"input_ids": torch.randint(3, 40, (b, 7)), "attention_mask": mask}

    return hugging.BertForSequenceClassification(config), call


@pytest.mark.parametrize("make", [resnet, vit, swin, bert])
def test_every_call_is_answered_by_a_plan_at_any_batch_size(make, monkeypatch):
    torch.manual_seed(0)
    model, call = make()
    twin, (args, kwargs) = copy.deepcopy(model), call(2)
    found = capture(model.eval(), *args, **kwargs)
    layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert found.visible((nn.Linear, nn.Conv2d)) == layers
    assert not found.reasons
    found.install(model)
    calls, fell = [], []

    def counted(plans, module, *given):
        calls.append(type(module).__name__)
        return lookup(plans, module, *given)

    def own_forward(module, original):
        fell.append(type(module).__name__)
        return original.forward.__get__(module)

    monkeypatch.setattr(install, "lookup", counted)
    monkeypatch.setattr(install, "own_forward", own_forward)
    for train in (False, True):
        model.train(train), twin.train(train)
        for b in (1, 2, 3):
            for grad in (True, False) if not train else (True,):
                args, kwargs = call(b)
                with torch.set_grad_enabled(grad):
                    outs = []
                    for net in (twin, model):
                        torch.manual_seed(b)
                        try:
                            out = net(*args, **kwargs)
                        except ValueError:  # batch statistics of one sample
                            continue
                        outs.append(out if isinstance(out, torch.Tensor) else out[0])
                assert len(outs) != 1
                assert not outs or torch.equal(*outs)
    assert len(calls) > len(found.plans)
    assert fell == []


def test_a_plan_that_does_not_hold_gives_way_to_the_forward(monkeypatch):
    model = Stack()
    found = capture(model, torch.randn(2, 4))
    found.install(model)
    model.one.b = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    x = torch.randn(3, 4)
    assert lookup(found.plans["one"], model.one, (x,), {})[0] is None
    assert torch.equal(model.one(x), x + model.one.b(model.one.a(x).relu()))


def test_the_search_for_a_plan_costs_microseconds():
    model, x = Stack(), torch.randn(2, 4)
    plans = capture(model, x).plans["one"]

    def once():
        start = time.perf_counter()
        for _ in range(200):
            lookup(plans, model.one, (x,), {})
        return (time.perf_counter() - start) / 200

    assert min(once() for _ in range(20)) < 50e-6  # about 5 on a free core


# -- whose fault it is -----------------------------------------------------------------------------


def test_a_model_that_raises_is_said_to_raise():
    found = capture(Stack(), torch.randn(2, 5))
    assert found.reasons[""].startswith("raises on the example: RuntimeError: ")
    assert "(2x5 and 4x4)" in found.reasons[""]


def test_a_model_that_raises_in_train_mode_only_keeps_its_plans_for_eval():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    found = capture(model, torch.randn(1, 4))
    assert found.tiers == {"": "graph"}
    assert found.partly[""].startswith("raises on the example: ValueError")
    assert [plan.modes for plan in found.plans[""]] == [{False}]


def test_a_model_that_cannot_be_copied_is_left_alone():
    model = Stack()
    model.lock = threading.Lock()
    found = capture(model, torch.randn(2, 4))
    assert "cannot be copied" in found.reasons[""]
    assert set(found.tiers.values()) == {"hook"}


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (level, "result"),
        (level.Level, "know"),
        (record.Recorder, "_operation"),
        (record, "rebuild"),
        (home.Plan, "of"),
        (home, "observe"),
        (home, "faithful"),
    ],
)
def test_a_fault_of_capture_is_not_put_on_the_model(monkeypatch, place, name):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(place, name, broken)
    model, x = Stack(), torch.randn(2, 4)
    found = capture(model, x)
    assert found.reasons
    assert all("raises on the example" not in reason for reason in found.reasons.values())
    assert any("a fault of ours" in reason for reason in found.reasons.values())
    want = model(x)
    found.install(model)
    assert torch.equal(model(x), want)


def test_a_fault_in_one_container_costs_that_container_only(monkeypatch):
    class Odd(Block):
        def forward(self, x):
            return super().forward(x)

    original = record.Recorder.forward

    def forward(self, module, *rest):
        if any(cls is Odd for cls in type(module).__mro__) and self.entering is module:
            self.broken = self.broken or self.paths[id(module)]
            raise ZeroDivisionError("a fault of ours")
        return original(self, module, *rest)

    monkeypatch.setattr(record.Recorder, "forward", forward)
    model = Stack()
    model.two = Odd()
    found = capture(model, torch.randn(2, 4))
    assert found.tiers == {"": "graph", "one": "graph", "two": "hook"}
    assert "capture" in found.reasons["two"]


def test_the_wrong_plan_among_many_is_found():
    torch.manual_seed(0)
    model, x = nn.Sequential(*[Block() for _ in range(9)]), torch.randn(2, 4)
    plans = capture(model, x).plans
    assert verify.faithful(model, False, (x,), {}, plans) == {}
    for wrong in ("0", "5", "8"):
        for plan in plans[wrong]:
            plan.run, right = lambda m, this, x, run=plan.run: run(m, this, x) + 1e-6, plan.run
        assert set(verify.faithful(model, False, (x,), {}, plans)) == {wrong}
        for plan in plans[wrong]:
            plan.run = right


# -- opaque ----------------------------------------------------------------------------------------


def test_an_opaque_module_stays_shut_with_its_layers():
    model = Stack()
    assert ew.opaque(model.two) is model.two
    found = capture(model, torch.randn(2, 4))
    assert found.tiers == {"": "graph", "one": "graph"}
    assert found.visible(nn.Linear) == {"one.a", "one.b", "head"}
    assert "two" in {str(node.target) for node in found.plans[""][0].graph.nodes}


def test_an_opaque_class_stays_shut_and_its_base_does_not():
    @ew.opaque
    class Shut(Block):
        pass

    model = Stack()
    model.two = Shut()
    assert capture(model, torch.randn(2, 4)).tiers == {"": "graph", "one": "graph"}


def test_an_opaque_function_is_one_node():
    @ew.opaque
    def gate(x, power):
        """Between zero and one."""
        return torch.sigmoid(x) ** power

    class Gated(Block):
        def forward(self, x):
            return gate(self.a(x), 2) * self.b(x)

    model, x = Gated(), torch.randn(2, 4)
    nodes = [node for node in capture(model, x).plans[""][0].graph.nodes if "gate" in node.name]
    assert len(nodes) == 1
    assert gate.__name__ == "gate"
    assert torch.equal(gate(x, 2), torch.sigmoid(x) ** 2)


def test_only_modules_classes_and_functions_can_be_opaque():
    with pytest.raises(TypeError, match="a module, a module class or a function"):
        ew.opaque(3)


# -- what is seen ----------------------------------------------------------------------------------


class Hidden(Block):
    """Its own code branches on data; what it calls is a container with a graph."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return self.inner(self.a(x)) if x.sum() > 0 else self.b(x)


def test_layers_of_an_opaque_container_are_not_seen_and_those_of_its_children_are():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Hidden(), nn.Linear(4, 4)))
    found = capture(model, torch.rand(2, 4) - 0.2)
    assert found.tiers["1.0"] == "hook"
    assert {"1.0.a", "1.0.b"} & found.visible(nn.Linear) == set()
    assert found.visible(nn.Linear) >= {"0", "1.1"}


def test_attention_weights_used_by_hand_and_layers_with_their_own_forward_are_seen():
    class Scaled(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight * 2, self.bias)

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.mix, self.scaled, self.spare = nn.Linear(4, 4), Scaled(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.attention(x, x, x)[0] + nn.functional.linear(x, self.mix.weight)
            return self.scaled(y)

    found = capture(ByHand(), torch.randn(2, 3, 4))
    assert found.visible(nn.Linear) == {"attention.out_proj", "mix", "scaled"}


# -- other data ------------------------------------------------------------------------------------


def flagged(y):
    return y * 2 if float(y.sum()) > 0 else None


class Flags(nn.Module):
    """A helper answers None for some data."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        found = flagged(x)
        return self.a(x if found is None else found)


def test_a_walk_over_other_data_gives_way_to_the_forward():
    model, x = Flags().eval(), torch.rand(2, 4)
    walk = home.record(model, (x,), {})
    with torch.no_grad():
        expected = model(x), model(-x)
        with walk.visited(model, lambda visit, run: run()):
            assert torch.equal(model(x), expected[0])
            assert torch.equal(model(-x), expected[1])
