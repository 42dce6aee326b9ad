"""Relaxed energies of OC20 (IS2RE): its LMDB files, read without running what they say.

The published files hold a pickle an entry, and unpickling runs whatever its author wrote. So there
are two steps. `convert` reads each pickle with a list of what it may name (tensors, an ordered
dict, the `Data` of torch_geometric), refuses every other name, and writes entries that `torch.load`
reads with `weights_only=True`; it is done once. `Relaxations` reads converted files only.

    pip install lmdb
    python recipes/data/oc20.py is2res_train_val_test_lmdbs/data/is2re/10k/train/data.lmdb oc20.lmdb

A list of names keeps out code that is named in a pickle; it is no proof against faults of the
reader itself. Convert files that you have from their publisher, in a process without secrets.
Not run on the real files, which are not on the machine of the figures here. What is tested is a
small file of the same form, and one that tries to run a command.
"""

from __future__ import annotations

import argparse
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["FIELDS", "Relaxations", "convert", "fields", "write"]

# of an entry of IS2RE: float64 is left as it is, what is missing is left out
FIELDS = (
    *("pos", "pos_relaxed", "cell", "atomic_numbers", "natoms", "tags", "fixed"),
    *("y_init", "y_relaxed", "sid"),
)
COUNT = b"length"


class _Empty:
    """Stands where a pickle names a class of torch_geometric: holds what it was given."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


_ALLOWED: dict[tuple[str, str], Callable[[], Any]] = {
    ("_codecs", "encode"): lambda: lambda text, _: text.encode("latin1"),  # bytes, protocol 2
    ("collections", "OrderedDict"): lambda: OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda: lambda *given: _tensor(*given),
    ("torch.storage", "_load_from_bytes"): lambda: lambda data: _storage(data),
}


class _Reader(pickle.Unpickler):
    """Unpickles what IS2RE's entries need; classes of torch_geometric become empty ones."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("torch_geometric.data"):
            return type(name, (_Empty,), {})
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"The entry asks for {module}.{name}, which is none of what an entry of OC20 needs "
                f"({', '.join('.'.join(key) for key in _ALLOWED)}, torch_geometric.data.…). It was "
                "not called. Do not use this file, or take it up with whom it came from."
            )
        return _ALLOWED[module, name]()


def fields(entry: bytes) -> dict[str, Any]:
    """One pickled torch_geometric `Data`, of version 1 or 2, as a dict of `FIELDS`.

    Raises:
        pickle.UnpicklingError: the pickle names something else, or is no `Data`.
    """
    state = _Reader(io.BytesIO(entry)).load()
    while True:  # version 2 keeps its tensors in a store, version 1 in the object itself
        if isinstance(state, _Empty):
            state = vars(state).get("state")
        elif isinstance(state, dict) and ("_store" in state or "_mapping" in state):
            state = state.get("_mapping", state.get("_store"))
        elif isinstance(state, dict):
            break
        else:
            raise pickle.UnpicklingError(f"An entry holds {type(state).__name__}, and no Data.")
    found = {name: state[name] for name in FIELDS if state.get(name) is not None}
    plain = (Tensor, int, float, str)
    return {name: value for name, value in found.items() if isinstance(value, plain)}


def _open(path: Path, **options: Any) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError("OC20's files are read by: pip install lmdb") from error
    return lmdb.open(str(path), subdir=False, lock=False, **options)


def write(path: str | Path, entries: list[dict[str, Any]]) -> None:
    """A file of the safe form: entry i under the key str(i), as `torch.save` writes dicts."""
    with _open(Path(path), map_size=2**40) as file, file.begin(write=True) as transaction:
        for i, entry in enumerate(entries):
            buffer = io.BytesIO()
            torch.save(entry, buffer)
            transaction.put(str(i).encode(), buffer.getvalue())
        transaction.put(COUNT, str(len(entries)).encode())


def convert(source: str | Path, target: str | Path, most: int | None = None) -> int:
    """The pickles of `source` → a file of the safe form; returns how many entries it has.

    Raises:
        pickle.UnpicklingError: an entry names what no entry of OC20 needs; nothing is written.
        FileExistsError: there is such a file already.
    """
    if Path(target).exists():
        raise FileExistsError(f"{target} exists: name another file, or remove it.")
    with _open(Path(source), readonly=True) as file, file.begin() as transaction:
        named = [key for key, _ in transaction.cursor() if key.isdigit()]
        keys = sorted(named, key=int)[:most]
        entries = [fields(transaction.get(key)) for key in keys]
    write(target, entries)
    return len(entries)


class Relaxations(Dataset):
    """*Entry i: `pos[n, 3]` of the start (Å), `atomic_numbers[n]`, …, `y_relaxed` (eV).*

    `form(entry)` turns an entry into what a loader collates; for torch_geometric that is
    `lambda entry: Data(**entry)`. The file is opened for each read: workers share nothing.

    Raises:
        ValueError: the file is not of the safe form.
    """

    def __init__(self, path: str | Path, form: Callable[[dict[str, Any]], Any] = dict) -> None:
        self.path, self.form = Path(path), form
        with _open(self.path, readonly=True) as file, file.begin() as transaction:
            count = bytes(transaction.get(COUNT) or b"")
        if not count.isdigit():  # OC20's own files have a pickled number there, or none
            raise ValueError(
                f"{path} has no plain count of entries: it is not a converted file. Run "
                "python recipes/data/oc20.py SOURCE TARGET once, and read TARGET."
            )
        self.count = int(count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.count:
            raise IndexError(f"Entry {index} was asked for; there are {self.count}.")
        with _open(self.path, readonly=True) as file, file.begin() as transaction:
            data = transaction.get(str(index).encode())
        return self.form(torch.load(io.BytesIO(data), weights_only=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--most", type=int, help="convert so many entries")
    options = parser.parse_args()
    count = convert(options.source, options.target, options.most)
    print(f"{count} entries in {options.target}")


if __name__ == "__main__":
    main()
