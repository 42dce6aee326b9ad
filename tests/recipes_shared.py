"""What tests of recipes share: their folder on the path, a generator, pages and their files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes"))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def page(recipe):
    """The page of a recipe, by the name of its file."""
    name = {"graph_atlas": "graphs"}.get(recipe, recipe.replace("_", "-"))
    return (ROOT / "docs" / "pages" / f"{name}.md").read_text()


def results(recipe):
    """The file of results in the documentation."""
    return json.loads((ROOT / "docs" / "assets" / f"{recipe}.json").read_text())
