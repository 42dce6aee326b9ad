"""A bounded random generator of small models, as source text, with the signatures that fit them.

    draw(seed) → Drawn: kind, source, group, signature, frame, options, inputs, by one integer

The text is grown line by line: a line that torch refuses on the trial input is left out, so shapes
need no arithmetic here. What is drawn is written out whole in `Drawn.source`.
"""

from __future__ import annotations

import dataclasses
import functools
import linecache
import random
import re
from dataclasses import dataclass, field
from types import SimpleNamespace

import fuzz_tables as tables
import torch
from torch import Tensor, nn

KINDS = ("image", "image", "grid", "grid", "cloud", "cloud", "cloud", "set", "voxel", "complex")
KINDS = (*KINDS, "ragged")
HEADER = """\
import torch, dataclasses
import torch.nn.functional as F
from torch import nn
from typing import NamedTuple
from collections import OrderedDict
@dataclasses.dataclass
class Found:
    y: torch.Tensor
    z: torch.Tensor
"""


@dataclass(frozen=True)
class Drawn:
    """One model with one wrapping; `build()` and `feed(b)` give the same numbers each time."""

    seed: int
    kind: str
    source: str
    group: str
    inputs: tuple[tuple[str, str], ...]
    outputs: str
    sizes: dict[str, int]
    dtype: torch.dtype
    frame: str = "auto"
    options: dict = field(default_factory=dict)
    style: str = "plain"
    mask: str | None = None

    @property
    def signature(self) -> str:
        """As `equivariantize` takes it."""
        named = self.mask is not None or self.seed % 5 == 0
        left = ", ".join(f"{n}: {p}" if named else p for n, p in self.inputs)
        return f"{left} -> {self.outputs}"

    def build(self) -> nn.Module:
        """The model, in eval mode, with statistics that are not the initial ones."""
        torch.manual_seed(self.seed)
        model = compiled(self.source, f"<drawn {self.seed}>")().to(self.dtype).eval()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if getattr(module, "running_var", None) is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        return model

    def feed(self, b: int, seed: int = 0, style: str | None = None) -> tuple:
        """The arguments of a call with `b` samples."""
        style = self.style if style is None else style
        draw = torch.Generator().manual_seed(1000 * self.seed + seed)
        dtype = self.dtype
        if self.kind == "complex":
            dtype = torch.complex128 if dtype is torch.float64 else torch.complex64
        return tuple(
            given(name, pattern, self, b, dtype, draw, style) for name, pattern in self.inputs
        )

    def __str__(self) -> str:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        text = fields.pop("source")
        head = ", ".join(f"{k}={v!r}" for k, v in fields.items())
        return f"{head}\n  signature={self.signature!r}\n{text}"


@functools.lru_cache(maxsize=64)
def compiled(source: str, name: str) -> type[nn.Module]:
    """The class of a text; tracebacks and `inspect` find its lines."""
    space: dict = {"__name__": "fuzzed"}
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    exec(compile(source, name, "exec"), space)
    return space["Net"]


def axes_of(pattern: str) -> list[str]:
    """`"b n (p + 1) | batch"` → its axes as text."""
    return re.findall(r"\([^()]*\)|[^\s()]+", pattern.partition("|")[0])


def length(axis: str, drawn, b: int) -> int:
    """The size of an axis as text."""
    if axis.startswith("("):
        total = 0
        for term in axis[1:-1].split("+"):
            size = 1
            for name in term.split():
                size *= length(name, drawn, b)
            total += size
        return total
    return b if axis in ("b", "...") else int(axis) if axis.isdigit() else drawn.sizes[axis]


def given(name, pattern, drawn, b, dtype, draw, style):
    """One argument: a tensor of the pattern's shape, or what `_` stands for."""
    if name == "batch":
        return torch.repeat_interleave(
            torch.arange(b), torch.tensor(rows_of(drawn, b), dtype=torch.long)
        )
    if name == "mask":
        kept = torch.rand(b, drawn.sizes["n"], generator=draw) < 0.6
        kept[:, :2] = True
        return kept.to([torch.bool, torch.float32, torch.int64][drawn.seed % 3])
    if name == "flag":
        return 2
    if pattern == "_":  # one number a sample
        return torch.randn(b, 1, generator=draw, dtype=drawn.dtype)
    shape = [length(axis, drawn, b) for axis in axes_of(pattern)]
    if drawn.kind == "ragged":
        shape = [sum(rows_of(drawn, b)), *shape[1:]]
    x = torch.randn(shape, generator=draw, dtype=torch.promote_types(dtype, torch.float32))
    return styled(x.to(dtype), style, pattern)


def rows_of(drawn, b: int) -> list[int]:
    """The rows of each ragged sample."""
    return [1 + (3 * i + drawn.sizes["n"]) % 5 + drawn.sizes["v"] for i in range(b)]


def styled(x: Tensor, style: str, pattern: str) -> Tensor:
    """The same tensor laid out, or spoilt, in one of the ways of users."""
    if style == "strided":
        return torch.stack([x, x], -1)[..., 0]
    if style == "channels_last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if style == "grad":
        return x.requires_grad_()
    if style == "zeros":
        return torch.zeros_like(x)
    if style == "integers":
        return (2 * x.real).round().to(x.dtype)
    if style == "repeated" and x.ndim > 1:
        return x[:, :1].expand_as(x).clone() if not pattern.startswith("(b n)") else x
    if style == "symmetric" and x.ndim >= 4 and x.shape[-1] == x.shape[-2]:
        return x + x.rot90(1, (-2, -1)) + x.rot90(2, (-2, -1)) + x.rot90(3, (-2, -1))
    return x


# -- growing a text --------------------------------------------------------------------------------


class Grower:
    """Lines of `__init__` and `forward` that torch accepts one after the other."""

    def __init__(self, rng: random.Random, args: list[str], values: tuple, seed: int) -> None:
        self.rng, self.args, self.init, self.body = rng, args, [], []
        self.space: dict = {}
        exec(HEADER, self.space)
        torch.manual_seed(seed)
        self.space |= {"self": nn.Module(), **dict(zip(args, values, strict=True))}
        self.count = 0

    def add(self, init: str, body: str, **more) -> bool:
        """Try lines; False, and nothing kept, where torch raises or the value grows too large."""
        self.count += 1
        names = {"L": f"l{self.count}", **self._sizes(), **more}
        init, body = (_filled(text, names, self.rng) for text in (init, body))
        space = dict(self.space)
        try:
            with torch.no_grad():
                exec(init, space)
                exec(body, space)
        except Exception:
            for name in (f"l{self.count}", f"l{self.count}a", f"l{self.count}b"):
                for kept in (space["self"]._modules, space["self"]._parameters):
                    kept.pop(name, None)
                space["self"]._buffers.pop(name, None)
            return False
        x = space.get("x")
        if not isinstance(x, Tensor) or not 0 < x.numel() <= 6000 or not x.isfinite().all():
            return False
        self.space = space
        self.init += init.split("\n") if init else []
        self.body += body.split("\n") if body else []
        return True

    def _sizes(self) -> dict[str, int]:
        x = self.space.get("x")
        shape = list(x.shape) if isinstance(x, Tensor) else []
        return dict(zip("bcdhw" if len(shape) == 5 else "bchw", shape, strict=False)) | {
            "f": shape[-1] if shape else 0,
            "numel": x[0].numel() if shape and len(x) else 0,
        }

    def text(self, result: str) -> str:
        """The class."""
        lines = ["class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
        lines += [f"        {line}" for line in self.init]
        lines += ["", f"    def forward(self, {', '.join(self.args)}):"]
        lines += [f"        {line}" for line in [*self.body, f"return {result}"]]
        return HEADER + "\n".join(lines) + "\n"


def _filled(text: str, names: dict, rng: random.Random) -> str:
    """`{c}` by name, `{1|3|5}` by chance, `{c*2}` by arithmetic."""

    def put(match: re.Match) -> str:
        inner = match[1]
        if "|" in inner:
            inner = rng.choice(inner.split("|"))
        try:
            return str(eval(inner, {"__builtins__": {}}, dict(names)))
        except (NameError, SyntaxError):
            return inner

    return re.sub(r"\{([^{}]*)\}", put, text)


def draw(seed: int, kind: str | None = None) -> Drawn:
    """The model of one integer."""
    rng = random.Random(seed)
    while True:
        found = _drawn(rng, seed, kind)
        if found.outputs:
            return found


def _drawn(rng: random.Random, seed: int, kind: str | None) -> Drawn:
    kind = rng.choice(KINDS) if kind is None else kind
    dtype = rng.choice([torch.float32, torch.float64, torch.float64])
    plan = tables.wrapping(rng, kind)
    style = rng.choice(tables.STYLES[kind])
    inputs = tuple(plan["inputs"])
    if plan.get("extra"):
        inputs = (*inputs, (plan["extra"], "_"))
    shell = SimpleNamespace(kind=kind, sizes=plan["sizes"], dtype=dtype, seed=seed)
    shell.inputs, shell.style = inputs, "plain"
    values = Drawn.feed(shell, 2)  # type: ignore[arg-type]
    names = [name for name, _ in inputs]
    grower = Grower(rng, names, values, seed)
    for line in plan["prelude"]:
        grower.add("", line)
    table = tables.LINES.get(kind, tables.ROWS)
    for _ in range(rng.randint(1, 6)):
        grower.add(*rng.choice(table))
    if plan.get("extra") and "batch" not in names:
        grower.add("", "x = x * flag" if plan["extra"] == "flag" else plan["join"])
    outputs, result = _heads(rng, grower, plan, shell)
    return Drawn(
        seed,
        kind,
        grower.text(result),
        plan["group"],
        inputs,
        outputs,
        plan["sizes"],
        dtype,
        plan["frame"],
        plan["options"],
        style,
        plan.get("mask"),
    )


def _heads(rng: random.Random, grower: Grower, plan: dict, shell) -> tuple[str, str]:
    """Outputs that fit what has been computed: (their side of the signature, the expression)."""
    count = rng.choice([1, 1, 1, 2])
    patterns, names = [], []
    for i in range(count):
        for pattern in rng.sample(plan["outputs"], len(plan["outputs"])):
            rest = [length(a, shell, 2) for a in axes_of(pattern) if a not in ("b", "(b n)")]
            whole = 1
            for size in rest:
                whole *= size
            head = tables.head(rng, shell.kind, axes_of(pattern), rest, whole, i)
            if grower.add(*head, keep="x"):
                patterns.append(pattern)
                names.append(f"o{i}")
                break
    if len(patterns) < 2:
        return (patterns or [""])[0], (names or [""])[0]
    form = rng.choice(["tuple", "dict", "found", "ordered"])
    if form == "tuple":
        return ", ".join(patterns), ", ".join(names)
    pairs = list(zip("yz", patterns, strict=True))
    made = {
        "dict": "{{'y': {0}, 'z': {1}}}",
        "found": "Found({0}, {1})",
        "ordered": "OrderedDict(y={0}, z={1})",
    }[form].format(*names)
    return "{" + ", ".join(f"{k}: {p}" for k, p in pairs) + "}", made
