"""The penalty weighted by data: what the inputs of a layer do not excite costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..grids import act_on_grid
from ..reynolds import Fields, Kernels, Projector, Side, images_of
from ..reynolds.projector import wide
from .targets import Strength, Target, checked, live, strength_at, targets_of

__all__ = ["Moments", "data_penalty"]

LIMIT = 1200  # inputs of a row of weights: S has as many rows


@dataclass
class Moments:
    """*S + S̄* of each target, S = E[x xᵀ] and S̄ = E_g[ρ_in(g) S ρ_in(g)ᵀ]: `C[m, m]`.

    x are the inputs of a linear layer, or the patches `[i, *sides]` of a convolution, over inputs
    and positions. `skipped` names the targets without, and why.
    """

    matrices: dict[str, Tensor] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def collect(
        cls,
        model: nn.Module,
        batches: Iterable[Any],
        targets: Sequence[Target] | None = None,
    ) -> Moments:
        """Second moments over batches of inputs (or of tuples whose first entry is).

        Runs the model without gradients, in the mode in which it is. Weights of `nn.Linear`, and of
        `nn.Conv2d` with groups=1 and zero padding given in numbers, up to 1200 inputs a row, under
        `Kernels` or `Fields`. O(n m²) time, m² memory a layer.
        """
        found, hooks = cls(), []
        sums: dict[str, list[Any]] = {}
        for target, weight in live(model, targets_of(model) if targets is None else targets):
            owner, _, name = target.path.rpartition(".")
            layer = model.get_submodule(owner)
            if reason := _refusal(layer, name, weight, target.projector):
                found.skipped[target.path] = reason
                continue
            total = sums[target.path] = [0, torch.zeros((), dtype=torch.float64)]
            hooks.append(layer.register_forward_pre_hook(_summing(total)))
        try:
            with torch.no_grad():
                for batch in batches:
                    model(batch[0] if isinstance(batch, (tuple, list)) else batch)
        finally:
            for hook in hooks:
                hook.remove()
        chosen = targets_of(model) if targets is None else targets
        projectors = {t.path: t.projector for t in chosen}
        for path, (count, total) in sums.items():
            if not count:
                found.skipped[path] = "was not reached by the inputs"
                continue
            second = total / count
            moves = _moves(projectors[path]).to(second.device)
            mean = torch.stack([second[p][:, p] for p in moves]).mean(0)
            found.matrices[path] = second + mean
        return found


def data_penalty(
    model: nn.Module,
    moments: Moments,
    strength: Strength = 1.0,
    targets: Sequence[Target] | None = None,
) -> Tensor:
    """*λ Σ_l tr R(S + S̄)Rᵀ = λ Σ_l E_g E_x ‖ρ_out(g) W x − W ρ_in(g) x‖²*, R = W − PW: a scalar.

    Exact over the group without one sampled element; x the inputs from which `moments` were taken,
    held fixed (collect them anew now and then). One product with `C[m, m]` a layer, by autograd.
    Targets without moments have no part in it, nor have biases.

    Error: 1e-13 relative in float64 against the sum over elements and inputs.
    Source: expand the square; the cross term ⟨P(RS), PR⟩ is 0 since PR = 0.

    Raises:
        ValueError: a negative strength.
    """
    checked(strength)
    total: Tensor | None = None
    for target, held in live(model, targets_of(model) if targets is None else targets):
        matrix = moments.matrices.get(target.path)
        if matrix is None or not held.requires_grad:
            continue
        with torch.autocast(held.device.type, enabled=False):
            weight = wide(held)
            rest = (weight - target.projector(weight)).flatten(1)
            term = strength_at(strength, target.path) * ((rest @ matrix.to(rest)) * rest).sum()
        total = term if total is None else total + term.to(total.device, total.dtype)
    return torch.zeros(()) if total is None else total


def _refusal(layer: nn.Module, name: str, weight: Tensor, projector: Projector) -> str:
    if not isinstance(projector, (Kernels, Fields)):
        return "its input representation is not known"
    if name != "weight" or not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return "is not the weight of a linear layer or of a convolution"
    if isinstance(layer, nn.Conv2d):
        plain = layer.groups == 1 and layer.padding_mode == "zeros"
        if not plain or isinstance(layer.padding, str):
            return "is a convolution with groups, or with padding that is not zeros"
    rows = prod(weight.shape[1:])
    return f"has {rows} inputs a row, over {LIMIT}" if rows > LIMIT else ""


def _summing(total: list[Any]) -> Any:
    def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = wide(inputs[0].detach())
        if isinstance(layer, nn.Conv2d):
            sides = layer.kernel_size, layer.dilation, layer.padding, layer.stride
            x = F.unfold(x, *sides).mT  # type: ignore[arg-type]  # [b, positions, m]
        x = x.reshape(-1, x.shape[-1])
        total[0] += len(x)
        total[1] = total[1].to(x.device) + (x.mT @ x).double()

    return hook


def _moves(projector: Projector) -> Tensor:
    """`p[k, m]`: (ρ_in(g_k) x)[i] = x[p[k, i]] on channels times pixels."""
    assert isinstance(projector, (Kernels, Fields))
    group = projector.group
    rests = isinstance(projector, Kernels)
    kernel = projector.shape[2:] if isinstance(projector, Kernels) else projector.kernel
    side = Side(projector.shape[1], 1, False) if isinstance(projector, Kernels) else projector.into
    images = images_of(group) if not rests else ()
    sizes = side.sizes(len(images))
    index = torch.arange(prod(sizes) * prod(kernel)).reshape(*sizes, *kernel)
    moves = []
    for k, g in enumerate(group.elements()):
        turned = act_on_grid(group, g, index) if prod(kernel) > 1 else index
        if side.moved:
            turned = turned[:, torch.tensor(images[k]).argsort()]
        moves.append(turned.flatten())
    return torch.stack(moves)
