"""The command line: `python -m equiwrap demo`, `audit` and `info`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .commands.audit import add_arguments
from .commands.audit import run as audit

_DEMO_NEEDS = {"timm": "timm", "sklearn": "timm", "matplotlib": "plots", "tqdm": "plots"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the line, run the command, return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m equiwrap", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train two small models, wrap them, say what changed")
    demo.add_argument("--out", type=Path, default=Path("demo.png"), help="where the figure goes")
    demo.add_argument("--seed", type=int, default=0, help="of the split, the models, the data")
    demo.add_argument("--quick", action="store_true", help="less data, fewer steps, worse models")
    add_arguments(commands.add_parser("audit", help="who breaks a model's symmetry, by how much"))
    commands.add_parser("info", help="versions and devices")
    chosen = parser.parse_args(arguments)

    if chosen.command == "info":
        from .commands.info import info

        print(info())
        return 0
    if chosen.command == "audit":
        return audit(chosen)
    missing = [name for name in _DEMO_NEEDS if find_spec(name) is None]
    if missing:
        print(_refusal(missing), file=sys.stderr)
        return 1
    from .commands.demo import run

    run(chosen.out, seed=chosen.seed, quick=chosen.quick)
    return 0


def _refusal(missing: Sequence[str]) -> str:
    extras = ",".join(dict.fromkeys(_DEMO_NEEDS[name] for name in missing))
    return (
        f"The demo needs {', '.join(missing)}, which cannot be imported here. Install with "
        f'pip install -e ".[{extras}]" in the checkout, then run python -m equiwrap demo again.'
    )


if __name__ == "__main__":
    sys.exit(main())
