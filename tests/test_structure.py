"""The house: imports point down, torch.fx stays in graph/, other frameworks in integrations/."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import equiwrap

ROOT = Path(equiwrap.__file__).parent
FLOORS = {
    "errors": 0,
    "groups": 1,
    "representations": 2,
    "signature": 3,
    "grids": 3,
    "frames": 4,
    "reynolds": 4,
    "measure": 4,
    "graph": 5,
    "penalty": 5,
    "certificate": 5,
    "testing": 5,
    "audit": 6,
    "wrap": 7,
    "integrations": 7,
    "commands": 8,
    "__init__": 8,
    "__main__": 8,
}
STRANGERS = {"frames", "reynolds", "measure"}
FOREIGN = {"timm", "torchvision", "transformers", "lightning", "accelerate", "torch_geometric"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path):
    """(dotted module, is it ours) for every import statement in a file."""
    package = ["equiwrap", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def files():
    return sorted(ROOT.rglob("*.py"))


def test_no_import_points_up_and_strangers_stay_strangers():
    wrong = []
    for path in files():
        here = room(path)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "equiwrap" or len(parts) < 2 or here == "__init__":
                continue
            there = parts[1]
            if there not in FLOORS or there == here:
                continue
            up = FLOORS[there] > FLOORS[here]
            if up or {here, there} <= STRANGERS:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, wrong


def test_every_room_has_a_floor():
    assert {room(path) for path in files()} <= set(FLOORS)


def test_torch_fx_is_imported_under_graph_only():
    found = [
        str(path.relative_to(ROOT))
        for path in files()
        if room(path) != "graph"
        and any(n.startswith("torch.fx") or n == "torch.fx" for n in imports(path))
    ]
    assert not found


def test_other_frameworks_are_named_under_integrations_and_commands_only():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files()
        if room(path) not in ("integrations", "commands", "__main__")
        for name in imports(path)
        if name.split(".")[0] in FOREIGN
    ]
    assert not found


def test_the_public_face_is_small_and_whole():
    assert len(equiwrap.__all__) <= 24
    assert all(hasattr(equiwrap, name) for name in equiwrap.__all__)
    assert set(equiwrap.__all__) <= set(dir(equiwrap))


def test_import_needs_torch_and_einops_only():
    code = (
        "import sys, torch; before = set(sys.modules); import equiwrap; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(new & {'timm', 'torchvision', 'sklearn', 'matplotlib', 'networkx', 'tqdm'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_import_costs_less_than_a_tenth_of_a_second_over_torch(tmp_path):
    """As installed, with its bytecode: the first run writes it."""
    code = (
        "import torch, time; a = time.process_time(); import equiwrap; "
        "print(time.process_time() - a)"
    )
    env = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    run = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(run, capture_output=True, text=True, env=env).stdout) for _ in range(4)
    ]
    assert min(times) < 0.1, times
