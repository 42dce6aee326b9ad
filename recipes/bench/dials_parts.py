"""What `dials.py` compares: networks that show their features, images, errors, and the other side.

The other side is the soft-equivariance repository of the CVPR 2026 paper, imported from a checkout
that the user names; nothing of it is copied here, and every function below runs without it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import equiwrap as ew

TABLES = ("pos_embed", "position_embeddings", "relative_position_bias_table")
TURNS = (1, 2, 3)
SIGNATURE = "b c h w -> b k, b c h w"


class Both(nn.Module):
    """*x ↦ (logits, features on their grid)* of a timm model."""

    def __init__(self, name: str, **options):
        super().__init__()
        self.net = timm.create_model(name, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.net.forward_features(x)
        return self.net.forward_head(found), grid_of(found, self.net)


def grid_of(found: Tensor, net: nn.Module) -> Tensor:
    """`[b, c, h, w]` from what timm's `forward_features` gives: a grid, or tokens behind others."""
    if found.ndim == 4:
        return found.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "") == "NHWC" else found
    tokens = found[:, net.num_prefix_tokens :]
    side = round(tokens.shape[1] ** 0.5)
    return tokens.reshape(tokens.shape[0], side, side, -1).permute(0, 3, 1, 2)


class Deit(nn.Module):
    """The same of the ViT in `transformers`, in the shape of DeiT-Ti: 12 layers of 192."""

    def __init__(self):
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        shape = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
        self.net = ViTForImageClassification(ViTConfig(**shape, num_labels=1000))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.net.vit(x).last_hidden_state
        grid = found[:, 1:].reshape(x.shape[0], 14, 14, 192).permute(0, 3, 1, 2)
        return self.net.classifier(found[:, 0]), grid


def shaken(model: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
    """The model with no weight at its initial 0 or 1: as wrong under a turn as it may well be.

    Matrices N(0, 1 / fan-in), tables N(0, ¼), gains U(½, 3/2), the rest N(0, 0.01); statistics are
    those of `images`. (At its initial values a residual branch may be 0, and a table too.)
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, p in model.named_parameters():
            if path.endswith(TABLES):
                p.normal_(0, 0.5, generator=generator)
            elif p.ndim > 1 and p[0].numel() > 1 and "token" not in path:
                p.normal_(0, p[0].numel() ** -0.5, generator=generator)
            elif path.endswith(("weight", "gamma")) and p.ndim == 1:
                p.uniform_(0.5, 1.5, generator=generator)
            else:
                p.normal_(0, 0.1, generator=generator)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        kept = [m.momentum for m in norms]
        for m in norms:
            m.momentum = 1.0
        model.train(bool(norms))(images)
        for m, momentum in zip(norms, kept, strict=True):
            m.momentum = momentum
    return model.eval()


def smooth(size: int, count: int = 4, seed: int = 1) -> Tensor:
    """`[b, 3, size, size]`: noise on a 14 × 14 grid, made large."""
    coarse = torch.randn(count, 3, 14, 14, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, (size, size), mode="bicubic")


def projected(model: nn.Module, x: Tensor, b: float | None = None) -> nn.Module:
    """The dial of the weights."""
    return ew.equivariantize(model, "C4", SIGNATURE, method="project", softness=b, example=x)


def averaged(model: nn.Module, b: float | None = None) -> nn.Module:
    """The dial of the function."""
    return ew.equivariantize(model, "C4", SIGNATURE, frame="whole", softness=b)


@torch.no_grad()
def errors(model: nn.Module, x: Tensor) -> tuple[list[float], list[float]]:
    """*‖f(gx) − ρ(g) f(x)‖ / ‖f(gx)‖* of logits and of features, and the numerators alone.

    Root mean squares over the three turns and the images.
    """
    logits, features = model(x)
    gaps, sizes = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for k in TURNS:
        turned = model(x.rot90(k, (2, 3)))
        for i, (there, here) in enumerate(
            zip(turned, (logits, features.rot90(k, (2, 3))), strict=True)
        ):
            gaps[i] += (there - here).double().square().sum()
            sizes[i] += there.double().square().sum()
    return (gaps / sizes).sqrt().tolist(), gaps.sqrt().tolist()


def change(a: Tensor, b: Tensor) -> float:
    """*‖b − a‖ / ‖a‖*."""
    return float((b - a).detach().norm() / a.detach().norm())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed and nothing warned."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Theirs:
    """The other package, from a checkout: filters put into copies of a model."""

    def __init__(self, path: Path) -> None:
        sys.path.append(str(path))
        with quiet():
            self.convert = import_module("models.convert_cnn").convert_cnn_to_filtered
            self.patch = import_module("models.filtered_layers_vit").monkeypatch_vitembeddings
        git = ["git", "-C", str(path), "rev-parse", "--short", "HEAD"]
        found = subprocess.run(git, capture_output=True, text=True)
        self.commit = found.stdout.strip() or "unknown"

    def __call__(self, model: nn.Module, b: float, *, hard: bool = False) -> nn.Module:
        """A copy with their filters for C4 at softness b: tables and patches, or convolutions."""
        plain, options = copy.deepcopy(model), self.options(b, hard)
        with quiet():
            if isinstance(plain, Deit):
                self.patch(plain.net.vit.embeddings, options)
            else:
                self.convert(plain, options)
        return plain.eval()

    @staticmethod
    def options(b: float, hard: bool) -> dict[str, object]:
        return {
            "group_type": "rotation",
            "n_rotations": 4,
            "soft_thresholding": b,
            "soft_thresholding_pos": b,
            "decomposition_method": "svd",
            "hard_mask": hard,
        }
