"""What goes out with a release agrees with itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import equiwrap

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_everywhere():
    cited = re.search(r"^version: (.+)$", (ROOT / "docs" / "CITATION.cff").read_text(), re.M)
    assert cited is not None
    assert cited[1] == equiwrap.__version__
    changes = (ROOT / "docs" / "pages" / "changelog.md").read_text()
    assert f"## {equiwrap.__version__}" in changes


def test_an_issue_asks_for_what_the_command_prints():
    template = (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()
    assert "`python -m equiwrap info`" in template
    out = subprocess.run(
        [sys.executable, "-m", "equiwrap", "info"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("equiwrap", "python", "torch", "einops", "accelerate", "system", "device"):
        assert re.search(rf"^{name}\s+\S", out, re.M), name


def test_the_workflow_tries_the_oldest_torch_and_python_that_are_promised():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    python = re.search(r'requires-python = ">=(.+)"', project)
    torch = re.search(r'"torch>=(.+?)"', project)
    assert python is not None
    assert torch is not None
    assert f'python: "{python[1]}", torch: "{torch[1]}.*"' in workflow
    for script in re.findall(r"bash (\.ci/\w+)", workflow):
        assert (ROOT / script).is_file()
        assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0


def test_every_page_is_in_the_navigation_and_in_no_other_place():
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "docs" / "mkdocs.yml").read_text(), re.M)
    held = [path.name for path in (ROOT / "docs" / "pages").glob("*.md")]
    assert sorted(listed) == sorted(held)
