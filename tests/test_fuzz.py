"""A bounded slice of the fuzzers (recipes/fuzz.py runs them for long), and what they have found."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import fuzz_acting
import fuzz_laws
import fuzz_words
import pytest
import torch
import torch.nn.functional as F
from fuzz_models import KINDS, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_capture import assert_same, snapshot
from torch import nn

import equiwrap as ew
from equiwrap.__main__ import main
from equiwrap.frames import fit_upright, frame_for
from equiwrap.graph import snap
from equiwrap.measure import equivariance_error
from equiwrap.signature import Signature

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(ew.__file__).parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a drawn command line writes goes away."""
    monkeypatch.chdir(tmp_path)


# -- the slice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_drawn_models_are_averaged_as_the_slow_reference_says(kind):
    refused = [fuzz_laws.wrapped_law(draw(seed, kind)) for seed in range(7)]
    assert sum(said is None for said in refused) >= 4, refused


@pytest.mark.parametrize("kind", ["image", "grid", "cloud", "set"])
def test_drawn_models_are_captured_bit_for_bit(kind):
    refused = [fuzz_laws.capture_law(draw(seed, kind)) for seed in range(100, 106)]
    assert sum(said is None for said in refused) >= 3, refused


@pytest.mark.parametrize("first", [0, 10, 20])
def test_drawn_models_that_are_labelled_exact_are_exact(first):
    said = [fuzz_laws.weights_law(draw(seed, "grid")) for seed in range(first, first + 10)]
    assert None in said, said


def test_drawn_models_are_audited_and_left_alone():
    said = [fuzz_laws.audit_law(draw(seed, kind)) for seed, kind in enumerate(KINDS[:10])]
    assert sum(text is None for text in said) >= 5, said


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_malformed_words_get_a_sentence(first):
    faults = []
    for seed in range(first, first + 100):
        what, call, kind = fuzz_words.case(seed)
        found = fuzz_words.fault(call, kind)
        faults += [f"{seed} {what}: {found}"] if found else []
    assert not faults, "\n".join(faults)


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(max_size=40) | st.from_regex(r"[a-z ():,|_+.>-]{0,30}->[a-z (){}:,]{0,20}"),
    group=st.sampled_from(fuzz_words.GROUPS),
)
def test_any_text_is_a_signature_a_group_a_config_or_gets_a_sentence(text, group):
    for call in (
        lambda: Signature.parse(text, group),
        lambda: ew.groups.parse_group(text),
        lambda: ew.Config.from_json(text),
        lambda: frame_for(text, Signature.parse("b k, b n v -> b k", "O(3)")),
    ):
        assert fuzz_words.fault(call) is None, fuzz_words.fault(call)


def test_one_integer_gives_one_model_and_one_word():
    for seed in (3, 85):
        one, two = draw(seed), draw(seed)
        assert str(one) == str(two)
        x, y = one.feed(2), two.feed(2)
        assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True) if torch.is_tensor(a))
        assert_same(
            list(one.build().state_dict().items()), list(two.build().state_dict().items()), "build"
        )
        assert fuzz_words.case(seed)[0] == fuzz_words.case(seed)[0]


# -- teeth -----------------------------------------------------------------------------------------


def test_the_slow_average_notices_an_element_in_the_place_of_its_inverse(monkeypatch):
    drawn = next(d for d in map(draw, range(400)) if d.kind == "cloud" and d.group == "SO(3)")
    assert fuzz_laws.wrapped_law(drawn) is None
    monkeypatch.setattr(fuzz_acting, "inverse", lambda group, g: g)
    with pytest.raises(AssertionError, match="slow average differs"):
        fuzz_laws.wrapped_law(drawn)


def test_the_law_of_exact_models_notices_a_label_that_is_not(monkeypatch):
    said = {seed: fuzz_laws.weights_law(draw(seed, "grid")) for seed in range(12)}
    seed = next(s for s, text in said.items() if text == "UNSOUND")
    monkeypatch.setattr(snap, "_label", lambda typing, failing: "EXACT")
    with pytest.raises(AssertionError, match="EXACT"):
        fuzz_laws.weights_law(draw(seed, "grid"))


@pytest.mark.parametrize(
    "raised", [KeyError("x"), AttributeError("x"), ValueError("short"), RuntimeError("a" * 50)]
)
def test_the_judge_refuses_what_is_no_sentence_of_ours(raised):
    def call():
        raise raised

    assert fuzz_words.fault(call)
    assert fuzz_words.fault(lambda: Signature.parse("b ->", "C4")) is None


# -- what they have found, each with its smallest model --------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["b v h w", "b (2 v) h w", "b (v + 1) h w", "b r h w", "b a h w"]
)
@pytest.mark.parametrize("frame", ["key", "whole", "auto"])
def test_fields_as_inputs_turn_with_their_pixels(pattern, frame):
    """Model 85: the key scored the components as if they rested, and the average was none."""
    sizes = {"b v h w": 2, "b (2 v) h w": 4, "b (v + 1) h w": 3, "b r h w": 8, "b a h w": 1}
    c = sizes[pattern]
    net = nn.Conv2d(c, 3, 3, padding=1).double()
    x = torch.randn(3, c, 5, 5, dtype=torch.float64)
    model = ew.equivariantize(net, "D4", f"{pattern} -> b k h w", frame=frame)
    assert equivariance_error(net, "D4", x, signature=f"{pattern} -> b k h w").value > 0.1
    assert equivariance_error(model, None, x).worst < 1e-12


def test_a_learned_energy_refuses_fields():
    """Model 85, with calibrate=: the same silence."""
    frame = ew.frames.Learned(nn.Sequential(nn.Flatten(), nn.Linear(50, 1), nn.Flatten(0)))
    model = ew.equivariantize(nn.Conv2d(2, 2, 1), "C4", "b v h w -> b v h w", frame=frame)
    with pytest.raises(ew.SignatureError, match="turn with"):
        model(torch.randn(2, 2, 5, 5))


class Filled(nn.Module):
    """A boolean buffer as a mask of pixels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.register_buffer(
            "seen", torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) > 0.3
        )

    def forward(self, x):
        return self.conv(x).masked_fill(self.seen, 0.5).mean((2, 3))


def test_a_boolean_buffer_is_followed():
    """Model 16: "abs" of booleans."""
    model = ew.equivariantize(
        Filled(), "D4", "b c h w -> b k", method="penalize", example=torch.randn(2, 2, 4, 4)
    )
    assert model.equiwrap.label != "EXACT"


class Strided(nn.Module):
    """A misaligned stride, so that another size is looked for."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 2, stride=2)

    def forward(self, x):
        return self.conv(x).sum((2, 3))


def test_random_numbers_stay_where_they_are():
    """Models 32 and 2: the search for a size, and the audit's snap, drew from the global state."""
    net, x = Strided(), torch.randn(2, 2, 7, 7)
    before = snapshot(net)
    ew.equivariantize(net, "C4", "b c h w -> b k", method="penalize", example=x)
    assert_same(before, snapshot(net), "penalize")
    ew.audit(net, "C4", x, signature="b c h w -> b k")
    assert_same(before, snapshot(net), "audit")


@pytest.mark.parametrize("method", ["penalize", "project"])
def test_products_have_no_projected_weights_and_say_so(method):
    """Model 38: a tuple of matrices where a matrix was expected."""
    net, x = nn.Linear(2, 3), torch.randn(4, 2)
    with pytest.raises(ew.CaptureError, match="C4 x C2 is not"):
        ew.equivariantize(net, "C4 x C2", "b v -> b k", method=method, example=x)


class Turned(nn.Module):
    """The batch stands second."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 4)

    def forward(self, x):
        return self.body(x.movedim(1, 0).flatten(1))


@pytest.mark.parametrize("hidden", ["trivial", "regular"])
def test_layers_that_share_a_weight_share_its_projection(hidden):
    """Model 7002416: the types of the first layer alone were asked of it."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in "ab")
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x).relu())

    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    for signature in ("b c h w -> b c h w", "b c h w -> b r h w"):
        model = ew.equivariantize(
            Tied().double(), "C4", signature, method="project", hidden=hidden, example=x
        )
        assert float(model.equiwrap.errors(torch.randn(2, 4, 7, 7, dtype=torch.float64))) < 1e-12
        folded = model.equiwrap.fold()
        assert folded.a.weight is folded.b.weight
        assert float(folded.a.weight.norm()) > 0.1
    vectors = "b (c v) h w -> b c h w"
    with pytest.raises(ew.CaptureError, match="is used in two ways"):
        ew.equivariantize(Tied().double(), "C4", vectors, method="project", example=x)


def test_values_that_rest_do_not_make_a_network_exact():
    """Model 7002733: a norm of one channel gave zeros, on which nothing is off the centre."""
    net = nn.Sequential(nn.GroupNorm(1, 1), nn.MaxPool2d(2, 2), nn.Conv2d(1, 1, 3, padding=1))
    x = torch.randn(2, 1, 5, 5)
    with torch.no_grad():
        net[0].weight.zero_()
    model = ew.equivariantize(net, "C4", "b c h w -> b c h w", method="penalize", example=x)
    assert model.equiwrap.label == "MISALIGNED"


def test_a_bias_of_pixels_is_not_added_to_vectors():
    x = torch.randn(2, 4, 8, 8)
    vectors, scalars = "b (c v) h w -> b (c v) h w", "b c h w -> b c h w"
    options = {"method": "penalize", "penalty": 0.5, "example": x}
    with pytest.warns(ew.NoEffectWarning):
        model = ew.equivariantize(nn.LayerNorm([8, 8]), "D4", vectors, **options)
    assert model.equiwrap.label == "UNSOUND"
    for net, signature in ((nn.LayerNorm([8, 8]), scalars), (nn.RMSNorm([8, 8]), vectors)):
        model = ew.equivariantize(net, "D4", signature, **options)
        assert model.equiwrap.label == "EXACT"
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(torch.randn_like(weight))
        ew.project_(net, "D4", signature, example=x)


def test_an_audit_finds_the_batch_where_the_signature_has_it():
    """Models 21 and 53: the first axis was cut, and the model was said not to run."""
    report = ew.audit(Turned(), "C4", torch.randn(3, 12, 2), signature="n b v -> b k")
    assert 0.1 < report.error < 2


@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.int64])
def test_a_mask_of_zeros_and_ones_is_a_mask(kind):
    """Words 1321: torch.where took booleans only."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(15, 3)

        def forward(self, x, mask):
            return self.body((x * mask.unsqueeze(-1)).flatten(1))

    model = ew.equivariantize(Masked(), "E(3)", "x: b n p, mask: _ -> b k", mask="mask")
    x, mask = torch.randn(2, 5, 3), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])
    there = model(torch.where(mask[..., None] > 0, x, 9.0), mask.to(kind))
    torch.testing.assert_close(model(x, mask.to(kind)), there)
    with pytest.raises(ew.SignatureError, match="marks real points"):
        model(x, mask[..., None].to(kind))
    with pytest.raises(ew.SignatureError, match="a mask that is added to scores"):
        model(x, torch.where(mask > 0, 0.0, -torch.inf))


@pytest.mark.parametrize(
    "given",
    [None, 3.5, "x", [1], torch.zeros(2), {1: 2}, {"group": "C4", "signature": "b -> b", "a": len}],
)
def test_a_config_is_read_from_names_and_values_only(given):
    with pytest.raises(ew.SignatureError, match="config"):
        ew.Config.from_dict(given)


@pytest.mark.parametrize("text", [None, 3.5, "[" * 100_000, "{", b"\xff", "NaN", '{"group": 3}'])
def test_a_config_is_read_from_json_only(text):
    with pytest.raises(ew.SignatureError, match="config"):
        ew.Config.from_json(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("group", torch.zeros(2)), ("signature", torch.zeros(2)), ("method", 3)),
        *(("frame", {1: 2}), ("hidden", torch.zeros(0)), ("targets", torch.tensor(1))),
        *(("calibrate", 3.5), ("calibrate", b"raw"), ("mask", 1), ("probes", {1: 2})),
        *(("probes", torch.ones(2)), ("at", 3.5), ("at", [1]), ("tol", float("nan")), ("tol", "x")),
        *(("softness", "x"), ("penalty", []), ("example", "x")),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_by_name(name, value):
    asked = {"group": "C4", "signature": "b c h w -> b k", name: value}
    method = "penalize" if name in ("targets", "penalty", "hidden") else "average"
    with pytest.raises(ew.EquiwrapError, match=name) as error:
        ew.equivariantize(Strided(), **{"method": method, **asked})
    assert len(str(error.value)) > 40
    assert str(error.value).endswith((".", ")"))


@pytest.mark.parametrize("images", [[], [1], torch.zeros(0), [torch.ones(2, 2, 5)], {"x": 1}])
def test_the_upright_prior_is_fitted_to_images_only(images):
    with pytest.raises(ew.SignatureError, match="upright prior"):
        fit_upright(images, ew.groups.Cyclic(4))


@pytest.mark.parametrize("options", [{"chunk": float("nan")}, {"chunk": "2"}, {"generator": 1}])
def test_options_of_frames_are_checked_when_given(options):
    sig = Signature.parse("b c h w -> b k", "C4")
    with pytest.raises(ValueError, match=next(iter(options))):
        frame_for("whole", sig, **options)
    clouds = Signature.parse("b n v -> b k", "S(n) x O(3)")  # words 7002764
    with pytest.raises(ew.SignatureError, match="does not take seed"):
        frame_for("joint", clouds, seed=None)


def test_measuring_checks_the_inputs_first():
    """Words 907: lengths of axes were paired before they were counted."""
    for x in (torch.zeros(0), torch.zeros(2, 2), torch.randn(1, 2, 0, 0)):
        with pytest.raises(ew.SignatureError):
            equivariance_error(Strided(), "C4", x, signature="b c h w -> b k")


class Marked(nn.Module):
    """Where vectors point is a mask, which is no vector."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)

    def forward(self, x):
        return self.conv(torch.where(x > 0, x, 0.1 * x)).mean((2, 3))


def test_booleans_of_vectors_are_probed():
    """Model 430 of grids: a matrix times booleans."""
    model = ew.equivariantize(
        Marked(), "D4", "b v h w -> b k", method="penalize", example=torch.randn(2, 2, 4, 4)
    )
    assert model.equiwrap.label == "UNSOUND"


@dataclass
class Found:
    y: torch.Tensor
    z: torch.Tensor


class Answers(nn.Module):
    """Outputs in an object that compares tensors by truth."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return Found(y, y.mean((2, 3)))


def test_probes_do_not_compare_objects_of_the_user():
    """Model 15: the truth of a comparison of two dataclasses."""
    x = torch.randn(2, 1, 5, 5)
    model = ew.equivariantize(
        Answers(), "C4", "b c h w -> {y: b k h w, z: b k}", probes=True, example=x
    )
    assert model.equiwrap.probes.measure(x).errors["conv"] > 0.1


@pytest.mark.parametrize("group", ["S(n) x SO(3)", "R+ x SO(3)"])
def test_products_are_not_followed_through_a_network_and_it_says_so(group):
    """Model 76: the permutation was taken for the rotation."""
    net, x = nn.Linear(3, 3), torch.randn(2, 4, 3)
    with pytest.raises(ew.EquiwrapError, match="a product is not followed"):
        ew.equivariantize(net, group, "b n v -> b n v", probes=True, example=x)


def test_an_empty_batch_of_a_loader_is_refused():
    """Words 1000094."""
    with pytest.raises(ew.SignatureError, match="batch of the example is empty"):
        ew.audit(Strided(), "C4", [[]], signature="b c h w -> b k")


@pytest.mark.parametrize("rows", [5, 9])
def test_padding_decides_no_tie(rows):
    """Model 407: of four points about their centroid two are as far from the plane of two axes."""
    group = ew.groups.parse_group("E(3)")
    kind = Signature.parse("b n p -> b k", group).inputs[0][1]

    def found(x, mask):
        frame = ew.frames.Axes()
        typed = [ew.frames.TypedInput(kind, x)]
        measure = frame(group, **frame.read(group, typed, mask))
        return (measure.elements * measure.weights[..., None, None]).sum(1)

    x = torch.randn(2000, 4, 3)
    real = torch.ones(2000, 4, dtype=torch.bool)
    padded = F.pad(x, (0, 0, 0, rows - 4)), F.pad(real, (0, rows - 4))
    apart = (found(x, real) - found(*padded)).abs().amax((1, 2)) > 1e-3
    assert apart.sum() <= 1


# -- nothing is executed ---------------------------------------------------------------------------


class Evil:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_no_checkpoint_is_ever_executed(tmp_path, capsys):
    trace, file = tmp_path / "trace", tmp_path / "evil.pt"
    torch.save({"conv.weight": Evil(trace)}, file)
    plain = pickle.dumps(Evil(trace))
    model = ew.equivariantize(Strided(), "C4", "b c h w -> b k")
    folder = tmp_path / "images" / "one"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.jpg", "c.pt"):
        (folder / name).write_bytes(file.read_bytes())
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    for call in (
        lambda: ew.Config.from_json(plain),
        lambda: ew.Config.from_dict({"group": "C4", "signature": plain}),
        lambda: model.load_state_dict({"conv.weight": plain}),
        lambda: model.load_state_dict(plain),
        lambda: ew.equivariantize(Strided(), "C4", "b c h w -> b k", calibrate=plain),
        lambda: ew.equivariantize(Strided(), **json.loads('{"group": "C4", "frame": "os.system"}')),
    ):
        with pytest.raises((ew.EquiwrapError, TypeError, RuntimeError)):
            call()
    for words in ([str(file)], [f"{file}:x"], ["timm:resnet18", "--data", str(folder.parent)]):
        assert main(["audit", *words, "--group", "C4"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not trace.exists()
    with open(file, "rb") as stream:  # the trap works
        torch.load(stream, weights_only=False)["conv.weight"].close()
    assert trace.exists()


def test_the_command_reports_its_counts():
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes/fuzz.py"), "--minutes", "0.01", "--seed", "3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line)
    assert lines["findings"] == "0"
    assert int(lines["malformed"].split()[1]) >= 3
