"""Images of a folder as batches: flat, or in one subfolder a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..audit.text import count
from ..errors import EquiwrapError
from ..signature import trial_input

__all__ = ["Folder", "Refusal"]

_KINDS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Refusal(EquiwrapError):
    """What was typed on the command line cannot be done, in a sentence."""


@dataclass(frozen=True)
class Folder:
    """Batches `x[b, c, s, s]`, with `y[b]` where there are classes; read anew in each pass.

    An image is scaled so that its shorter side is s, cut to its centre, and normalised by `mean`
    and `std`. The order is drawn once. `labels` is empty for a flat folder.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # batch, channels, side
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: torch.dtype

    @classmethod
    def read(cls, root: Path, model: nn.Module, batch: int, size: int | None, seed: int) -> Folder:
        """The files, and how the model wants them (timm's `default_cfg`, else as [0, 1]).

        Raises:
            Refusal: there is no such folder, or no image in it.
        """
        if not root.is_dir():
            raise Refusal(f"--data {root} is no folder: name one that holds images.")
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _KINDS and p.is_file())
        if not files:
            raise Refusal(f"--data {root} holds no image ({', '.join(_KINDS)}), at any depth.")
        generator = torch.Generator().manual_seed(seed)
        files = [files[i] for i in torch.randperm(len(files), generator=generator).tolist()]
        names = [p.relative_to(root).parts[0] if p.parent != root else "" for p in files]
        classes = () if "" in names else tuple(sorted(set(names)))
        labels = tuple(classes.index(name) for name in names) if classes else ()
        _, channels, side, _ = trial_input(model)[0]
        cfg = getattr(model, "default_cfg", None)
        cfg = cfg if isinstance(cfg, Mapping) else {}
        like = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        mean, std = (_per_channel(cfg.get(k), channels, v) for k, v in (("mean", 0), ("std", 1)))
        return cls(tuple(files), labels, classes, (batch, channels, size or side), mean, std, like)

    def __len__(self) -> int:
        return -(-len(self.files) // self.shape[0])

    def __iter__(self) -> Iterator[Any]:
        step = self.shape[0]
        for start in range(0, len(self.files), step):
            x = torch.stack([self._image(path) for path in self.files[start : start + step]])
            y = torch.tensor(self.labels[start : start + step])
            yield (x, y) if self.labels else x

    def __str__(self) -> str:
        named = f"normalised by mean {self.mean} and std {self.std}"
        scale = named if any(self.mean) else "as numbers in [0, 1]"
        kinds = f" in {len(self.classes)} classes" if self.classes else ""
        side = self.shape[2]
        return f"{count(len(self.files), 'image')}{kinds}, cut to {side} × {side}, {scale}"

    def _image(self, path: Path) -> Tensor:
        """`→ [c, s, s]`.

        Raises:
            Refusal: Pillow is missing, or cannot read the file.
        """
        try:
            from PIL import Image, ImageOps
        except ImportError:
            raise Refusal("--data needs Pillow: install it with pip install pillow.") from None
        _, channels, side = self.shape
        try:
            with Image.open(path) as image:
                mode = "L" if channels == 1 else "RGB"
                square = ImageOps.fit(image.convert(mode), (side, side), Image.Resampling.BICUBIC)
        except OSError as error:
            raise Refusal(f"{path} cannot be read as an image: {error}.") from None
        values = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
        x = values.view(side, side, -1).movedim(-1, 0).double() / 255
        mean, std = (torch.tensor(v, dtype=x.dtype).view(-1, 1, 1) for v in (self.mean, self.std))
        return ((x - mean) / std).to(self.dtype)


def _per_channel(value: Any, channels: int, default: float) -> tuple[float, ...]:
    """One number a channel of the pictures; their average for grey ones."""
    if not value:
        return (float(default),)
    found = tuple(float(v) for v in value)
    return (sum(found) / len(found),) if channels == 1 else found
