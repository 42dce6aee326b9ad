"""The wrapped model stays itself: class, keys, state, copies, compilers, trainers' habits."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from reference import Convs, Dense, relative
from torch import nn
from torch.func import functional_call, vmap

import equiwrap as ew
from equiwrap.frames.keys import SYMBOLIC
from equiwrap.testing import assert_equivariant

LOGITS = "b c h w -> b k"


class Net(nn.Module):
    """Batch norm, dropout, tied weights, an unused parameter and a few attributes."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.num_classes = 5
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(6, 5)
        self.tied = self.fc
        self.unused = nn.Parameter(torch.zeros(2))
        self.to(dtype)

    def forward(self, x, scale=1.0):
        y = self.bn(self.conv(x)).relu()
        ramp = torch.linspace(-1, 1, y.shape[-1], dtype=y.dtype, device=y.device)
        return self.fc(self.drop((y * ramp).mean((-2, -1)))) * scale

    def reset_classifier(self, n):
        self.fc = nn.Linear(6, n).to(self.conv.weight)
        self.num_classes = n


@pytest.fixture
def net():
    return Net(torch.float64).eval()


@pytest.fixture
def x():
    return torch.randn(4, 3, 10, 10, dtype=torch.float64)


def test_nothing_about_the_model_moves(net, x):
    model = ew.equivariantize(net, "D4")
    assert isinstance(model, Net)
    assert type(model).__name__ == "Net"
    assert model.num_classes == 5
    assert list(model.state_dict()) == list(net.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert all(a is b for a, b in zip(model.parameters(), net.parameters(), strict=True))
    assert list(dict(model.named_modules())) == list(dict(net.named_modules()))
    assert ew.unwrap(model) is net
    assert type(net) is Net
    assert not hasattr(net, "equiwrap")


def test_state_is_one_and_the_same(net, x):
    model = ew.equivariantize(net, "C4")
    model.train()
    assert net.training
    net.eval()
    assert not model.training
    before = net(x)
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.float()
    assert net.fc.weight.dtype == torch.float32
    model.double()
    torch.testing.assert_close(net(x), before)
    net.load_state_dict({k: v * 2 for k, v in net.state_dict().items()})
    torch.testing.assert_close(model.fc.weight, net.fc.weight)
    model.reset_classifier(7)
    assert net.fc.out_features == 7
    assert model(x).shape == (4, 7)
    assert_equivariant(model, "C4", x)


def test_the_original_keeps_its_own_forward_bit_for_bit(net, x):
    before = net(x)
    model = ew.equivariantize(net, "C4")
    model(x)
    assert torch.equal(ew.unwrap(model)(x), before)
    with ew.disabled(model):
        assert torch.equal(model(x), before)
    assert not torch.equal(model(x), before)


def test_in_place_swaps_the_class_and_undoes_it(net, x):
    before = net(x)
    assert ew.equivariantize_(net, "C4") is net
    assert isinstance(net, Net)
    assert_equivariant(net, "C4", x)
    assert ew.unwrap(net) is net
    assert type(net) is Net
    assert torch.equal(net(x), before)


def test_in_place_leaves_the_model_alone_when_the_check_fails(net, x):
    with pytest.raises(ew.EquivarianceError):
        ew.equivariantize_(net, "C4", LOGITS, frame="haar", example=x, tol=1e-12)
    assert type(net) is Net


def test_wrapping_twice_replaces_with_a_warning(net, x):
    model = ew.equivariantize(net, "D4")
    with pytest.warns(ew.EquiwrapWarning, match="replaces"):
        again = ew.equivariantize(model, "C4")
    assert ew.unwrap(again) is net
    assert str(again.equiwrap.signature.group) == "C4"


def test_hooks_fire_once_and_see_the_outer_input(net, x):
    seen = []
    net.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    ew.equivariantize(net, "C4")(x)
    assert len(seen) == 1
    assert torch.equal(seen[0], x)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("in_place", [False, True])
def test_copies_are_whole_and_independent(net, x, copier, in_place):
    model = (ew.equivariantize_ if in_place else ew.equivariantize)(net, "D4")
    model(x).sum().backward()
    twin = copier(model)
    torch.testing.assert_close(twin(x), model(x))
    assert isinstance(twin, Net)
    with torch.no_grad():
        twin.fc.weight.add_(1.0)
    assert not torch.equal(twin.fc.weight, model.fc.weight)
    assert twin.tied is twin.fc
    assert_equivariant(twin, "D4", x)
    torch.testing.assert_close(ew.unwrap(twin).fc.weight, twin.fc.weight)


def test_checkpoints_go_both_ways(net, x, tmp_path):
    model = ew.equivariantize(net, "C4")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    fresh = Net(torch.float64).eval()
    fresh.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True), strict=True)
    torch.testing.assert_close(fresh(x), net(x))
    ew.equivariantize(fresh, "C4").load_state_dict(net.state_dict(), strict=True)


@pytest.mark.parametrize(
    "options", [{}, {"frame": "whole"}, {"stochastic": True, "frame": "whole"}]
)
def test_the_law_holds_after_three_training_steps(net, x, options):
    model = ew.equivariantize(net, "D4", **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert_equivariant(model.eval(), "D4", x)


def test_stochastic_frames_draw_in_training_and_are_whole_in_eval(net, x):
    calls = []
    net.conv.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    rng = torch.Generator().manual_seed(3)
    model = ew.equivariantize(net, "D4", frame="whole", stochastic=True, generator=rng)
    model.train()(x)
    model.eval()(x)
    assert calls == [4, 32]
    model.drop.p = 0.0
    model.train()
    draws = []
    for seed in (1, 1, 2):
        rng.manual_seed(seed)
        draws.append(model(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("options", [{}, {"ties": "first"}, {"frame": "whole"}])
def test_one_compiled_graph_keeps_the_law(net, x, options):
    torch._dynamo.reset()
    model = ew.equivariantize(net, "C4", **options)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        y = compiled(x)
        torch.testing.assert_close(y, model(x))
        torch.testing.assert_close(compiled(x.rot90(1, (-2, -1))), y)


@pytest.mark.skipif(not SYMBOLIC, reason="torch.compile takes the first tie before torch 2.13")
def test_ties_stay_exact_in_a_compiled_graph():
    torch._dynamo.reset()
    model = ew.equivariantize(Convs(dtype=torch.float64), "C4", "b c h w -> b k h w")
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    x[1] = 1.0
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


def test_module_compile_in_place_touches_the_wrapped_forward_only(net, x):
    model = ew.equivariantize(net, "C4")
    model.compile(fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(model(x), ew.equivariantize(net, "C4")(x))
    assert net._compiled_call_impl is None


@pytest.mark.parametrize("options", [{}, {"ties": "first"}, {"frame": "whole"}])
def test_export_keeps_keys_and_values(net, x, options):
    model = ew.equivariantize(net, "C4", **options)
    program = torch.export.export(model, (x,))
    assert set(program.state_dict) == set(net.state_dict())
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("options", [{"ties": "first"}, {"frame": "whole"}])
def test_ensembles_run_under_vmap(net, x, options):
    del net.tied  # functional_call itself does not restore a module that has two names (torch 2.15)
    model = ew.equivariantize(net, "C4", **options)
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    weights = {k: torch.stack([v, v * 2]) for k, v in state.items()}
    both = vmap(lambda w, xi: functional_call(model, w, (xi,)))(weights, torch.stack([x, -x]))
    torch.testing.assert_close(both[0], model(x))


def test_autocast_moves_the_model_and_not_the_frame():
    net = Net().eval()
    x = torch.randn(4, 3, 12, 12)
    model = ew.equivariantize(net, "D4")
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
        assert y.dtype == torch.bfloat16
        assert torch.equal(model(x.flip(-1)), y)


def test_a_forward_set_on_the_instance_is_found_and_wrapped(net, x):
    net.forward = net.__class__.forward.__get__(net)
    model = ew.equivariantize(net, "C4")
    assert_equivariant(model, "C4", x)
    assert not torch.equal(model(x), net(x))


def test_the_graph_has_the_nodes_it_promises(net, capsys):
    model = ew.equivariantize(net, "C4")
    text = model.equiwrap.print_graph()
    assert text == capsys.readouterr().out.strip()
    called = [n.target for n in model.equiwrap.graph.graph.nodes if n.op == "call_module"]
    assert called == ["frame", "canonicalize", "model", "restore"]


def test_the_report_names_what_matters(net):
    report = str(ew.equivariantize(net).equiwrap.report())
    assert "C4" in report
    assert "calibrate=" in report
    assert "dry run" in report
    whole = str(ew.equivariantize(net, "D4", frame="whole").equiwrap.report())
    assert "8 ×" in whole
    assert "Batch normalisation" in whole


def test_configs_go_to_json_and_back_and_rebuild_the_wrapping(net, x):
    model = ew.equivariantize(net, "D4", frame="whole", chunk=2, softness=0.25)
    config = model.equiwrap.config
    again = ew.Config.from_json(config.to_json())
    assert again == config
    assert pickle.loads(pickle.dumps(config)) == config
    torch.testing.assert_close(ew.equivariantize(net, **again.to_dict())(x), model(x))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"group": 3}', '{"group": "C4"}', "__import__('os')"]
)
def test_malformed_configs_get_a_sentence(text):
    with pytest.raises(ew.SignatureError, match="config"):
        ew.Config.from_json(text)


def test_an_example_is_checked_before_returning(net, x):
    model = ew.equivariantize(net, "C4", example=x)
    assert "before" in str(model.equiwrap.report())

    class Random(Net):
        def forward(self, x):
            return super().forward(x) + torch.randn((), dtype=x.dtype)

    with pytest.raises(ew.EquivarianceError, match="input"):
        ew.equivariantize(Random(torch.float64).eval(), "C4", "b c h w -> b k", example=x)


def test_wrapping_moves_neither_random_state_nor_buffers(net, x):
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.random.get_rng_state()
    ew.equivariantize(net, "C4")
    ew.equivariantize(net, "C4", example=x)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


# -- wrong lines, and what they must say
# -------------------------------------------------------------


def refuses(error, says, *args, model=None, **kwargs):
    with pytest.raises(error, match=says):
        ew.equivariantize(Net() if model is None else model, *args, **kwargs)


def test_bad_calls_get_a_sentence():
    refuses(ew.GroupError, "There is no group 'C5x'", "C5x")
    refuses(ew.SignatureError, "three|one of", "O(3)", model=Dense(4, 3, (2,)))
    refuses(ew.SignatureError, "No group was named", model=Dense(4, 3, (2,)))
    refuses(ew.SignatureError, "declares only", "O(3)", "b n p -> b k", model=Dense(4, 3, (2,)))
    refuses(ew.SignatureError, "3 inputs, and the model", "C4", "b c h w, b k, b k -> b k")
    refuses(ew.SignatureError, "takes", "C4", "image: b c h w -> b k")
    refuses(ew.SignatureError, "names no argument", "C4", LOGITS, mask="padding")
    refuses(ew.GroupError, "no frame 'best'", "C4", LOGITS, frame="best")
    refuses(ew.GroupError, "and None was given", "C4", LOGITS, frame=None)
    refuses(ew.SignatureError, "them; an int was given", "C4", LOGITS, example=3)
    refuses(ew.SignatureError, "does not take", "C4", LOGITS, frame="whole", sharpness=3)
    refuses(
        ew.SignatureError, "beside a frame object", "C4", LOGITS, frame=ew.frames.Whole(), chunk=2
    )
    refuses(ew.SignatureError, "between 0", "C4", LOGITS, softness=1.5)
    refuses(ew.CaptureError, "method='projekt'", "C4", LOGITS, method="projekt")
    refuses(
        ew.GroupError, "infinite", "SO(2)", LOGITS, frame="whole", example=torch.randn(1, 3, 8, 8)
    )
    refuses(ew.CaptureError, "torch.nn.Module", "C4", model=lambda x: x)
    refuses(ew.CaptureError, "before compiling", "C4", model=torch.compile(Net()))
    refuses(ew.CaptureError, "no shape yet", "C4", LOGITS, model=nn.LazyLinear(3))
    refuses(ew.CaptureError, "DataParallel", "C4", model=nn.DataParallel(Net()))


def test_bad_inputs_get_a_sentence(net, x):
    model = ew.equivariantize(net, "C4")
    with pytest.raises(ew.SignatureError, match="48×64: use C2 or D2"):
        model(torch.randn(2, 3, 48, 64))
    with pytest.raises(ew.SignatureError, match="4 axes"):
        model(x[0])
    with pytest.raises(ew.SignatureError, match="real floating-point"):
        model(torch.randint(0, 255, (2, 3, 8, 8)))
    with pytest.raises(ew.SignatureError, match="tensor is expected"):
        model([x])
    with pytest.raises(ew.SignatureError, match="does not type"):
        model(x, torch.ones(4))
    with pytest.raises(ew.SignatureError, match="did not give"):
        model(scale=2.0)
    with pytest.raises(TypeError, match="several values"):
        model(x, x=x)
    with pytest.raises(ew.SignatureError, match="name it k if it is invariant"):
        ew.equivariantize(net, "C4", "b c h w -> b v")(x)
    with pytest.raises(ew.SignatureError, match="none was given"):
        assert_equivariant(net, "C4")
    with pytest.raises(ew.CaptureError, match="nothing to undo"):
        ew.unwrap(net)


def test_outputs_that_cannot_be_averaged_get_a_sentence(x):
    class Decide(Net):
        def forward(self, x):
            return super().forward(x).argmax(-1)

    model = ew.equivariantize(Decide(torch.float64).eval(), "C4", "b c h w -> b", frame="whole")
    with pytest.raises(ew.SignatureError, match="argmax"):
        model(x)


def test_an_ambiguous_argument_beside_a_fold_is_refused_and_typing_it_helps():
    class Graph(nn.Module):
        def forward(self, x, pairs):
            return x.flatten(1)[:, pairs[0]] * x.flatten(1)[:, pairs[1]]

    x = torch.randn(2, 1, 4, 4)
    pairs = torch.tensor([[0, 1, 2], [3, 4, 5]])
    loose = ew.equivariantize(Graph(), "C4", "b c h w, _ -> b k", frame="whole")
    with pytest.raises(ew.SignatureError, match="2 e"):
        loose(x, pairs)
    typed = ew.equivariantize(Graph(), "C4", "b c h w, 2 e -> b k", frame="whole")
    slow = torch.stack([Graph()(x.rot90(-k, (-2, -1)), pairs) for k in range(4)]).mean(0)
    assert relative(typed(x, pairs), slow) < 1e-6


def test_per_sample_arguments_follow_the_fold():
    class Scaled(Net):
        def forward(self, x, t):
            return super().forward(x) * t[:, None]

    net = Scaled(torch.float64).eval()
    x, t = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    model = ew.equivariantize(net, "C4", "b c h w, _ -> b k", frame="whole")
    slow = torch.stack([net(x.rot90(-k, (-2, -1)), t) for k in range(4)]).mean(0)
    torch.testing.assert_close(model(x, t), slow)


def test_no_warning_is_raised_by_ordinary_use(net, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = ew.equivariantize(net, "D4", example=x)
        model(x)
        copy.deepcopy(model)


class Starred(nn.Module):
    """An image behind a star."""

    def forward(self, y, *, x, scale=1.0):
        return x.cumsum(2).mean((2, 3)) * y.cumsum(3).mean((2, 3)) * scale


class Open(nn.Module):
    """Whatever it is given by name."""

    def forward(self, **batch):
        return batch["x"].cumsum(2).mean((2, 3))


@pytest.mark.parametrize("signature", ["b c h w, b c h w -> b k", "x: b c h w, y: b c h w -> b k"])
def test_parameters_behind_a_star_are_typed_in_order_and_by_name(signature):
    model = ew.equivariantize(Starred(), "C4", signature)
    x, y = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    moved = [t.rot90(1, (2, 3)) for t in (x, y)]
    torch.testing.assert_close(model(y, x=x, scale=2.0), 2 * model(moved[1], x=moved[0]))
    plain = Starred()
    assert relative(plain(y, x=x), plain(moved[1], x=moved[0])) > 1e-3
    with pytest.raises(ew.SignatureError, match="types x, and the call did not give it"):
        model(y)


def test_a_forward_of_keywords_is_typed_by_name():
    model, x = ew.equivariantize(Open(), "C4", "x: b c h w -> b k"), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(x=x), model(x=x.rot90(1, (2, 3))))
    with pytest.raises(ew.SignatureError, match=r"1 input, and .* names no parameter: name it"):
        ew.equivariantize(Open(), "C4", "b c h w -> b k")
    with pytest.raises(TypeError, match="0 positional arguments and 1 were given"):
        model(x)


@pytest.mark.parametrize("method", ["average", "penalize"])
def test_an_example_that_is_no_tensor_gets_a_sentence(net, method):
    with pytest.raises(ew.SignatureError, match="gives a list, and images are tensors"):
        ew.equivariantize(net, "C4", method=method, example=[torch.randn(3, 8, 8)])
