"""Real images: a timm model that has only seen upright digits, and three ways to wrap it.

The digits are scikit-learn's (1797 of 8 × 8, written by hand), enlarged to 32 × 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

from ..measure import equivariance_error
from ..wrap import equivariantize
from .table import Block, Row, seconds

__all__ = ["Digits", "Outcome", "classifier", "compare", "load", "train"]

PLAIN, AVERAGE = "plain", "average over C4"
KEY, PRIOR = "canonical, no prior", "canonical, upright prior"


@dataclass(frozen=True)
class Digits:
    """`train[n, 1, 32, 32], labels[n]` and `test[m, 1, 32, 32], answers[m]`, all upright."""

    train: Tensor
    labels: Tensor
    test: Tensor
    answers: Tensor


@dataclass(frozen=True)
class Outcome:
    """The rows of the table, the accuracy of each model at each quarter turn, and pictures.

    `pictures[name][turn, 32, 32]` is what the frame makes of one test digit at each quarter turn,
    the first on which the two keys differ; `read[name][turn]` is the class that the model says.
    """

    block: Block
    accuracy: Mapping[str, Tensor]
    pictures: Mapping[str, Tensor]
    read: Mapping[str, Tensor]


def load(seed: int, held_out: int = 500) -> Digits:
    """The digits, enlarged, standardised, and split by the seed."""
    raw = load_digits()
    images = torch.as_tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    images = F.interpolate(images, size=(32, 32), mode="bicubic", align_corners=False)
    images = (images - images.mean()) / images.std()
    labels = torch.as_tensor(raw.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test, rest = order[:held_out], order[held_out:]
    return Digits(images[rest], labels[rest], images[test], labels[test])


def classifier() -> nn.Module:
    """A resnet10t of timm with a quarter of its channels."""
    return timm.create_model("resnet10t", in_chans=1, num_classes=10, channels=(16, 32, 64, 128))


def train(net: nn.Module, digits: Digits, epochs: int, batch: int = 64) -> nn.Module:
    """Cross-entropy on upright digits, one learning-rate cycle; returned in eval mode."""
    steps = len(digits.train) // batch
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps)
    net.train()
    for _ in trange(epochs, desc="digits: train upright", unit="epoch"):
        for pick in torch.randperm(len(digits.train)).split(batch)[:steps]:
            loss = F.cross_entropy(net(digits.train[pick]), digits.labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def compare(net: nn.Module, digits: Digits, fit: int) -> Outcome:
    """Wrap the trained model in three ways and measure all four; `fit` steps for the prior."""
    models = {
        PLAIN: net,
        AVERAGE: equivariantize(net, "C4", frame="whole"),
        KEY: equivariantize(net, "C4"),
        PRIOR: equivariantize(net, "C4", calibrate=digits.train, steps=fit),
    }
    accuracy = {name: _accuracy_by_turn(model, digits) for name, model in models.items()}
    some = digits.test[:128]
    costs = seconds([partial(model, some) for model in models.values()])
    rows = tuple(
        Row(
            name,
            float(accuracy[name][0]),
            float(accuracy[name].mean()),
            float(equivariance_error(model, "C4", some)),
            cost,
        )
        for (name, model), cost in zip(models.items(), costs, strict=True)
    )
    title = (
        f"Digits (real; C4-invariant): timm resnet10t trained on {len(digits.train)} upright "
        f"images, {len(digits.test)} test images"
    )
    pictures = _pictures(models, digits.test)
    with torch.no_grad():
        read = {name: net(shown.unsqueeze(1)).argmax(-1) for name, shown in pictures.items()}
    return Outcome(Block(title, "upright", "four turns", ".1%", rows), accuracy, pictures, read)


def _turned(images: Tensor) -> Tensor:
    """`x[b, 1, h, w] → [4, b, 1, h, w]`, by 0, 90, 180 and 270 degrees."""
    return torch.stack([torch.rot90(images, turn, (2, 3)) for turn in range(4)])


def _accuracy_by_turn(model: nn.Module, digits: Digits) -> Tensor:
    """`→ [4]`."""
    with torch.no_grad():
        guesses = [model(images).argmax(-1) for images in _turned(digits.test)]
    return torch.stack([(guess == digits.answers).double().mean() for guess in guesses])


def _pictures(models: Mapping[str, Any], images: Tensor) -> dict[str, Tensor]:
    """*g(x)⁻¹x*, what each model is shown of one image at each turn. `images[b, 1, h, w]`."""
    shows = {
        name: equivariantize(
            nn.Identity(), "C4", "b c h w -> b c y x", frame=models[name].equiwrap.frame
        )
        for name in (KEY, PRIOR)
    }
    differ = (shows[KEY](images) - shows[PRIOR](images)).flatten(1).abs().amax(-1) > 0
    turns = _turned(images[differ.int().argmax()].unsqueeze(0)).flatten(0, 1)
    forms = {PLAIN: turns, **{name: show(turns) for name, show in shows.items()}}
    return {name: form.squeeze(1) for name, form in forms.items()}
