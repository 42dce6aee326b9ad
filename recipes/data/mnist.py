"""MNIST from the files of its authors: big-endian arrays behind a head of a few numbers, gzipped.

`t10k-images-idx3-ubyte.gz` and `t10k-labels-idx1-ubyte.gz` (or `train-…`), from a folder.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["idx", "load"]


def idx(path: Path) -> Tensor:
    """The array of one file, bytes: two zeros, the kind (8), the number of axes, their lengths.

    Raises:
        ValueError: it is no such file, or is cut short.
    """
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no idx file of bytes: it begins with {raw[:4].hex(' ')}.")
    shape = struct.unpack_from(f">{raw[3]}I", raw, 4)
    held = torch.frombuffer(bytearray(raw[4 + 4 * raw[3] :]), dtype=torch.uint8)
    if held.numel() != torch.Size(shape).numel():
        raise ValueError(f"{path} says {list(shape)} and holds {held.numel()} bytes.")
    return held.reshape(shape)


def load(folder: str | Path, part: str = "t10k") -> tuple[Tensor, Tensor]:
    """`images[n, 1, 28, 28]` in [0, 1], `labels[n]`; with or without `.gz`.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: a file is damaged, or the two do not belong together.
    """
    found = []
    for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        held = [p for p in (Path(folder) / f"{name}.gz", Path(folder) / name) if p.is_file()]
        if not held:
            raise FileNotFoundError(f"{folder} was given as MNIST and has no {name}.gz.")
        found.append(idx(held[0]))
    images, labels = found
    if len(images) != len(labels):
        raise ValueError(f"{folder} holds {len(images)} images and {len(labels)} labels.")
    return images.float()[:, None] / 255, labels.long()
