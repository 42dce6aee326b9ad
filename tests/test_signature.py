"""Signatures: what they parse, what they print, how they act, and the sentences for what is
wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import equiwrap as ew
from equiwrap.groups import parse_group
from equiwrap.signature import Signature, TensorType

GOOD = [
    ("C4", "b c h w -> ..."),
    ("D4", "b c h w -> b k h w"),
    ("C4", "b c h w -> b v h w"),
    ("D4", "b a h w -> b a h w"),
    ("C4", "b (h w) c -> b r"),
    ("E(3)", "b n p, b n v, b n 1 -> b n p"),
    ("E(3)", "pos: b n p, vel: b n v, mask: _ -> b n p"),
    ("SO(3)", "b (n v) -> b (n v)"),
    ("SE(3)", "b n (p + v + 1) -> {energy: b 1, forces: b n v}"),
    ("O(3)", "b n v -> b v v"),
    ("O(3)", "b n (2 v + a) -> b a, b k"),
    ("E(2)", "... n p -> ... k"),
    ("E(3)", "pos: (b n) p | batch, edge_index: _ -> {energy: b 1, forces: (b n) v}"),
    ("SO+(1,3)", "b n v -> b k"),
    ("S(n)", "b n n, b n c -> b k"),
    ("S(n) x O(3)", "b n v, b n -> b n v"),
    ("O_h", "b c d h w -> b k"),
    ("T(2)", "b c h w -> b c h w"),
]


@pytest.mark.parametrize(("group", "text"), GOOD)
def test_signatures_print_what_they_parse(group, text):
    assert str(Signature.parse(text, group)) == text


@pytest.mark.parametrize(
    ("group", "text", "says"),
    [
        ("C4", "b c h w", "arrow"),
        ("C4", "b c h w -> b k -> b", "arrow"),
        ("C4", "b c (h w -> b k", "not closed"),
        ("C4", "b c h w -> ", "empty"),
        ("C4", "b c h w, -> b k", "empty"),
        ("C4", "b c-h w -> b k", "cannot be read"),
        ("C4", "b c ((h) w) -> b k", "cannot be read"),
        ("C4", "b c h k -> b k", "neighbours"),
        ("C4", "b h c w -> b k", "neighbours"),
        ("O(3)", "b n p -> b k", "declares only"),
        ("O(3)", "b c h w -> b k", "declares only"),
        ("SO(3)", "b n v -> b a", "declares only"),
        ("O(3)", "b n v -> b r", "declares only"),
        ("C4", "c h w -> k", "batch axis"),
        ("C4", "b c h w -> k", "batch axis"),
        ("C4", "_ -> b k", "No input"),
        ("E(3)", "x: b n p, b n v -> b k", "named all or not at all"),
        ("E(3)", "b n p -> {b k}", "name"),
        ("E(3)", "b n p p -> b k", "repeats"),
        ("E(3)", "n ... p -> b k", "lead"),
        ("E(3)", "b n p | batch -> b k", "bar names"),
        ("E(3)", "(b n) p | 9 -> b k", "bar names"),
        ("E(3)", "(b n) p -> b k", "names 0 arguments"),
        ("E(3)", "(b n) p | i, (b n) p | j -> b k", "names 2 arguments"),
        ("E(3)", "n (b c) p -> b k", "axis of its own"),
        ("S(n)", "(b n) c | batch -> b k", "pad them"),
        ("S(n) x O(3)", "b (n v) -> b k", "axis of its own"),
        ("O_h", "b c h d w -> b k", "neighbours"),
        ("E(3)", "9x: b n p -> b k", "not an argument"),
    ],
)
def test_malformed_signatures_get_a_sentence(group, text, says):
    with pytest.raises(ew.SignatureError, match=says):
        Signature.parse(text, group)


@given(st.text(alphabet="bcnhvpar_w()+->{}:, .19", max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_raises_a_signature_error(text):
    try:
        found = Signature.parse(text, "E(3)")
    except ew.SignatureError:
        return
    assert str(Signature.parse(str(found), "E(3)")) == str(found)


@pytest.mark.parametrize(
    ("group", "pattern", "shape", "says"),
    [
        ("C4", "b v", (2, 10), "10 entries, v needs 2: name it k"),
        ("C4", "b c h w", (2, 3, 48, 64), "needs a square grid, got 48×64: use C2 or D2"),
        ("C4", "b c h w", (3, 8, 8), "4 axes"),
        ("E(3)", "b n 1", (2, 5, 2), "fixes an axis to 1"),
        ("E(3)", "b n (p + v + 1)", (2, 5, 6), "does not fit"),
        ("SO(3)", "b (n v)", (2, 10), "does not fit"),
        ("C4", "b (h w) c", (2, 15, 3), "not a square"),
    ],
)
def test_tensors_that_do_not_fit_get_a_sentence(group, pattern, shape, says):
    with pytest.raises(ew.SignatureError, match=says):
        TensorType.parse(pattern, parse_group(group)).check(torch.randn(shape), "the input")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_numbers_that_cannot_be_moved_get_a_sentence(dtype):
    kind = TensorType.parse("b n v", parse_group("O(3)"))
    with pytest.raises(ew.SignatureError, match="real floating-point"):
        kind.check(torch.zeros(2, 4, 3, dtype=dtype), "the input")
    TensorType.parse("b n 1", parse_group("O(3)")).check(
        torch.zeros(2, 4, 1, dtype=dtype), "charges"
    )


def test_a_direct_sum_moves_each_summand_by_its_own_law():
    group = parse_group("E(3)")
    g = group.sample(2)
    x = torch.randn(2, 5, 10, dtype=torch.float64)
    y = TensorType.parse("b n (p + v + a + 1)", group).act(g, x, 1)
    rotation, shift = g[:, :3, :3], g[:, :3, 3]
    det = torch.linalg.det(rotation)[:, None, None]
    torch.testing.assert_close(y[..., :3], x[..., :3] @ rotation.mT + shift[:, None])
    torch.testing.assert_close(y[..., 3:6], x[..., 3:6] @ rotation.mT)
    torch.testing.assert_close(y[..., 6:9], det * (x[..., 6:9] @ rotation.mT))
    torch.testing.assert_close(y[..., 9:], x[..., 9:])


def test_copies_on_one_axis_and_rank_two_tensors_move_on_every_axis():
    group = parse_group("SO(3)")
    g = group.sample(3)
    x = torch.randn(3, 12, dtype=torch.float64)
    y = TensorType.parse("b (n v)", group).act(g, x, 1)
    torch.testing.assert_close(y.reshape(3, 4, 3), x.reshape(3, 4, 3) @ g.mT)
    t = torch.randn(3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(TensorType.parse("b v v", group).act(g, t, 1), g @ t @ g.mT)


def test_a_vector_field_turns_its_pixels_and_its_arrows():
    group = parse_group("C4")
    n = 9
    # the rotation field (−y, x) about the centre is a fixed point of C4
    r = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    field = torch.stack([-r[:, None].expand(n, n), r.expand(n, n)])[None]
    kind = TensorType.parse("b v h w", group)
    for g in group.elements():
        torch.testing.assert_close(kind.act(g[None], field, 1), field)
    wrong = field.flip(1)  # the components exchanged: no longer fixed
    assert (kind.act(group.elements()[1][None], wrong, 1) - wrong).abs().max() > 1


def test_the_action_is_a_homomorphism_on_every_pattern():
    for name, pattern, shape in [
        ("D4", "b v h w", (2, 2, 6, 6)),
        ("D4", "b r h w", (2, 8, 5, 5)),
        ("D4", "b (c a) h w", (2, 3, 5, 5)),
        ("O(3)", "b a v", (2, 3, 3)),
        ("E(3)", "b n (p + v + 4)", (2, 4, 10)),
        ("C4", "b (h w) c", (2, 16, 3)),
    ]:
        group = parse_group(name)
        kind = TensorType.parse(pattern, group)
        g, h = group.sample(2), group.sample(2)
        x = torch.randn(shape, dtype=torch.float64)
        both = kind.act(group.compose(g, h), x, 1)
        torch.testing.assert_close(both, kind.act(g, kind.act(h, x, 1), 1))


class Maps(nn.Module):
    """A convolution, in one of the forms in which models return things."""

    def __init__(self, form):
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 4, 3, padding=1), form

    def forward(self, x):
        y = self.conv(x)
        flat = y.flatten(2).mT
        return {"one": flat, "tuple": (flat, y), "dict": {"tokens": flat, "map": y}}[self.form]


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("one", '"b c h w -> b t k": "b t k" is an invariant, "b h w" a grid'),
        ("tuple", '"b c h w -> _, b c h w": _ passes it through'),
        ("dict", '"b c h w -> {tokens: _, map: b c h w}": _ passes it through'),
    ],
)
def test_outputs_whose_shapes_say_nothing_are_shown_as_they_are_written(form, wanted):
    with pytest.raises(ew.SignatureError, match=r"shape \[2, \d+, 4\].* do not say") as found:
        ew.equivariantize(Maps(form), "C4")
    assert wanted in str(found.value)


@pytest.mark.parametrize(("form", "words"), [("tuple", "tuple of 2"), ("dict", "dict of tokens")])
def test_one_output_is_promised_and_several_come(form, words):
    model = ew.equivariantize(Maps(form), "C4", "b c h w -> b c h w")
    with pytest.raises(ew.SignatureError, match=f"promises 'b c h w', .* {words}.*: write"):
        model(torch.randn(2, 3, 8, 8))


def test_what_the_sentence_proposes_runs():
    model = ew.equivariantize(Maps("dict"), "C4", "b c h w -> {tokens: b (h w) c, map: b c h w}")
    x = torch.randn(2, 3, 8, 8)
    out, turned = model(x), model(x.rot90(1, (2, 3)))["tokens"]
    torch.testing.assert_close(turned.mT.unflatten(2, (8, 8)), out["map"].rot90(1, (2, 3)))


GROUPS = [
    "C4",
    "C8",
    "D2",
    "T(2)",
    "O",
    "O_h",
    "SO(2)",
    "O(3)",
    "SE(3)",
    "E(5)",
    "SO+(1,3)",
    "U(3)",
    "GL(3)",
    "Aff(2)",
    "S(n)",
]


@pytest.mark.parametrize("group", [*GROUPS, "S(n) x O(3)", "T(2) x C4"])
@pytest.mark.parametrize("model", [nn.Linear(3, 3), nn.Conv3d(1, 1, 3)], ids=["linear", "conv3d"])
def test_signatures_that_an_error_proposes_are_those_of_the_group(model, group):
    with pytest.raises(ew.SignatureError, match="No signature can be read off") as found:
        ew.equivariantize(model, group)
    lines = [line.split('"') for line in str(found.value).splitlines()[1:]]
    assert 2 <= len(lines) <= 4
    for _, name, _, text, _ in lines:
        assert name == group
        assert Signature.parse(text, group).inputs[0][1].moves


def test_convolutions_over_volumes_are_proposed_voxels_first():
    with pytest.raises(ew.SignatureError, match=r'one of:\n.*"O_h", "b c d h w -> b k"\)  '):
        ew.equivariantize(nn.Conv3d(1, 1, 3), "O_h")
