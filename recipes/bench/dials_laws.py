"""The two linear laws in float64, before and after training.

    ‖ρ W_b ρ⁻¹ − W_b‖ = b ‖ρ W ρ⁻¹ − W‖         every weight, the dial of the weights
    ‖f_b(gx) − ρ f_b(x)‖ = b ‖f(gx) − ρ f(x)‖   the model, the dial of the function

The action on a weight is that of the signature `b o i h w`, with r for regular channels: the road
of inputs and outputs, which knows no projector.
"""

from __future__ import annotations

import torch
from dials_parts import Both, shaken
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import equiwrap as ew
from equiwrap.measure.acting import act, pick
from equiwrap.penalty import Target, read
from equiwrap.reynolds import Fields, Kernels, Side

__all__ = ["laws"]

SOFTNESS = (0.1, 0.3, 0.7, 0.95)
LAWS = (
    ("resnet18", 33, {}, "C4", "trivial"),
    ("resnet18", 33, {}, "D4", "regular"),
    ("regnetx_002", 33, {}, "C4", "regular"),
    ("convnext_atto", 64, {}, "D4", "trivial"),
    ("convnext_atto", 64, {}, "C4", "regular"),
    ("vit_tiny_patch16_224", 64, {"img_size": 64}, "C4", "trivial"),
    ("vit_tiny_patch16_224", 64, {"img_size": 64}, "D4", "regular"),
    ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 4}, "C4", "trivial"),
)


def laws() -> list[str]:
    """The largest departure from each law, relative to the defect at b = 1."""
    page = [
        "| model | group | channels | weights | dial of the weights | after 3 steps | "
        "dial of the function | after 3 steps |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, size, options, group, channels in LAWS:
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(4, 3, size, size, generator=generator)
        model = shaken(Both(name, num_classes=10, **options), x).double()
        x = x.double()
        out = "b k, b c h w" if channels == "trivial" else "b k, _"
        signature = f"b c h w -> {out}"
        net = ew.equivariantize(
            model, group, signature, method="project", softness=0.3, hidden=channels, example=x
        )
        found = [f"{by_weight(net):.0e}", f"{by_function(model, group, x):.0e}"]
        trained(net, x)
        found += [f"{by_weight(net):.0e}", f"{by_function(model, group, x):.0e}"]
        some = [t for t in net.equiwrap.targets if pattern(t)]
        counts = f"{len(some)} of {len(net.equiwrap.targets)}"
        order = [found[0], found[2], found[1], found[3]]
        page.append(f"| {name} | {group} | {channels} | {counts} | " + " | ".join(order) + " |")
    return [
        *page,
        "",
        "Weights: those whose action the signature can write, of all that are projected.",
    ]


def pattern(target: Target) -> str | None:
    """How a weight transforms, as the signature of an input; None where it takes more words."""
    projector = target.projector
    if isinstance(projector, Kernels):
        return "b o i h w"
    if isinstance(projector, Fields):
        sides = [projector.out, projector.into][: 1 if len(target.shape) == 1 else 2]
        axes = [written(side, name) for side, name in zip(sides, "oi", strict=False)]
        return " ".join(["b", *axes, *("h w" if projector.kernel else "").split()])
    if target.path.endswith("pos_embed") and len(target.shape) == 3:
        return "b h w c" if target.projector.rank % target.shape[-1] == 0 else None
    return "b h w c" if target.path.endswith("relative_position_bias_table") else None


def written(side: Side, name: str) -> str:
    return f"({side.before} r {side.after})" if side.moved else name


def as_input(target: Target, weight: Tensor) -> Tensor:
    """The weight with a batch of one; a table on its grid, without what stands before it."""
    if not isinstance(target.projector, (Kernels, Fields)):
        rows = weight.reshape(-1, weight.shape[-1])
        side = int(len(rows) ** 0.5)
        return rows[len(rows) - side**2 :].reshape(1, side, side, -1)
    return weight[None]


def defect(target: Target, group: ew.groups.Group, weight: Tensor) -> Tensor:
    """`[g]`: ‖ρ(g) W ρ(g)⁻¹ − W‖."""
    kind = ew.Signature.parse(f"{pattern(target)} -> b k", group).inputs[0][1]
    x, g = as_input(target, weight.detach()), group.elements()
    gaps = [act(kind, pick(g, i), x) - x for i in range(len(g))]
    return torch.stack([gap.norm() for gap in gaps])


def by_weight(net: nn.Module) -> float:
    """The worst weight."""
    handle, found = net.equiwrap, []
    for b in SOFTNESS:
        plain = handle.fold(b)
        for target in handle.targets:
            if pattern(target):
                group = handle.signature.group
                whole = defect(target, group, read(net, target.path))
                soft = defect(target, group, read(plain, target.path))
                found.append((soft - b * whole).abs().max() / whole.max())
    return float(torch.stack(found).max())  # nan if any is


@torch.no_grad()
def by_function(model: nn.Module, group: str, x: Tensor) -> float:
    """The worst output and element."""
    signature = ew.Signature.parse("b c h w -> b k, b c h w", group)
    nets = {
        b: ew.equivariantize(model, group, signature, frame="whole", softness=b) for b in SOFTNESS
    }
    whole = gaps(model, signature, x)
    rest = [gaps(net, signature, x) - b * whole for b, net in nets.items()]
    return float((torch.stack(rest).abs() / whole.amax(0)).max())


def gaps(model: nn.Module, signature: ew.Signature, x: Tensor) -> Tensor:
    """`[g, output]`: ‖f(gx) − ρ(g) f(x)‖."""
    kind, g = signature.inputs[0][1], signature.group.elements()
    here = model(x)
    rows = []
    for i in range(len(g)):
        there = model(act(kind, pick(g, i), x))
        expected = [
            act(k, pick(g, i), y) for (_, k), y in zip(signature.outputs, here, strict=True)
        ]
        rows.append(torch.stack([(a - b).norm() for a, b in zip(there, expected, strict=True)]))
    return torch.stack(rows)


def trained(net: nn.Module, x: Tensor) -> None:
    """Three steps of SGD, in train mode."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    net.train()
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(net(x)[0], torch.arange(len(x))).backward()
        optimizer.step()
    net.eval()
