"""The registries that the laws run over: a new group or frame is one line here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)  # small tensors: threads would wait for one another

GROUPS = ["C1", "C2", "C3", "C4", "C8", "D1", "D2", "D4", "D3", "SO(2)", "O(2)", "SO(3)", "O(3)"]
GROUPS += ["SO(4)", "O(4)", "SE(2)", "E(2)", "SE(3)", "E(3)", "C4 x C2", "D2 x SO(3)"]
GROUPS += ["SO+(1,3)", "SO(1,3)", "O(1,3)", "SO+(1,2)", "U(1)", "U(3)", "SU(2)", "SU(3)", "GL(3)"]
GROUPS += ["SL(3)", "Aff(2)", "S(5)", "S(5) x O(3)", "R+", "R+ x SO(3)", "O", "O_h"]
LATTICE = ["C1", "C2", "C4", "D1", "D2", "D4"]
CLOUD_GROUPS = ["O(2)", "SO(2)", "E(2)", "SE(2)", "O(3)", "SO(3)", "E(3)", "SE(3)"]


@pytest.fixture(autouse=True)
def seed():
    """Every test draws its own fresh, repeatable numbers, and compiles for itself."""
    torch.manual_seed(20261121)
    if "torch._dynamo" in sys.modules:  # wrapped models share code, and recompilations are counted
        sys.modules["torch._dynamo"].reset()


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` skip themselves without one."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
