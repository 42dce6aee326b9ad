"""Frames on pixels: exact on any square, at ties too; wrong frames are rejected."""

from __future__ import annotations

import pytest
import torch
from conftest import LATTICE
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Convs, average_images, elements_of, relative, turn

import equiwrap as ew
from equiwrap.frames import GroupMeasure, Key, Whole
from equiwrap.testing import assert_equivariant, check_frame

LOGITS, IMAGE, FIELD = "b c h w -> b k", "b c h w -> b k h w", "b c h w -> b v h w"


def symmetric(x, name):
    """The average of an image over its group: a fixed point."""
    return torch.stack([turn(x, k, flipped) for k, flipped in elements_of(name)]).mean(0)


@pytest.mark.parametrize("name", ["C2", "C4", "D1", "D2", "D4"])
@pytest.mark.parametrize("frame", ["whole", "key"])
@pytest.mark.parametrize("signature", [LOGITS, IMAGE])
def test_wrapped_networks_obey_the_law_that_the_plain_one_breaks(name, frame, signature):
    net = Convs(pooled=signature == LOGITS)
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    with pytest.raises(ew.EquivarianceError):
        assert_equivariant(net, name, x, signature=signature)
    model = ew.equivariantize(net, name, signature, frame=frame)
    assert_equivariant(model, name, x, tol=1e-12)


@pytest.mark.parametrize("name", LATTICE)
@pytest.mark.parametrize("image_out", [False, True])
def test_the_folded_average_is_the_loop_over_samples_and_elements(name, image_out):
    net = Convs(pooled=not image_out)
    x = torch.randn(3, 3, 7, 7, dtype=torch.float64)
    fast = ew.equivariantize(net, name, IMAGE if image_out else LOGITS, frame="whole")(x)
    slow = average_images(net, x, name, image_out=image_out)
    assert relative(fast, slow) < 1e-13


@pytest.mark.parametrize("chunk", [1, 2, 3, 8, 100])
def test_chunks_change_the_cost_and_not_the_result(chunk):
    net = Convs()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    whole = ew.equivariantize(net, "D4", IMAGE, frame="whole")(x)
    torch.testing.assert_close(
        ew.equivariantize(net, "D4", IMAGE, frame="whole", chunk=chunk)(x), whole
    )


@pytest.mark.parametrize("size", [1, 2, 3, 8, 15, 16, 31, 48, 56, 65, 96])
def test_keys_are_exact_at_every_size(size):
    x = torch.randn(3, 2, size, size, dtype=torch.float64)
    model = ew.equivariantize(Convs(2), "D4", IMAGE)
    assert_equivariant(model, "D4", x, tol=1e-12)


def test_the_key_shows_the_network_one_and_the_same_image():
    seen = []

    class Spy(Convs):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    model = ew.equivariantize(Spy(dtype=torch.float32), "D4", IMAGE)
    x = torch.randn(5, 3, 20, 20)
    for k, flipped in elements_of("D4"):
        model(turn(x, k, flipped))
    assert all(torch.equal(a, seen[0]) for a in seen)


@pytest.mark.parametrize("name", ["C2", "C4", "D2", "D4"])
@pytest.mark.parametrize("signature", [IMAGE, FIELD])
def test_symmetric_and_constant_images_are_exact_beside_generic_ones(name, signature):
    x = torch.randn(5, 3, 10, 10, dtype=torch.float64)
    x[1] = symmetric(x[1:2], name)[0]
    x[2] = 3.7
    x[3] = 0.0
    net = Convs(out=2 if signature == FIELD else 4)
    model = ew.equivariantize(net, name, signature)
    assert_equivariant(model, name, x, tol=1e-12)
    # one symmetric sample costs its own orbit and leaves the others' results alone
    alone = ew.equivariantize(net, name, signature, ties="first")(x[[0, 4]])
    torch.testing.assert_close(model(x)[[0, 4]], alone)


def test_the_first_tied_element_alone_breaks_the_law_on_symmetric_images():
    x = symmetric(torch.randn(3, 3, 10, 10, dtype=torch.float64), "C4")
    model = ew.equivariantize(Convs(), "C4", IMAGE, ties="first")
    with pytest.raises(ew.EquivarianceError):
        assert_equivariant(model, "C4", x)


def test_key_frames_are_equivariant_as_sets():
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    x[1] = symmetric(x[1:2], "D4")[0]
    check_frame(Key(), "D4", x, signature=IMAGE)
    check_frame(Whole(), "D4", x, signature=IMAGE)


class Inverted(Key):
    """A mutant: g⁻¹ where g belongs."""

    def forward(self, group, images):
        mu = super().forward(group, images)
        return mu._replace(elements=group.inverse(mu.elements))


class Constant(Key):
    """A mutant: the identity for every image."""

    def forward(self, group, images):
        mu = super().forward(group, images)
        return GroupMeasure(
            torch.eye(2, dtype=mu.elements.dtype).expand(len(images[0]), 1, 2, 2), mu.weights[:, :1]
        )


@pytest.mark.parametrize("mutant", [Inverted, Constant])
def test_wrong_frames_are_rejected(mutant):
    x = torch.randn(6, 3, 9, 9, dtype=torch.float64)
    with pytest.raises(ew.EquivarianceError):
        check_frame(mutant(), "C4", x, signature=IMAGE)
    with pytest.raises(ew.EquivarianceError):
        assert_equivariant(ew.equivariantize(Convs(), "C4", IMAGE, frame=mutant()), "C4", x)


@pytest.mark.parametrize("frame", ["whole", "key"])
def test_an_already_equivariant_network_is_left_as_it_is(frame):
    """⟨f⟩ = f: pointwise layers commute with every turn."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), torch.nn.GELU(), torch.nn.Conv2d(8, 2, 1)
    ).double()
    x = torch.randn(4, 3, 11, 11, dtype=torch.float64)
    torch.testing.assert_close(ew.equivariantize(net, "D4", IMAGE, frame=frame)(x), net(x))


def test_rectangles_are_exact_under_the_groups_that_keep_them():
    x = torch.randn(3, 3, 12, 20, dtype=torch.float64)
    for name in ("C2", "D2", "D1"):
        for frame in ("key", "whole"):
            model = ew.equivariantize(Convs(), name, IMAGE, frame=frame)
            assert_equivariant(model, name, x, tol=1e-12)
    with pytest.raises(ew.SignatureError, match="12×20: use C2 or D2"):
        ew.equivariantize(Convs(), "C4", IMAGE)(x)


@given(
    b=st.integers(0, 4),
    size=st.integers(1, 20),
    name=st.sampled_from(LATTICE),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_any_batch_and_size_is_exact(b, size, name, seed):
    torch.manual_seed(seed)
    x = torch.randint(0, 3, (b, 1, size, size)).double()  # few values: many ties
    model = ew.equivariantize(Convs(1, 2), name, IMAGE)
    y = model(x)
    assert y.shape == (b, 2, size, size)
    for k, flipped in elements_of(name):
        torch.testing.assert_close(model(turn(x, k, flipped)), turn(y, k, flipped))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_are_exact_up_to_their_rounding(dtype):
    net = Convs(dtype=torch.float32, pooled=True).to(dtype)
    x = torch.randn(4, 3, 16, 16).to(dtype)
    model = ew.equivariantize(net, "D4", LOGITS)
    y = model(x)
    assert y.dtype == dtype
    assert all(torch.equal(model(turn(x, k, f)), y) for k, f in elements_of("D4"))


def test_nan_in_one_sample_stays_in_that_sample():
    model = ew.equivariantize(Convs(pooled=True), "C4", LOGITS)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    clean = model(x)
    x[1, 0, 2, 2] = float("nan")
    y = model(x)
    assert y[1].isnan().all()
    torch.testing.assert_close(y[[0, 2]], clean[[0, 2]])


def test_c8_is_honest_about_interpolation():
    t = torch.linspace(-2, 2, 33, dtype=torch.float64)
    x = torch.exp(-((t[:, None] - 0.4) ** 2) - (t + 0.2) ** 2)[None, None].repeat(2, 1, 1, 1)
    x[1] = x[1].flip(-1) * 0.5
    model = ew.equivariantize(Convs(1, 2, pooled=True), "C8", LOGITS, frame="whole")
    found = model.equiwrap.errors(x)
    assert 1e-6 < found.interpolation < 0.1
    assert found.value < 2 * found.interpolation
    assert "interpolated" in str(model.equiwrap.report())


def test_haar_samples_are_inexact_and_say_so_and_repeat_in_eval():
    net = Convs(1, 2, pooled=True)
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    model = ew.equivariantize(net, "SO(2)", LOGITS, frame="haar").eval()
    assert torch.equal(model(x), model(x))
    assert "only in the limit" in str(model.equiwrap.report())
    with pytest.raises(ew.EquivarianceError, match="Haar samples"):
        ew.equivariantize(net, "SO(2)", LOGITS, frame="haar", example=x, tol=1e-6)
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("b", [0.0, 0.3, 1.0])
def test_the_dial_scales_the_error_by_exactly_b(b):
    net = Convs(pooled=True)
    x = torch.randn(4, 3, 10, 10, dtype=torch.float64)
    soft = ew.equivariantize(net, "C4", LOGITS, frame="whole", softness=b)

    def defect(f):
        return f(x.rot90(1, (-2, -1))) - f(x)

    torch.testing.assert_close(defect(soft), b * defect(net), atol=1e-14, rtol=1e-10)
    assert "exactly" in str(soft.equiwrap.report())


def test_several_inputs_and_dict_outputs_are_folded_together():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Convs(4, 2)

        def forward(self, x, mask, scale=1.0, *, label=None):
            y = self.net(torch.cat([x, mask], 1)) * scale
            return {
                "seg": y,
                "score": (y * torch.arange(8.0, dtype=y.dtype)).mean((-2, -1)),
                "none": None,
            }

    signature = "x: b c h w, mask: b 1 h w -> {seg: b k h w, score: b k}"
    model = ew.equivariantize(Two(), "D4", signature)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    mask = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    x[1], mask[1] = 1.0, 1.0  # a tie over the whole group
    assert_equivariant(model, "D4", x, mask, tol=1e-12)
    out = model(x, mask=mask, scale=2.0)
    assert set(out) == {"seg", "score", "none"}
    assert out["none"] is None
    torch.testing.assert_close(out["seg"], 2 * model(x, mask)["seg"])


def test_tokens_on_a_flattened_grid_turn_with_the_grid():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Convs(3, 5)

        def forward(self, x):
            return self.net(x).flatten(2).mT

    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    model = ew.equivariantize(Tokens(), "C4", "b c h w -> b (h w) c")
    assert_equivariant(model, "C4", x, tol=1e-12)


def test_batch_elsewhere_is_folded_where_it_is():
    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Convs(3, 2)

        def forward(self, x):
            return self.net(x.permute(3, 0, 1, 2)).permute(1, 2, 3, 0)

    x = torch.randn(3, 6, 6, 4, dtype=torch.float64)
    for frame in ("key", "whole"):
        model = ew.equivariantize(Last(), "D4", "c h w b -> k h w b", frame=frame)
        assert_equivariant(model, "D4", x, tol=1e-12)


def test_the_upright_prior_is_exact_and_leaves_upright_images_alone():
    ramp = torch.linspace(-1, 1, 16)
    images = 0.3 * torch.randn(128, 1, 16, 16) + ramp[:, None]  # darker above: upright is learnable
    net = Convs(1, 3, pooled=True, dtype=torch.float32)
    state = torch.random.get_rng_state()
    model = ew.equivariantize(net, "C4", LOGITS, calibrate=images)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.equiwrap.frame.identity_rate(model.equiwrap.signature.group, images) > 0.95
    assert_equivariant(model, "C4", images[:16], tol=1e-5)
    assert all(k in net.state_dict() or k.startswith("equiwrap.") for k in model.state_dict())
    model.load_state_dict(net.state_dict(), strict=True)
    twin = ew.equivariantize(net, "C4", LOGITS, frame=ew.frames.Learned(ew.frames.UprightNet(1)))
    twin.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(twin(images[:8]), model(images[:8]))
