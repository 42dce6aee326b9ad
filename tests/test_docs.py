"""Every Python block in the README and in the documentation runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_the_blocks_of_a_page_run_in_order(page, capsys, tmp_path, monkeypatch):
    text = "".join(blocks(page))
    for name in ("timm", "lightning", "transformers", "accelerate"):
        if re.search(rf"^\s*(import|from) .*\b{name}\b", text, re.MULTILINE):
            pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    space: dict[str, object] = {"__name__": "__docs__"}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), space)


def test_the_readme_is_short_and_has_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    commands = re.findall(r"^\$? ?(pip install .*&&.*)$", text, flags=re.MULTILINE)
    assert len(commands) == 2
    assert "demo" in commands[0]
    assert "pytest" in commands[1]
