"""Folding: axes found, the fold verified against the loop, and whoever couples samples named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import equiwrap as ew
from equiwrap.graph.fold import check_fold

D = torch.float64


def seen(model):
    """Everything of a model that a check could leave changed."""
    state = {k: v.clone() for k, v in model.state_dict(keep_vars=False).items()}
    modes = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    ]
    return state, modes, torch.get_rng_state().clone()


def untouched(model, before):
    state, modes, rng = seen(model)
    assert all(torch.equal(v, before[0][k]) for k, v in state.items())
    assert modes == before[1]
    assert torch.equal(rng, before[2])


def checked(model, *args, **kwargs):
    before = seen(model)
    report = check_fold(model, *args, **kwargs)
    untouched(model, before)
    assert report.reason in str(report)
    assert all(f"{k} {'none' if a is None else a}" in str(report) for k, a in report.axes.items())
    return report


def by_hand(model, k, order, *args):
    """*max |f(fold) − [f(x_j)]|* for a model of one output, batch axes 0."""
    model = copy.deepcopy(model).eval()
    x = args[0]
    copies = [x * (1 - 0.1 * j) for j in range(k)]
    whole = model(torch.stack(copies, 1).flatten(0, 1), *args[1:])
    return (whole - torch.stack([model(c, *args[1:]) for c in copies], 1).flatten(0, 1)).abs().max()


class Deviation(nn.Module):
    """Minibatch standard deviation, one channel more."""

    def forward(self, x):
        s = x.std(0, unbiased=False).mean()
        return torch.cat([x, s.expand(len(x), 1)], 1)


class Relative(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 5, dtype=D)

    def forward(self, x):
        return self.one(x / x.max())


class Capacity(nn.Module):
    """Only the k samples with the largest scores of the batch pass."""

    def __init__(self):
        super().__init__()
        self.score, self.out = nn.Linear(6, 1, dtype=D), nn.Linear(6, 5, dtype=D)

    def forward(self, x):
        keep = self.score(x)[:, 0].topk(2).indices
        return self.out(x * torch.zeros(len(x), 1, dtype=D).index_fill(0, keep, 1.0))


class SeqFirst(nn.Module):
    """`x[s, b, d], mask[b, s] → [s, b, d]`."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x, mask):
        return self.body(x, src_key_padding_mask=mask)


class Shared(nn.Module):
    def __init__(self, mean=False):
        super().__init__()
        self.mean = mean
        self.one, self.scale = nn.Linear(6, 6, dtype=D), nn.Parameter(torch.ones((), dtype=D))

    def forward(self, x, *, shift):
        y = self.one(x + shift)
        return {"y": y, "scale": y.mean() if self.mean else self.scale * 2, "name": "y"}


class EGNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.edge = nn.Sequential(nn.Linear(9, 8, dtype=D), nn.Tanh(), nn.Linear(8, 4, dtype=D))
        self.move = nn.Linear(4, 1, dtype=D)

    def forward(self, h, pos, edge_index):
        source, target = edge_index
        gap = pos[source] - pos[target]
        m = self.edge(torch.cat([h[source], h[target], gap.square().sum(-1, keepdim=True)], -1))
        h = h + torch.zeros_like(h).index_add(0, target, m)
        return h, pos + torch.zeros_like(pos).index_add(0, target, gap * self.move(m))


def test_resnet18_folds_in_eval_and_names_its_batch_norms_in_training():
    timm = pytest.importorskip("timm", reason="needs timm")
    model = timm.create_model("resnet18", zero_init_last=False, drop_rate=0.2, drop_path_rate=0.1)
    report = checked(model, torch.randn(4, 3, 64, 64))
    assert report.foldable
    assert report.axes == {"x": 0, "return": 0}
    assert report.culprit is None
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert [name.split(" ")[0] for name in report.training_culprits] == norms
    assert report.training_culprits[0].startswith("bn1 (BatchNorm")


def test_a_model_in_eval_stays_in_eval():
    model = nn.Sequential(nn.Linear(6, 6, dtype=D), nn.BatchNorm1d(6, dtype=D)).eval()
    report = checked(model, torch.randn(4, 6, dtype=D))
    assert report.foldable
    assert report.training_culprits == ("1 (BatchNorm1d)",)


COUPLED = {
    "minibatch deviation": (
        lambda: nn.Sequential(nn.Linear(6, 5), Deviation(), nn.Linear(6, 3)).to(D),
        "1 (Deviation)",
    ),
    "x over its largest": (Relative, "Relative, in its own forward"),
    "top k of the batch": (Capacity, "Capacity, in its own forward"),
}


@pytest.mark.parametrize("title", COUPLED)
def test_coupled_models_are_refused_and_the_culprit_is_named(title):
    make, culprit = COUPLED[title]
    model, x = make(), torch.rand(4, 6, dtype=D)
    assert by_hand(model, 3, None, x) > 1e-3
    report = checked(model, x)
    assert not report.foldable
    assert report.axes == {next(iter(report.axes)): 0, "return": 0}
    assert report.culprit == culprit
    assert report.training_culprits == ()


def test_what_feels_only_the_number_of_samples_is_found_too():
    class Number(nn.Module):
        def forward(self, x):
            return x / len(x)

    model = nn.Sequential(nn.Linear(6, 5, dtype=D), Number(), nn.Tanh())
    report = checked(model, torch.randn(4, 6, dtype=D))
    assert not report.foldable
    assert report.culprit == "1 (Number)"


def test_a_sequence_first_transformer_with_a_padding_mask():
    x, mask = torch.randn(7, 4, 16), torch.zeros(4, 7, dtype=torch.bool)
    mask[1, 5:] = mask[2, 3:] = True
    report = checked(SeqFirst(), x, mask)
    assert report.foldable
    assert report.axes == {"x": 1, "mask": 0, "return": 1}
    assert report.training_culprits == ()
    square = checked(SeqFirst(), torch.randn(4, 4, 16), mask[:, :4] & False)  # s = b
    assert square.foldable
    assert square.axes == {"x": 1, "mask": 0, "return": 1}


def test_shared_arguments_and_dicts():
    x, shift = torch.randn(6, 6, dtype=D), torch.randn(6, dtype=D)  # as many samples as features
    report = checked(Shared(), x, shift=shift)
    assert report.foldable
    assert report.axes == {"x": 0, "shift": None, "return['y']": 0, "return['scale']": None}
    assert "a call" not in report.reason
    report = checked(Shared(), x, shift=shift.expand(1, 6))
    assert report.axes["shift"] is None
    report = checked(Shared(mean=True), x, shift=shift)
    assert report.foldable
    assert "return['scale'] is one value a call" in report.reason


@pytest.mark.parametrize("edges", ["ring", "complete", "random"])
def test_edges_are_recognised(edges):
    n = 6
    linked = {
        "ring": torch.eye(n).roll(1, 0),
        "complete": 1 - torch.eye(n),
        "random": (torch.rand(n, n) < 0.4).float() + torch.eye(n).roll(1, 0),
    }[edges]
    edge_index = linked.nonzero().T.contiguous()
    report = checked(
        EGNN(), torch.randn(n, 4, dtype=D), torch.randn(n, 3, dtype=D), edge_index=edge_index
    )
    assert not report.foldable
    assert report.culprit == "edge_index"
    assert "tiling without offsets is wrong" in report.reason
    assert report.axes == {"h": 0, "pos": 0, "edge_index": 1, "return[0]": 0, "return[1]": 0}


def test_integers_that_are_no_indices_fold():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.word, self.kind = nn.Embedding(50, 8), nn.Embedding(3, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.label = nn.Embedding(4, 8)

        def forward(self, ids, kinds, label):
            return self.layer(self.word(ids) + self.kind(kinds) + self.label(label)[:, None])

    ids, kinds = torch.randint(50, (4, 9)), torch.randint(3, (4, 9))
    report = checked(Tokens(), ids, kinds, label=torch.arange(4))
    assert report.foldable
    assert report.axes == {"ids": 0, "kinds": 0, "label": 0, "return": 0}


def test_lists_and_single_samples_are_no_batches():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return [self.one(x[None]).mean((0, 2, 3)) for x in images]

    report = checked(Lists(), [torch.randn(3, 8, 8), torch.randn(3, 9, 9)])
    assert not report.foldable
    assert "images is a list of samples" in report.reason
    single = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(0), nn.Linear(4 * 36, 5))
    report = checked(single, torch.randn(3, 8, 8))
    assert not report.foldable
    assert "no axis of the inputs is a batch" in report.reason
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    assert checked(one, torch.randn(1, 3, 8, 8)).foldable  # a batch of one is a batch


def test_two_axes_of_samples_and_random_models_are_refused():
    class Similarity(nn.Module):
        def forward(self, x):
            return x @ x.mT

    report = checked(Similarity(), torch.randn(4, 6))
    assert not report.foldable
    assert "[2, 2], [3, 3], [5, 5]" in report.reason

    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    assert "random" in checked(Noisy(), torch.randn(4, 6)).reason


def test_dropout_that_never_sleeps_is_put_to_sleep_in_the_copy_only():
    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout, self.out = 0.5, nn.Linear(6, 3)

        def forward(self, x):
            return self.out(nn.functional.dropout(x, self.dropout))

    model = Always()
    assert checked(model, torch.randn(4, 6)).foldable
    assert model.dropout == 0.5


def test_what_cannot_be_copied_is_put_back():
    class Pinned(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.3)
            self.cache = nn.Linear(6, 6).weight * 2  # a tensor of a graph: deepcopy refuses

        def forward(self, x):
            return self.drop(self.norm(x)) @ self.cache

    model = Pinned()
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    report = checked(model, torch.randn(4, 6))
    assert report.foldable
    assert report.training_culprits == ("norm (BatchNorm1d)",)
    assert model.drop.p == 0.3
    assert model.norm.num_batches_tracked == 0


def test_inputs_stay_as_they_are_and_forces_are_allowed():
    class Forces(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 1, dtype=D)

        def forward(self, pos):
            energy = self.one(pos.sin()).sum((1, 2))
            return energy, -torch.autograd.grad(energy.sum(), pos)[0]

    pos = torch.randn(4, 5, 3, dtype=D, requires_grad=True)
    before = pos.detach().clone()
    report = checked(Forces(), pos)
    assert report.foldable
    assert report.axes == {"pos": 0, "return[0]": 0, "return[1]": 0}
    assert torch.equal(pos, before)
    assert pos.grad is None


def test_tolerances_are_those_of_the_dtype():
    class Leak(nn.Module):
        """Couples samples a little."""

        def __init__(self, size):
            super().__init__()
            self.size = size

        def forward(self, x):
            return x + self.size * x.mean()

    x = torch.rand(4, 6)
    assert checked(Leak(1e-7), x).foldable
    assert not checked(Leak(1e-7), x.double()).foldable
    assert not checked(Leak(1e-2), x).foldable


def test_a_wrapped_model_folds_like_a_plain_one_and_one_copy_is_refused():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = ew.equivariantize(plain, "C4", "b c h w -> b k")
    assert checked(model, torch.randn(4, 3, 8, 8)).foldable
    with pytest.raises(ValueError, match="factor=1"):
        check_fold(plain, torch.randn(4, 3, 8, 8), factor=1)


def test_attention_folds_along_its_batch_and_not_along_its_queries():
    x = torch.randn(7, 4, 8)
    report = checked(nn.MultiheadAttention(8, 2), x, x, x)
    assert report.foldable
    assert report.axes == {"query": 1, "key": 1, "value": 1, "return[0]": 1, "return[1]": 0}


def test_state_of_one_sample_is_no_coupling():
    model = nn.utils.spectral_norm(nn.Linear(5, 5))  # a step of the power iteration a call
    report = checked(model, torch.randn(4, 5))
    assert report.foldable
    assert report.training_culprits == ()


def test_statistics_that_a_forward_replaces_are_seen_and_put_back():
    class Moving(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(5))
            self.out = nn.Linear(5, 5)

        def forward(self, x):
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
            return self.out(x - self.mean)

    report = checked(Moving(), torch.randn(4, 5))
    assert report.foldable
    assert report.training_culprits == ("Moving",)


def test_normalisations_that_hold_their_activation_are_all_listed():
    timm = pytest.importorskip("timm", reason="needs timm")
    norm = timm.layers.BatchNormAct2d
    model = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 1), norm(3)) for _ in range(3)])
    model.register_buffer("mean", torch.zeros(3))  # the model is no culprit for what is inside it
    report = checked(model, torch.randn(4, 3, 5, 5))
    assert report.training_culprits == tuple(f"{i}.1 (BatchNormAct2d)" for i in range(3))


def test_an_empty_example_is_refused():
    report = checked(nn.Linear(5, 5), torch.randn(0, 5))
    assert not report.foldable
    assert "the example is empty" in report.reason
