"""Learned canonicalisation: a network scores every element of the orbit, and the best is taken.

Exact by construction for any network: it scores each g⁻¹x by itself, so that turning x only
permutes the scores. What training changes is *which* orientation wins: with the upright prior, the
one in which the images of the training set come, so that a frozen model is shown what it knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import GroupError
from ..grids import act_on_grid
from ..groups import Group
from .base import Frame, GroupMeasure, TypedInput
from .keys import check_ties, choose
from .reading import image

__all__ = ["Learned", "UprightNet", "fit_upright"]


class UprightNet(nn.Module):
    """*How upright an image looks*, `x[b, c, h, w] → [b]`: a few thousand weights on a 32 × 32
    copy.
    """

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.size = 32
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 5, padding=2, stride=2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * (self.size // 4) ** 2, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`x[b, c, h, w] → score[b]`."""
        small = (
            F.adaptive_avg_pool2d(x, self.size)
            if x.shape[-1] > self.size
            else F.interpolate(x, self.size)
        )
        return self.body(small).flatten()


class Learned(Frame):
    """*μ_x uniform on {g : e(g⁻¹x) is largest}, e a network `[b, c, h, w] → [b]`.*

    `x[b, c, h, w] → elements[b, 1, 2, 2]`; `[b, |G|, 2, 2]` where a sample of the batch has ties.
    Costs
    |G| calls of the small network. `identity_rate` says how often the identity wins.

    Degenerate: symmetric images tie and are averaged over, as in `Key`.
    Error: 0 off ties for lattice groups; the choice itself is not differentiated.
    Source: Kaba et al. 2023; Mondal et al. 2023 for the upright prior.
    """

    def __init__(self, network: nn.Module, *, ties: str = "average", **options: Any) -> None:
        super().__init__(**options)
        check_ties(ties)
        self.network, self.ties = network, ties

    def read(
        self, group: Group, inputs: Sequence[TypedInput], mask: Tensor | None
    ) -> Mapping[str, Any]:
        return {"images": image(inputs)[0]}

    def forward(self, group: Group, images: Tensor) -> GroupMeasure:
        """`images[b, c, h, w] → elements[b, 1 or |G|, 2, 2]`.

        Raises:
            GroupError: the group is infinite.
        """
        if group.order is None:
            raise GroupError(
                f"A learned energy compares the elements of a finite group, and {group} is "
                'infinite: use a finite subgroup such as "C8".'
            )
        with torch.no_grad():
            score = self.energies(group, images)
            scale = torch.finfo(score.dtype).eps ** 0.5 * score.abs().amax(-1)
        return choose(group.elements(images.device), score, scale, self.ties)

    def energies(self, group: Group, images: Tensor) -> Tensor:
        """`images[b, c, h, w] → e(g⁻¹x)[b, |G|]`, differentiable in the network."""
        back = group.inverse(group.elements(images.device)).unsqueeze(0)
        dtype = next((p.dtype for p in self.network.parameters()), images.dtype)
        orbit = act_on_grid(group, back, images.to(dtype).unsqueeze(1))  # [b, |G|, c, h, w]
        return self.network(orbit.flatten(0, 1)).reshape(len(images), -1)

    def identity_rate(self, group: Group, images: Tensor) -> float:
        """Share of the images that are left as they come."""
        with torch.no_grad():
            return float((self.energies(group, images).argmax(-1) == 0).double().mean())

    def describe(self, group: Group) -> str:
        return f"learned: {group.order} calls of a small network, then 1 element a sample; exact"


def fit_upright(
    images: Tensor | Iterable[Any],
    group: Group,
    *,
    network: nn.Module | None = None,
    steps: int = 300,
    batch: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    ties: str = "average",
) -> Learned:
    """*The upright prior: minimise −log softmax_g e(g⁻¹x) at g = 1 over unlabelled upright images.*

    `images[n, c, h, w]`, or a loader of such (or of tuples that begin with such). The global random
    state is left as it was. Source: Mondal et al. 2023.

    Raises:
        GroupError: the group is infinite.
    """
    if group.order is None:
        raise GroupError(
            f"The upright prior ranks the elements of a finite group, and {group} is infinite: "
            'calibrate for a finite subgroup such as "C8".'
        )
    data = images if isinstance(images, Tensor) else torch.cat([_first(item) for item in images])
    data = data.detach()
    data = data.float() if data.dtype != torch.float64 else data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network if network is not None else UprightNet(data.shape[1])
        frame = Learned(net.to(data.device, data.dtype), ties=ties)
        optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
        with torch.enable_grad():
            for _ in range(steps):
                pick = torch.randint(len(data), (min(batch, len(data)),)).to(data.device)
                # a random turn first, so that the network cannot learn the resampling
                turn = torch.randint(group.order, (len(pick),)).to(data.device)
                g = group.elements(data.device)[turn].unsqueeze(1)
                x = act_on_grid(group, g, data[pick].unsqueeze(1)).squeeze(1)
                # turned by g, the image is upright again as g⁻¹x: the target is g itself
                loss = F.cross_entropy(frame.energies(group, x), turn)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return frame.requires_grad_(False).eval()


def _first(item: Any) -> Tensor:
    return item if isinstance(item, Tensor) else item[0]
