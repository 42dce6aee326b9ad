"""`python -m equiwrap info`: the versions and devices that a bug report should name."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import __version__

__all__ = ["info"]

# what the package needs, then what its extras bring, under the extra's name
_PACKAGES = {
    "torch": "",
    "einops": "",
    "timm": "timm",
    "scikit-learn": "timm",
    "matplotlib": "plots",
    "tqdm": "plots",
    "lightning": "lightning",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "torch_geometric": "pyg",
}


def info() -> str:
    """Lines `name  version`, then devices; an absent extra comes with its pip line."""
    rows = [("equiwrap", __version__), ("python", platform.python_version())]
    rows += [(name, _version(name, extra)) for name, extra in _PACKAGES.items()]
    rows.append(("system", f"{platform.system()} {platform.machine()}"))
    rows += [("device", device) for device in _devices()]
    return "\n".join(f"{name:16} {text}" for name, text in rows)


def _version(name: str, extra: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        wanted = f".[{extra}]" if extra else "."
        return f'not installed: pip install -e "{wanted}"'


def _devices() -> list[str]:
    found = [f"cpu, {torch.get_num_threads()} threads"]
    found += [
        f"cuda:{i}, {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
