"""One task for four training loops: upright digits, and a model that is to know them turned.

scikit-learn's 1797 digits as they come: 1000 to train, 300 held out, 497 to test. The group is C4,
and the data break it in one known place, since a nine is a turned six. All loops see the same
batches in the same order from the same start, and end with the same table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler, TensorDataset

import equiwrap as ew

Pair = tuple[Tensor, Tensor]

GROUP = "C4"
RATE, BATCH = 3e-3, 50
SIZES = {"conv": 17, "vit": 16}  # 17 → 9 → 5 → 3 keeps strides centred; 16 is four patches of four
SIGNATURES = {"conv": "b c h w -> b k", "vit": "pixel_values: b c h w -> {logits: b k}"}
STRENGTHS = {"decay": 100.0, "ball": 0.01, "lasso": 10.0, "loss": 0.1}  # what each kind calls λ


@dataclass(frozen=True)
class Options:
    """What is trained, and how hard it is pulled."""

    model: str = "conv"
    seed: int = 0
    penalty: float | None = None
    kind: str = "decay"
    steer: bool = False
    quick: bool = False
    compile: bool = False

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        return 25 if self.quick else {"conv": 30, "vit": 60}[self.model]

    @property
    def images(self) -> int:
        """Training images."""
        return 200 if self.quick else 1000

    @property
    def total(self) -> int:
        """Steps of the optimiser."""
        return self.epochs * self.images // BATCH

    def callback(self, data: Data) -> dict[str, Any]:
        """The arguments of every callback, whichever loop it is for."""
        return {
            "group": GROUP,
            "signature": SIGNATURES[self.model],
            "penalty": STRENGTHS[self.kind] if self.penalty is None else self.penalty,
            "kind": self.kind,
            "steer": self.steer,
            "holdout": data.val,
            "every": self.total // 6,
        }


def asked(doc: str, parser: argparse.ArgumentParser | None = None, **fixed: Any) -> Options:
    """The command line that all scripts have; `fixed` is not asked for."""
    parser = parser or argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--penalty", type=float, help="λ, or b of a ball")
    parser.add_argument("--kind", default="decay", choices=STRENGTHS)
    parser.add_argument("--steer", action="store_true", help="λ by α* of the held-out digits")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the steps or so: a rehearsal"
    )
    given = {k: v for k, v in vars(parser.parse_args()).items() if k in Options.__annotations__}
    torch.set_num_threads(1)
    return Options(**{**given, **fixed})


# -- data ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """`images[n, 1, size, size]`, of mean 0 and size 1 over the training part, and labels."""

    train: Pair
    val: Pair
    test: Pair


def digits(options: Options) -> Data:
    """The three parts, split by seed; a quick one trains on 200 and holds out 100."""
    bunch = load_digits()
    size = SIZES[options.model]
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    images = interpolate(images, size=size, mode="bilinear", align_corners=True)
    labels = torch.tensor(bunch.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(options.seed))
    images, labels = images[order], labels[order]
    images = (images - images[:1000].mean()) / images[:1000].std()
    held = 100 if options.quick else 300
    parts = (slice(0, options.images), slice(1000, 1000 + held), slice(1300, None))
    return Data(*((images[part], labels[part]) for part in parts))


class Order(Sampler[int]):
    """*A permutation by (seed, epoch)*: the same order in every loop, and after a resume.

    Epochs count themselves; trainers that know better call `set_epoch`.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, -1

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this one, counted from 0."""
        self.epoch = epoch - 1

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        draw = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        return iter(torch.randperm(self.size, generator=draw).tolist())

    def __len__(self) -> int:
        return self.size


def loader(data: Data, options: Options) -> DataLoader[Any]:
    """The batches `(x, y)` of one epoch after the other."""
    order = Order(len(data.train[0]), options.seed)
    return DataLoader(TensorDataset(*data.train), batch_size=BATCH, sampler=order)


# -- models, and what trains them ------------------------------------------------------------------


def model(options: Options) -> nn.Module:
    """A strided net with batch normalisation, or a ViT of two blocks, from the seed."""
    torch.manual_seed(options.seed)
    return conv() if options.model == "conv" else vit()


def conv() -> nn.Module:
    """17 → 9 → 5 → 3 pixels, then their mean: 57 thousand weights."""
    layers: list[nn.Module] = []
    for i, o in ((1, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def vit() -> nn.Module:
    """A ViT of transformers on sixteen patches of 4 × 4 pixels: 40 thousand weights."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=SIZES["vit"],
        patch_size=4,
        num_channels=1,
        num_labels=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTForImageClassification(config)


def optimizer(net: nn.Module) -> Optimizer:
    """AdamW without weight decay."""
    return AdamW(net.parameters(), lr=RATE, weight_decay=0.0)


def scheduler(held: Optimizer, options: Options) -> LambdaLR:
    """The learning rate to zero as half a cosine, stepped after each step of the optimiser."""
    return LambdaLR(held, lambda step: (1 + cos(pi * min(1.0, step / options.total))) / 2)


# -- the last table --------------------------------------------------------------------------------


def final_table(net: nn.Module, run: Any, data: Data) -> str:
    """What the trained model gets right, upright and turned, and the last measured row."""
    net.eval()
    x, y = data.test
    found = ew.measure.orbit_accuracy(lambda x: logits(net(x)), GROUP, x, y)
    last: dict[str, float] = {}
    for row in run.rows:
        last |= row

    def said(name: str, digits: int = 3) -> str:
        return f"{last[name]:.{digits}g}" if name in last else "–"

    bounds = f"[{said('equiv/alpha_star_low', 2)}, {said('equiv/alpha_star_high', 2)}]"
    rows = [
        ("test accuracy, upright", f"{100 * found.upright:.1f} %"),
        ("test accuracy, four turns", f"{100 * found.mean:.1f} %"),
        ("relative error", f"{said('equiv/error')} ± {said('equiv/error_half_width', 2)}"),
        ("Σ|R|² / Σ|W|²", said("equiv/ratio")),
        ("λ", said("equiv/strength")),
        ("α*", f"{said('equiv/alpha_star', 2)} {bounds}"),
    ]
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{wide}}  {value}" for name, value in rows)


def logits(out: Any) -> Tensor:
    """Of a model that returns them, alone or in a record."""
    return out if isinstance(out, Tensor) else out.logits
