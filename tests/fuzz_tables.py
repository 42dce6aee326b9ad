"""What the fuzzer draws from: lines of forwards, groups with signatures that fit, frames, styles.

A line is (its part of `__init__`, its part of `forward`); `{L}` is a fresh name, `{c}` `{h}` `{w}`
`{f}` are sizes of x, `{1|3}` a choice.
"""

from __future__ import annotations

import random

LAYOUTS = ["plain", "plain", "strided", "grad"]
SPOILT = ["zeros", "integers", "repeated"]
STYLES = {
    "image": [*LAYOUTS, "channels_last", *SPOILT, "symmetric"],
    "grid": [*LAYOUTS, "channels_last"],
    "voxel": [*LAYOUTS, *SPOILT],
    "cloud": [*LAYOUTS, *SPOILT],
    "set": [*LAYOUTS, *SPOILT],
    "complex": [*LAYOUTS, "zeros", "repeated"],
    "ragged": LAYOUTS,
}
CONV = "self.{L} = nn.Conv2d({c}, {3|4|8}, {1|2|3|5}, stride={1|1|2|3}, padding={0|1|2}, "
CONV += (
    "dilation={1|1|2}, bias={True|False}, padding_mode='{zeros|zeros|reflect|replicate|circular}')"
)
SAME = "self.{L} = nn.Conv2d({c}, {c}, {1|3|5}, padding='same')"
CALL = "x = self.{L}(x)"
IMAGES = [
    (CONV, CALL),
    (CONV, CALL),
    (CONV, CALL),
    (SAME, "x = x + F.{relu|gelu|silu}(self.{L}(x))"),
    (SAME, "x = self.{L}(x.clone().relu_()) + x\nx = self.{L}(x)"),
    ("self.{L} = nn.Conv2d({c}, {c}, 3, padding=1, groups={c})", CALL),
    ("self.{L} = nn.Conv2d({c}, {c*2}, {1|3}, padding=1, groups={c|2|4})", CALL),
    ("self.{L} = nn.ConvTranspose2d({c}, 4, {2|3}, stride={1|2}, padding={0|1})", CALL),
    ("self.{L} = nn.BatchNorm2d({c}, affine={True|False})", CALL),
    ("self.{L} = nn.GroupNorm({1|2|4}, {c})", CALL),
    ("self.{L} = nn.InstanceNorm2d({c}, affine={True|False})", CALL),
    ("self.{L} = nn.LayerNorm({c})", "x = self.{L}(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)"),
    ("self.{L} = nn.LayerNorm([{h}, {w}])", CALL),
    ("self.{L} = nn.{ReLU|GELU|Tanh|Hardswish|PReLU|Softplus|LeakyReLU|ELU|Sigmoid}()", CALL),
    ("self.{L} = nn.PReLU({c})", CALL),
    ("", "x = F.{relu|gelu|silu|softplus|leaky_relu|mish}(x)"),
    ("", "x = torch.{sin|tanh|sigmoid|abs}(x)"),
    ("self.{L} = nn.ReLU(inplace=True)", "x = self.{L}(x + 0)"),
    ("self.{L} = nn.MaxPool2d({2|3}, {1|2}, {0|1}, ceil_mode={True|False})", CALL),
    ("self.{L} = nn.AvgPool2d({2|3}, {1|2}, {0|1}, count_include_pad={True|False})", CALL),
    ("self.{L} = nn.AdaptiveAvgPool2d({1|2|3|(2, 3)})", CALL),
    ("", "x = F.{max|avg}_pool2d(x, {2|3}, {1|2})"),
    ("", "x = F.adaptive_max_pool2d(x, {2|3})"),
    ("", "x = F.lp_pool2d(x, 2, 2)"),
    ("self.{L} = nn.Dropout({0.1|0.5})", CALL),
    ("self.{L} = nn.Dropout2d(0.3)", CALL),
    ("", "x = F.dropout(x, 0.2, self.training)"),
    ("", "x = torch.cat([x, {x.relu()|-x|x.flip(1)|x * x}], {1|1|-3})"),
    ("", "a, z = x.chunk(2, 1)\nx = a * torch.sigmoid(z)"),
    ("", "x = torch.stack([{x|x.tanh()}, x]).{sum|mean|amax}(0)"),
    ("", "x = torch.stack(x.unbind(1)[::-1], 1)"),
    ("", "x = torch.cat(x.split({1|2}, 1), 1)"),
    (
        "self.{L} = nn.Parameter(torch.randn(4, {c}))",
        "x = torch.einsum('bchw,oc->bohw', x, self.{L})",
    ),
    ("self.{L} = nn.Linear({c}, {4|6})", "x = self.{L}(x.movedim(1, -1)).movedim(-1, 1)"),
    ("self.{L} = nn.Linear({w}, {w})", CALL),
    (
        "self.{L} = nn.Linear({c}, {c})",
        "x = x * self.{L}(x.mean((2, 3))).sigmoid()[..., None, None]",
    ),
    (
        "self.{L} = nn.Conv2d({c}, {c}, 1)",
        "x = x * self.{L}(F.adaptive_avg_pool2d(x, 1)).sigmoid()",
    ),
    ("self.{L} = nn.Parameter(torch.randn(1, {c}, {h|1}, {w|1}))", "x = x {+|*} self.{L}"),
    ("self.{L} = nn.Parameter(torch.randn({h}, {w}))", "x = x + self.{L}"),
    ("self.register_buffer('{L}', torch.randn({c}, 1, 1))", "x = x * self.{L}"),
    ("self.register_buffer('{L}', torch.rand({h}, {w}) > 0.3)", "x = x.masked_fill(self.{L}, 0.5)"),
    ("", "x = x + torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)"),
    ("", "y = x * 2\ny += 1\ny[:, 0] = 0\nx = y"),
    ("", "y = x.clone()\ny[:, {0|-1}].mul_(2)\nx = y"),
    ("", "x = torch.where(x > 0, x, 0.1 * x)"),
    ("", "x = x.flatten(2).softmax(-1).reshape(x.shape)"),
    ("", "x = F.normalize(x, dim=1)"),
    ("", "x = x / (1 + x.norm(dim={1|(2, 3)}, keepdim=True))"),
    ("", "x = x - x.mean({1|(2, 3)|-1|-2}, keepdim=True)"),
    ("", "x = x - x.{amax|amin}({1|(2, 3)|-1|-2}, keepdim=True)"),
    ("", "x = x.cumsum({1|-1|-2})"),
    ("", "x = x.roll({1|2}, {1|-1|-2})"),
    ("", "x = x.flip({1|2|3})"),
    ("", "x = x.transpose(2, 3).contiguous()"),
    ("", "x = x.rot90({1|2|3}, (2, 3)) + x"),
    ("", "x = x[..., 1:, {:|1:|:-1|::2}]"),
    ("", "x = x[:, {::2|1:|[0, 1]|:-1}]"),
    ("", "x = F.pad(x, ({1|0}, 1, 1, {1|0}), mode='{constant|reflect|circular|replicate}')"),
    ("", "x = F.interpolate(x, scale_factor=2, mode='{nearest|bilinear|bicubic}')"),
    ("", "x = F.interpolate(x, size=({5|6}, {5|6}), mode='bilinear', align_corners={True|False})"),
    ("", "x = F.pixel_shuffle(x, 2)"),
    ("", "x = F.pixel_unshuffle(x, 2)"),
    ("", "x = F.channel_shuffle(x, 2)"),
    ("", "x = F.unfold(x, 3, padding=1).reshape(x.shape[0], -1, x.shape[2], x.shape[3])[:, :12]"),
    ("", "x = F.local_response_norm(x, 2)"),
    ("", "x = x.topk(2, 1)[0]"),
    ("", "x = x.sort({1|-1})[0]"),
    ("", "x = x.double().to(x.dtype)"),
    ("", "x = x + 1 if self.training else x"),
    ("", "for i in range({2|3}):\n    x = torch.tanh(x) + i"),
    ("", "with torch.no_grad():\n    m = x.std((1, 2, 3), keepdim=True) + 1\nx = x / m"),
    ("", "x = x.reshape(x.size(0), 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)"),
    ("", "x = x @ x.transpose(-1, -2) / 9"),
    ("", "x = F.glu(x, 1)"),
    (
        "self.{L} = nn.MultiheadAttention({c}, {1|2}, batch_first=True)",
        "t = x.flatten(2).transpose(1, 2)\nt = t + self.{L}(t, t, t, need_weights=False)[0]\n"
        "x = t.transpose(1, 2).reshape(x.shape)",
    ),
    (
        "self.{L} = nn.Linear({c}, 3 * {c}, bias={True|False})",
        "t = x.flatten(2).transpose(1, 2)\nq, k, v = self.{L}(t).chunk(3, -1)\n"
        "t = {F.scaled_dot_product_attention(q, k, v)|(q @ k.mT).softmax(-1) @ v}\n"
        "x = x + t.mT.reshape(x.shape)",
    ),
    (
        "self.{L} = nn.TransformerEncoderLayer({c}, {1|2}, 8, batch_first=True, norm_first=True)",
        "x = self.{L}(x.flatten(2).mT).mT.reshape(x.shape)",
    ),
    (
        "self.{L} = nn.Parameter(torch.randn(1, {h * w}, {c}))",
        "x = (x.flatten(2).mT + self.{L}).mT.unflatten(2, x.shape[2:])",
    ),
    (
        "self.{L} = nn.Sequential(nn.Conv2d({c}, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())",
        CALL,
    ),
    (
        "self.{L} = nn.ModuleList([nn.Conv2d({c}, {c}, 1) for _ in range(2)])",
        "for layer in self.{L}:\n    x = x + layer(x)",
    ),
    (
        "self.{L}a = nn.Conv2d({c}, {c}, 3, padding=1)\nself.{L}b = nn.Conv2d({c}, {c}, 3)\n"
        "self.{L}b.weight = self.{L}a.weight",
        "x = self.{L}b(self.{L}a(x))",
    ),
    ("self.{L} = nn.utils.parametrizations.weight_norm(nn.Conv2d({c}, 4, 3, padding=1))", CALL),
]
_EVEN = "self.{L} = nn.Conv2d({c}, {4|8|16}, {1|3|3|5}, padding='same', bias={True|False})"
_BREAKS = ("linspace", "cumsum", "roll", "flip", "[..., 1:", "Linear({w}", "shuffle", "unfold")
_BREAKS += ("stride={1|1|2|3}", "Transpose", ", z = x", "x @ x", "x.sort")
GRID = [(_EVEN, CALL), (_EVEN, CALL), (_EVEN, f"{CALL}.relu()")]  # what keeps the symmetry, mostly
GRID += [line for line in IMAGES if not any(word in "".join(line) for word in _BREAKS)]
VOXELS = [
    ("self.{L} = nn.Conv3d({c}, {2|4}, {1|2|3}, stride={1|2}, padding={0|1})", CALL),
    ("self.{L} = nn.BatchNorm3d({c})", CALL),
    ("", "x = F.{max|avg}_pool3d(x, 2, 1)"),
    ("", "x = F.{relu|gelu|silu}(x)"),
    ("", "x = torch.cat([x, x.tanh()], 1)"),
    ("", "x = x + torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)"),
    ("", "x = x - x.mean((2, 3, 4), keepdim=True)"),
    ("", "x = x.cumsum({-1|-2|-3})"),
]
ROWS = [  # x[b, f]
    ("self.{L} = nn.Linear({f}, {8|12}, bias={True|False})", CALL),
    ("self.{L} = nn.Linear({f}, {8|12})", "x = F.{relu|gelu|silu|softplus}(self.{L}(x))"),
    ("self.{L} = nn.Linear({f}, {f})", "x = x + torch.tanh(self.{L}(x))\nx = self.{L}(x)"),
    ("self.{L} = nn.LayerNorm({f})", CALL),
    ("self.{L} = nn.BatchNorm1d({f})", CALL),
    ("self.{L} = nn.Bilinear({f}, {f}, 4)", "x = torch.cat([x, self.{L}(x, x)], -1)"),
    ("", "x = torch.{tanh|sin|sigmoid}(x)"),
    ("", "a, z = x.chunk(2, 1)\nx = torch.cat([a * z.sigmoid(), z], 1)"),
    ("", "x = torch.einsum('bi,bj->bij', x[:, :4], x[:, :3]).flatten(1)"),
    ("", "x = x.reshape(x.shape[0], 2, -1).transpose(1, 2).flatten(1)"),
    ("", "x = x.cumsum(1)"),
    ("", "y = x * 2\ny[:, 0] = 1\ny += 1\nx = y"),
    ("self.{L} = nn.Dropout(0.2)", CALL),
    ("self.register_buffer('{L}', torch.randn({f}))", "x = x * self.{L}"),
    ("self.{L} = nn.Embedding({f}, 3)", "x = x @ self.{L}.weight"),
]
SETS = [  # x[b, n, f]
    ("self.{L} = nn.Linear({f}, {4|6})", "x = F.{relu|gelu|tanh}(self.{L}(x))"),
    ("self.{L} = nn.LayerNorm({f})", CALL),
    ("self.{L} = nn.MultiheadAttention({f}, 1, batch_first=True)", "x = x + self.{L}(x, x, x)[0]"),
    ("", "x = torch.cat([x, x.{mean|amax|sum}(1, keepdim=True).expand_as(x)], -1)"),
    ("", "x = x - x.mean(1, keepdim=True)"),
    ("", "x = x.cumsum(1)"),
    ("", "x = x * torch.linspace(0.5, 1, x.shape[1], dtype=x.dtype)[:, None]"),
    ("", "x = x.softmax(1) + x"),
    ("self.{L} = nn.GRU({f}, 4, batch_first=True)", "x = self.{L}(x)[0]"),
]
LINES = {"image": IMAGES, "grid": GRID, "voxel": VOXELS, "set": SETS}
IMAGE_GROUPS = ["C1", "C2", "C4", "C4", "D1", "D2", "D4", "D4", "T(2)", "C3", "C8"]
POINTS = ["SO(2)", "O(2)", "SE(2)", "E(2)", "SO(3)", "O(3)", "SE(3)", "E(3)", "SO(4)", "C4", "D3"]
POINTS += ["O_h", "O", "SO+(1,3)", "O(1,2)", "GL(2)", "SL(3)", "Aff(2)", "R+", "R+ x SO(3)"]
POINTS += ["S(n) x SO(3)", "S(n) x E(2)", "S(n) x O(3)", "C4 x C2"]
FRAMES = {"SO": ["axes", "pca", "weighted", "haar"], "O(": ["axes", "pca", "haar"]}


def dimension(group: str) -> int:
    """The dimension of a vector."""
    last = group.split(" x ")[-1]
    digits = [int(c) for c in last if c.isdigit()]
    if "1," in last:
        return 1 + digits[-1]
    return 2 if last[0] in "CD" else 3 if last.startswith("O_") or last in "OR+" else digits[-1]


def order_of(group: str) -> int:
    """Its elements, 0 for an infinite group."""
    if group in ("O", "O_h"):
        return {"O": 24, "O_h": 48}[group]
    if group[0] in "CD" and group[1:].isdigit():
        return int(group[1:]) * (2 if group[0] == "D" else 1)
    return 0


def wrapping(rng: random.Random, kind: str) -> dict:
    """Group, inputs, outputs, frame and options that fit each other, and how x begins."""
    plan = {"frame": "auto", "options": {}, "extra": None, "prelude": [], "sizes": {"k": 3}}
    plan = {"image": _image, "grid": _image, "voxel": _voxel, "set": _set, "ragged": _ragged}.get(
        kind, _cloud
    )(rng, plan, kind)
    if rng.random() < 0.2:
        plan["options"]["chunk"] = rng.choice([1, 2, 3])
    if rng.random() < 0.15:
        plan["options"]["detach_frame"] = True
    if rng.random() < 0.1:
        plan["options"]["stochastic"] = True
    if rng.random() < 0.15:
        plan["options"]["softness"] = rng.choice([0.0, 0.25, 1.0])
    return plan


def _image(rng, plan, kind):
    group = rng.choice(IMAGE_GROUPS if kind == "image" else ["C2", "C4", "D1", "D2", "D4", "D4"])
    side = rng.choice([4, 5, 7, 8])
    free = group in ("C1", "C2", "D1", "D2", "T(2)")
    wide = side + rng.choice([0, 1, 2]) if free else side
    channels = rng.choice([1, 2, 3])
    plan |= {"group": group, "sizes": {"k": 3, "c": channels, "h": side, "w": wide, "v": 2}}
    plan["sizes"] |= {"a": 1, "r": order_of(group)}
    first = rng.choice(["b c h w"] * 6 + ["b h w c", "b c (h w)", "b v h w", "b (c v) h w"])
    if group == "T(2)" or wide != side:
        first = rng.choice(["b c h w", "b h w c"])
    moved = {
        "b h w c": "x = x.permute(0, 3, 1, 2)",
        "b c (h w)": f"x = x.unflatten(2, ({side}, -1))",
    }
    plan["inputs"], plan["prelude"] = [("x", first)], [moved[first]] if first in moved else []
    plan["outputs"] = ["b k", "b 1", "b", "b k h w", "b h w", "b c h w"]
    if group != "T(2)":
        plan["outputs"] += [
            "b v",
            "b v h w",
            "b (k v) h w",
            "b (v + 2) h w",
            "b v v",
            "b r",
            "b r h w",
        ]
        plan["outputs"] += ["b a", "b a h w"] if group[0] == "D" else []
        plan["outputs"] += ["b k (h w)"] if side == wide else []
        plan["frame"] = rng.choice(["auto", "whole", "key"])
        if plan["frame"] == "key" and rng.random() < 0.3:
            plan["options"]["ties"] = "average"
    if rng.random() < 0.2:
        plan["extra"], plan["join"] = rng.choice(["flag", "time"]), "x = x + time[..., None, None]"
    return plan


def _voxel(rng, plan, kind):
    side = rng.choice([3, 4])
    plan |= {"group": rng.choice(["O", "O_h"]), "inputs": [("x", "b c d h w")]}
    plan["sizes"] |= {"c": rng.choice([1, 2]), "d": side, "h": side, "w": side, "v": 3, "a": 3}
    plan["outputs"] = ["b k", "b v", "b k d h w", "b v d h w", "b d h w"]
    plan["frame"] = rng.choice(["auto", "whole", "key"])
    return plan


def _cloud(rng, plan, kind):
    group = rng.choice(["U(1)", "U(2)", "SU(2)", "SU(3)"] if kind == "complex" else POINTS)
    d, affine = dimension(group), group.split(" x ")[-1].startswith(("E(", "SE", "Aff"))
    n, r = rng.choice([d, d + 1, d + 3]), order_of(group)
    plan |= {"group": group, "sizes": {"k": 3, "c": 2, "n": n, "v": d, "p": d, "r": r}}
    plan["sizes"]["a"] = 3 if d == 3 else 1
    letter = "p" if affine else "v"
    inner = rng.choice([
        "b n {}",
        "b n {}",
        "b n {}",
        "b (n {})",
        "b n ({} + 1)",
        "n b {}",
        "b {} n",
    ])
    if group.startswith("S(n)"):
        inner = "b n {}"
    if affine:
        inner = rng.choice([
            "b n p",
            "b n p",
            "b n p, b n v",
            "b n p, b n v, b n 1",
            "b n (p + v + 1)",
        ])
    patterns = inner.format(letter).split(", ")
    if len(patterns) == 1 and not affine and rng.random() < 0.3:
        patterns.append(rng.choice(["b n 2", "b v", "b k"]))
    names = ["x", "y", "z"][: len(patterns)]
    plan["inputs"] = list(zip(names, patterns, strict=True))
    front = [f"{m}.movedim(1, 0)" if p.startswith("n b") else m for m, p in plan["inputs"]]
    flat = [f"{m}.flatten(1)" for m in front]
    if kind == "complex":
        flat = [f"torch.view_as_real({m}.resolve_conj()).flatten(1)" for m in front]
        flat = [
            m if p[2] != "k" else f"{n}.real"
            for m, (n, p) in zip(flat, plan["inputs"], strict=True)
        ]
    if "b n" in patterns[0] and not affine and rng.random() < 0.15 and len(names) == 1:
        plan["mask"] = "mask"
        plan["inputs"].append(("mask", "b n" if group.startswith("S(n)") else "_"))
        flat = ["torch.where(mask.bool()[..., None], x, x.new_zeros(())).flatten(1)"]
    elif rng.random() < 0.2:
        plan["extra"], plan["join"] = rng.choice(["flag", "time"]), "x = x + time"
    plan["prelude"] = [
        f"x = torch.cat([{', '.join(flat)}], 1)" if len(flat) > 1 else f"x = {flat[0]}"
    ]
    plan["outputs"] = [
        "b k",
        "b v",
        f"b n {letter}",
        "b n v",
        "b v v",
        "b (n v)",
        f"b ({letter} + 2)",
        "b",
    ]
    plan["outputs"] += ["b r"] if r else []
    plan["outputs"] += (
        ["b a"] if d in (2, 3) and group[:2] in ("O(", "D3", "E(") and "1," not in group else []
    )
    if not affine:
        plan["outputs"] += ["n b v"] if not group.startswith("S(n)") else []
    plan["frame"] = rng.choice(
        ["auto", "auto", *FRAMES.get(group[:2], [])] if "1," not in group else ["auto"]
    )
    return plan


def _ragged(rng, plan, kind):
    group = rng.choice(["SO(3)", "O(3)", "E(3)", "SE(2)", "O(2)"])
    d, letter = dimension(group), "p" if "E" in group else "v"
    plan |= {"group": group, "inputs": [("x", f"(b n) {letter} | batch"), ("batch", "_")]}
    plan["sizes"] |= {"n": rng.choice([2, 4, 5]), "v": d, "p": d}
    plan["prelude"] = ["x = torch.cat([x, x * x, x.sum(1, keepdim=True)], 1)"]
    plan["outputs"] = [f"(b n) {letter}", "(b n) v", "(b n) k"]
    plan["frame"] = rng.choice(["auto", "axes", "pca"])
    return plan


def _set(rng, plan, kind):
    graph = rng.random() < 0.5
    plan |= {
        "group": "S(n)",
        "inputs": [("x", "b n c")],
        "sizes": {"k": 2, "c": 2, "n": rng.choice([1, 3, 5])},
    }
    plan["outputs"] = ["b k", "b n k", "b n"]
    if graph:
        plan["inputs"] = (
            [("x", "b n n"), ("y", "b n c")] if rng.random() < 0.5 else [("x", "b n n")]
        )
        plan["outputs"] += ["b n n"]
        plan["prelude"] = ["x = x @ y"] if len(plan["inputs"]) > 1 else []
    elif rng.random() < 0.3:
        plan["frame"] = rng.choice(["sorted", "weighted", "haar"])
    return plan


def head(rng, kind, axes, rest, whole, i) -> tuple[str, str]:
    """The last layer, for an output of these axes: `(init, body)`."""
    out, shape = f"o{i}", ", ".join(map(str, rest))
    if kind == "ragged":
        return f"self.{{L}} = nn.Linear({{f}}, {whole})", f"{out} = self.{{L}}(x)"
    flat = f"{out} = self.{{L}}(x.flatten(1)).reshape({', '.join(['x.shape[0]', *map(str, rest)])})"
    body, init = flat, f"self.{{L}} = nn.Linear({{numel}}, {whole})"
    if kind in ("image", "grid") and axes[-2:] == ["h", "w"] and rng.random() < 0.8:
        count = max(1, whole // (rest[-1] * rest[-2]))
        init = f"self.{{L}} = nn.Conv2d({{c}}, {count}, {{1|3}}, padding='same')"
        body = f"{out} = F.interpolate(self.{{L}}(x), size=({rest[-2]}, {rest[-1]}))"
        body += f".reshape(x.shape[0], {shape})"
    elif kind in ("image", "grid") and rng.random() < 0.5:
        init = f"self.{{L}} = nn.Linear({{c}}, {whole})"
        pooled = ["x.mean((2, 3))", "x.amax((2, 3))", "x.flatten(2).sum(-1)", "x[:, :, 0, 0]"]
        pooled = rng.choice(pooled[: 4 if kind == "image" else 3])
        body = f"{out} = self.{{L}}({pooled}).reshape(x.shape[0], {shape})" if rest else flat
    value = "self.{L}(x)"
    if kind == "complex":
        init = f"self.{{L}} = nn.Linear({{f}}, {2 * whole})"
        value = "torch.view_as_complex(self.{L}(x).unflatten(1, (-1, 2)))"
        body = f"{out} = {value}.reshape({', '.join(['x.shape[0]', *map(str, rest)])})"
        if "v" not in "".join(axes):
            body += ".real"
    if axes[:2] == ["n", "b"]:
        body = f"{out} = {value}.reshape(x.shape[0], {shape}).movedim(1, 0)"
    return init, body
