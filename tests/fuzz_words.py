"""Malformed words: signatures, names, options, configs, examples, command lines, checkpoints.

    case(seed) → (what was asked, a call);  fault(call) → None, or what is wrong with its refusal

A refusal is right if it is raised by a line of equiwrap's own that says `raise`, is a ValueError, a
TypeError or of equiwrap's kinds, and is a sentence.
"""

from __future__ import annotations

import contextlib
import dis
import io
import json
import random
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import equiwrap as ew
from equiwrap.__main__ import main
from equiwrap.frames import frame_for
from equiwrap.groups import parse_group
from equiwrap.signature import Signature

ROOT = str(Path(ew.__file__).parent)
GROUPS = ["C4", "D4", "SO(3)", "E(3)", "S(n)", "SO+(1,3)", "U(2)", "GL(2)", "R+", "T(2)", "O_h"]
GROUPS += ["S(n) x O(3)", "C4 x C2", "O(2)", "C3", "Aff(2)"]
TEXTS = ["b c h w -> b k", "b n p, b n v -> b n p", "x: b n v, mask: _ -> {y: b k, z: b n v}"]
TEXTS += ["b n (p + v + 1) -> b (n v)", "(b n) p | batch, _ -> b k", "... n v -> ...", "b r -> b 3"]
TEXTS += ["b (h w) c -> b (h w) c", "b n n -> b k", "b a h w -> b (2 v) h w", "b d h w c -> b v"]
PIECES = ["->", ",", ":", "(", ")", "{", "}", "|", "_", "...", "+", " ", "b", "n", "v", "p", "0"]
PIECES += [
    "b b",
    "h",
    "w",
    "é",
    "\n",
    "\t",
    "\x00",
    "💥",
    "(())",
    "1e9",
    "-1",
    "9" * 30,
    "__class__",
    "%s",
]
NAMES = [
    "C4",
    "D_4",
    "SO(3)",
    "S(n) x O(3)",
    "SO+(1,3)",
    "E(3)",
    "R+",
    "T(2)",
    "O_h",
    "GL(3)",
    "U(1)",
]
FRAMES = [
    "whole",
    "haar",
    "key",
    "axes",
    "pca",
    "lorentz",
    "unitary",
    "linear",
    "sorted",
    "labelled",
]
FRAMES += [
    "confidence",
    "weighted",
    "separated",
    "joint",
    "size",
    "shift",
    "auto",
    "",
    "Whole",
    "spectral",
]
OPTIONS = [
    "chunk",
    "ties",
    "stochastic",
    "detach_frame",
    "generator",
    "samples",
    "seed",
    "nonsense",
]
ARGUMENTS = ["group", "signature", "method", "frame", "penalty", "softness", "hidden", "targets"]
ARGUMENTS += ["calibrate", "mask", "probes", "at", "example", "tol", "chunk", "ties", "wrong"]


class Plain(nn.Module):
    """An image model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x, scale=1.0):
        return self.head(self.conv(x).relu().mean((2, 3))) * scale


class Cloud(nn.Module):
    """A model of `x[b, 4, 3]`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 12)

    def forward(self, x):
        return self.body(x.flatten(1)).reshape(x.shape)


def junk(rng: random.Random):
    """A value of some kind."""
    return rng.choice([
        *(None, 0, -1, 7, 3.5, float("nan"), float("inf"), True, "", "x", "C4", "b c h w", b"raw"),
        *([], [1], ["a", 2], {}, {"a": 1}, {1: 2}, (), ("x",), {"conv": 3}, range(3), object()),
        *(torch.zeros(2), torch.zeros(0), torch.ones(2, 2, 5, 5), torch.tensor(1), torch.float32),
        *(len, nn.Linear(2, 2), nn.Linear, "(", "[", "💥", 1j, "a" * 3000, [[]], [None], {"": ""}),
    ])


def mutated(rng: random.Random, text: str) -> str:
    """The text with a few pieces put in, taken out, doubled or exchanged."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(text))
        how = rng.randint(0, 4)
        if how == 0:
            text = text[:at] + rng.choice(PIECES) + text[at:]
        elif how == 1:
            text = text[:at] + text[at + rng.randint(1, 3) :]
        elif how == 2:
            text = text[:at] + text[at : at + 4] * 2 + text[at:]
        elif how == 3:
            words = text.split(" ")
            rng.shuffle(words)
            text = " ".join(words)
        else:
            text = text[:at] + rng.choice(rng.choice(TEXTS).split(" ")) + text[at:]
    return text


# -- the cases -------------------------------------------------------------------------------------


def signature(rng):
    text, group = mutated(rng, rng.choice(TEXTS)), rng.choice(GROUPS)
    return f"Signature.parse({text!r}, {group!r})", lambda: Signature.parse(text, group)


def group(rng):
    name = rng.choice([mutated(rng, rng.choice(NAMES)), junk(rng)])

    def call():
        found = parse_group(name)
        assert str(parse_group(str(found))) == str(found), "the name is not read back"

    return f"parse_group({name!r})", call


def frame(rng):
    name = rng.choice([rng.choice(FRAMES), mutated(rng, rng.choice(FRAMES)), junk(rng)])
    options = {rng.choice(OPTIONS): junk(rng) for _ in range(rng.choice([0, 1, 1, 2]))}
    which = rng.choice(GROUPS)
    text = {"C4": "b c h w -> b k", "S(n)": "b n c -> b k", "T(2)": "b c h w -> b k"}
    sig = Signature.parse(text.get(which, "b n v -> b k"), which)
    return f"frame_for({name!r}, {which}, {options!r})", lambda: frame_for(name, sig, **options)


def config(rng):
    fields = ["group", "signature", "method", "frame", "penalty", "softness", "hidden", "targets"]
    fields += ["mask", "probes", "at", "chunk", "tol", "example", "model", "self", "options"]
    given = {"group": "C4", "signature": "b c h w -> b k"}
    for _ in range(rng.randint(1, 3)):
        given[rng.choice(fields)] = junk(rng)
    if rng.random() < 0.3:
        given = junk(rng)

    def call():
        found = ew.Config.from_dict(given)
        json.loads(found.to_json())
        ew.equivariantize(Plain(), **found.to_dict())(torch.randn(2, 2, 5, 5))

    return f"Config.from_dict({given!r})", call


def text_of_config(rng):
    good = ew.equivariantize(Plain(), "C4", "b c h w -> b k").equiwrap.config.to_json()
    text = rng.choice([
        mutated(rng, good),
        mutated(rng, good),
        junk(rng),
        "[" * 5000,
        "null",
        "NaN",
    ])
    return f"Config.from_json({text!r})", lambda: ew.Config.from_json(text)


def arguments(rng):
    model, base = rng.choice([
        (Plain(), {"group": "C4", "signature": "b c h w -> b k"}),
        (Cloud(), {"group": "O(3)", "signature": "b n v -> b n v"}),
    ])
    method = rng.choice(["average", "average", "penalize", "project"])
    if method != "average":
        model, base = Plain(), {"group": "C4", "signature": "b c h w -> b k", "method": method}
        base["example"] = torch.randn(2, 2, 5, 5)
    for _ in range(rng.choice([1, 1, 2])):
        name, value = rng.choice(ARGUMENTS), junk(rng)
        if not (name in ("targets", "probes") and callable(value)):
            base[name] = value
    x = torch.randn(2, 2, 5, 5) if isinstance(model, Plain) else torch.randn(2, 4, 3)

    def call():
        ew.equivariantize(model, **base)(x)

    return f"equivariantize({type(model).__name__}, {base!r})", call


def inputs(rng):
    made = ew.equivariantize(Plain(), "C4", "x: b c h w -> b k")
    shapes = [(2, 2, 5), (2, 2, 5, 6), (2, 2, 5, 5, 5), (), (0, 2, 5, 5), (2, 2, 0, 0)]
    if rng.random() < 0.5:
        made = ew.equivariantize(Cloud(), "E(3)", "b n p -> b n v")
        shapes = [(2, 4), (2, 4, 4), (2, 3, 4), (4, 3), (), (2, 4, 0), (1, 2, 4, 3)]
    x = rng.choice([torch.randn(rng.choice(shapes)), junk(rng), torch.ones(2, 4, 3).long()])
    rest = rng.choice([(), (), (junk(rng),)])
    return f"wrapped({x!r}, *{rest!r})", lambda: made(x, *rest)


def examined(rng):
    x = rng.choice([junk(rng), torch.randn(2, 2, 5, 5)])
    name, text = (
        rng.choice(["C4", "C4", junk(rng)]),
        rng.choice([None, "b c h w -> b k", junk(rng)]),
    )
    call = rng.choice([
        lambda: ew.audit(Plain(), name, x, signature=text),
        lambda: ew.audit(rng.choice([junk(rng), Plain()]), name, x),
        lambda: ew.measure.equivariance_error(Plain(), name, x, signature=text),
        lambda: ew.unwrap(x),
        lambda: ew.disabled(x).__enter__(),
        lambda: ew.project_(Plain(), name, text, example=x),
        lambda: ew.EquivarianceDecay(x, text),
        lambda: ew.equivariantize(x, name),
    ])
    return f"measured on {x!r}, {name!r}, {text!r}", call


def line(rng):
    words = [
        "timm:no_such_net",
        "evil.pt",
        "os:system",
        "json:loads",
        "a:b",
        ":",
        "torch.nn:Linear",
        "",
    ]
    given = ["audit", rng.choice(words), "--group", rng.choice(["C4", "X", "", "auto", "SO(3)"])]
    for _ in range(rng.randint(0, 2)):
        given += rng.choice([
            ["--signature", mutated(rng, rng.choice(TEXTS))],
            ["--shape", rng.choice(["8,64,3", "a", "", "0", "-1,2", "1e3"])],
            ["--size", rng.choice(["0", "-3", "x", "8"])],
            ["--out", rng.choice(["a.exe", "", "/no/such/folder/a.html"])],
            ["--data", rng.choice(["/no/such/folder", ""])],
            ["--batch", rng.choice(["0", "-1", "two"])],
        ])

    def call():
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            status = main(given)
        if status:
            raise ew.EquiwrapError(said.getvalue().strip())

    return f"python -m equiwrap {' '.join(given)!r}", call


def state(rng):
    net = Plain()
    frame = ew.frames.Learned(nn.Sequential(nn.Flatten(), nn.Linear(50, 1), nn.Flatten(0)))
    model = ew.equivariantize(net, "C4", "b c h w -> b k", frame=frame)
    given = rng.choice([
        junk(rng),
        {"equiwrap.network.1.weight": junk(rng)},
        {"conv.weight": junk(rng)},
    ])
    return f"load_state_dict({given!r})", lambda: model.load_state_dict(given)


CASES = (signature, signature, group, frame, config, config, text_of_config, arguments, arguments)
CASES = (*CASES, arguments, inputs, examined, line, state)
TORCHS_OWN = (state,)  # torch refuses a checkpoint in words of its own


def case(seed: int) -> tuple[str, Callable[[], object], Callable]:
    """What one integer asks, the call, and its kind."""
    rng = random.Random(seed)
    kind = rng.choice(CASES)
    torch.manual_seed(seed)
    what, call = kind(rng)
    return what, call, kind


# -- the judge -------------------------------------------------------------------------------------


def fault(call: Callable[[], object], kind: Callable | None = None) -> str | None:
    """Why the refusal of a call is none of ours, or no sentence; None if it is, or if it works."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except SystemExit as error:
        return None if error.code == 2 else f"exits with {error.code}"
    except (ew.EquiwrapError, ValueError, TypeError) as error:
        return _worded(error) if kind not in TORCHS_OWN else None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if kind in TORCHS_OWN and not frames[-1].filename.startswith(ROOT):
            return None
        inside = any(f.name == "forward" and f.filename == __file__ for f in frames)
        return None if inside else _said(error)
    return None


def _worded(error: Exception) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    if any(f.name == "forward" and f.filename == __file__ for f in frames):
        return None  # the user's own model does not take it
    words = str(error)
    ours = last.filename.startswith(ROOT)
    bound = last.filename == __file__  # Python itself refuses arguments that no function takes
    if bound and not isinstance(error, ew.EquiwrapError):
        return None if "argument" in words else _said(error)
    if not (ours or bound):
        return f"from outside: {_said(error)}"
    if ours and not _raises(error):
        return f"no check of ours: {_said(error)}"
    if len(words) < 40 or not (words.rstrip().endswith((".", "?", ")")) or "\n" in words):
        return f"no sentence: {_said(error)}"
    return None


def _raises(error: Exception) -> bool:
    """True where the innermost instruction is that of `raise`."""
    at = error.__traceback__
    while at.tb_next is not None:
        at = at.tb_next
    return at.tb_frame.f_code.co_code[at.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _said(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__} at {where}: {str(error)[:150]}"
