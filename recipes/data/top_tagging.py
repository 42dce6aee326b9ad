"""The reference data set of top tagging (Zenodo 2603256): an HDF5 file of one pandas table.

Row: E_0, PX_0, PY_0, PZ_0, …, PZ_199 (GeV, zeros behind the last constituent), the true top, and
is_signal_new (1 top, 0 QCD). Not run on the real files: those are not on the machine of the
figures here. What is tested is a small file of the same columns, written by pandas.

pandas itself would unpickle attributes of the file, which runs whatever their author wrote. Here
h5py reads the numbers, and the names of the columns are looked for in the text of an attribute
without loading it; a file that is compressed by a filter of PyTables needs `hdf5plugin` too.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["LABEL", "columns", "load"]

LABEL = "is_signal_new"
_NAME = re.compile(rb"(?:E|PX|PY|PZ)_\d+|truth(?:E|PX|PY|PZ)|ttv|is_signal_new")


def columns(constituents: int) -> list[str]:
    """E_0, PX_0, PY_0, PZ_0, E_1, …: the names of the first few constituents."""
    return [f"{part}_{i}" for i in range(constituents) for part in ("E", "PX", "PY", "PZ")]


def load(
    path: str | Path, count: int | None = None, start: int = 0, constituents: int = 200
) -> tuple[Tensor, Tensor]:
    """*Jets start … start + count*: `x[b, n, 4]` (float64, GeV), `y[b]` (1 top, 0 QCD).

    The key is `table`, in either of pandas' formats. Only the rows asked for are read, and nothing
    of the file is run.

    Raises:
        ImportError: h5py is missing.
        ValueError: the file has other columns, or no such rows.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("The top tagging files are read by: pip install h5py") from error
    wanted = [*columns(constituents), LABEL]
    stop = None if count is None else start + count
    with h5py.File(path, "r") as file:
        blocks = _blocks(file["table"]) if "table" in file else []
        places = {
            name: (i, j) for i, (names, _) in enumerate(blocks) for j, name in enumerate(names)
        }
        missing = [name for name in wanted if name not in places]
        if missing:
            raise ValueError(
                f"{path} was read as a top tagging file with {constituents} constituents; it lacks "
                f"{len(missing)} of {len(wanted)} columns, the first {missing[0]}. Ask for fewer "
                "constituents, or check which file it is."
            )
        held = [torch.from_numpy(read(start, stop)).double() for _, read in blocks]
    found = len(held[0])
    if not found or (count is not None and found < count):
        raise ValueError(
            f"{path} was asked for {count or 'all'} jets from {start} on; it has {found} there. "
            "Ask for fewer."
        )
    table = torch.stack([held[i][:, j] for i, j in (places[name] for name in wanted)], 1)
    return table[:, :-1].unflatten(1, (constituents, 4)), table[:, -1].round().long()


def _blocks(group: Any) -> list[tuple[list[str], Any]]:
    """(names of the columns, (start, stop) → `[rows, columns]`) of each block of equal dtype."""
    found = []
    if "table" in group:  # format="table": rows of a compound type, names in pickled attributes
        rows = group["table"]
        for name in (n for n in rows.dtype.names if n.startswith("values_block_")):
            names = _texts(_NAME.findall(bytes(rows.attrs[f"{name}_kind"])))
            found.append((names, partial(_rows, rows, name, len(names))))
        return found
    for i in range(int(group.attrs.get("nblocks", 0))):  # format="fixed": an array a block
        values, names = group[f"block{i}_values"], group[f"block{i}_items"][()]
        found.append((_texts(names), partial(_rows, values, None, len(names))))
    return found


def _rows(held: Any, name: str | None, count: int, start: int, stop: int | None) -> Any:
    part = held[start:stop]
    return (part if name is None else part[name]).reshape(-1, count)


def _texts(names: Any) -> list[str]:
    return [n.decode() if isinstance(n, bytes) else str(n) for n in names]
