"""For the tests of the probe: models with nothing trivial in them, and the law of one layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equiwrap.graph.propagate import Typing, propagate
from equiwrap.graph.snap import Probed, snap_and_probe
from equiwrap.groups import parse_group
from equiwrap.signature import Signature


def randomised(net: nn.Module) -> nn.Module:
    """Statistics and constant parameters (zero gains, layer scales) become random."""
    with torch.no_grad():
        for p in net.parameters():
            if p.numel() > 1 and bool((p == p.flatten()[0]).all()):
                p.add_(0.1 * torch.randn_like(p))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def typed(net: nn.Module, x: Tensor, group: str, pattern: str = "b c h w -> b k") -> Typing:
    """The types on the doubled batch, as the probe wants them."""
    return propagate(net, Signature.parse(pattern, parse_group(group)), (torch.cat([x, x]),), {})


def probed(net: nn.Module, x: Tensor, group: str, pattern: str = "b c h w -> b k") -> Any:
    """The types, and what the probe says."""
    typing = typed(net, x, group, pattern)
    found: Probed = snap_and_probe(net, typing, (x,), {})
    return typing, found


def turns(x: Tensor, group: str) -> list[Tensor]:
    """g·x for every element, by rot90 and flip alone: `x[…, h, w]`."""
    halves = [x.rot90(k, (-2, -1)) for k in range(0, 4, 1 if group in ("C4", "D4") else 2)]
    return halves + [h.flip(-1) for h in halves] if group[0] == "D" else halves


def worst(net: nn.Module, x: Tensor, group: str, *, invariant: bool = False) -> float:
    """*max over g of ‖f(g x) − g f(x)‖ / ‖f(x)‖* of a layer that keeps the grid (or sums it)."""
    with torch.no_grad():
        here = net(x)
        moved = [here] * 8 if invariant else turns(here, group)
        there = [net(gx) for gx in turns(x, group)]
    gaps = [(a - b).norm() / here.norm() for a, b in zip(there, moved, strict=False)]
    return float(max(gaps))
