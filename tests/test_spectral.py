"""Eigenvectors with canonical signs and bases: the same for every relabelling, nothing skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import relative

from equiwrap.frames import SpectralAverage, eigenspaces, normalized_laplacian

nx = pytest.importorskip("networkx", reason="needs networkx")
D = torch.float64


class Rows(torch.nn.Module):
    """Invariant under permutations of the rows; feels signs and bases."""

    def __init__(self, n):
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(n, 16, dtype=D), torch.nn.Tanh(), torch.nn.Linear(16, 4, dtype=D)
        )

    def forward(self, vectors, values):
        return self.body(vectors * (1 + values).unsqueeze(1)).sum(1)


def matrices():
    graphs = {
        "path": nx.path_graph(8),
        "cycle": nx.cycle_graph(6),
        "Petersen": nx.petersen_graph(),
        "cube": nx.hypercube_graph(3),
        "star": nx.star_graph(5),
        "complete": nx.complete_graph(5),
        "Frucht": nx.frucht_graph(),
        "random": nx.gnp_random_graph(12, 0.4, seed=3),
        "tree": nx.random_labeled_tree(12, seed=1),
    }
    return {
        k: normalized_laplacian(torch.tensor(nx.to_numpy_array(g), dtype=D))
        for k, g in graphs.items()
    }


@pytest.mark.parametrize(
    "title", ["path", "cycle", "cube", "star", "complete", "Frucht", "random", "tree"]
)
def test_the_average_ignores_labels_and_whatever_eigh_returns(title):
    a = matrices()[title]
    model = SpectralAverage(Rows(len(a)), most=None)
    orders = [torch.randperm(len(a)) for _ in range(8)]
    y = model(torch.stack([a[p][:, p] for p in orders]))
    assert relative(y, y[:1].expand_as(y)) < 1e-6
    vectors = torch.linalg.eigh(a).eigenvectors[None]
    other = torch.linalg.eigh(a[orders[0]][:, orders[0]]).eigenvectors[None]
    one = torch.zeros(1, len(a), dtype=D)
    if title != "complete":
        assert relative(model.model(vectors, one), model.model(other, one)) > 1e-3  # the plain one


def test_bases_span_their_eigenspaces_and_are_orthonormal():
    for title, a in matrices().items():
        spaces = eigenspaces(a)
        for value, bases in zip(spaces.values, spaces.bases, strict=True):
            for u in bases[:50]:
                assert relative(a @ u + u, value * u + u) < 1e-9, title
                assert (u.mT @ u - torch.eye(u.shape[1], dtype=D)).abs().amax() < 1e-9, title


def test_signs_are_decided_exactly_where_they_can_be():
    # an end and its mirror image are exchanged by the path's reflection: odd eigenvectors stay open
    counts = [len(b) for b in eigenspaces(matrices()["path"]).bases]
    assert sorted(counts) == [1, 1, 1, 1, 2, 2, 2, 2]
    # the Frucht graph has no symmetry, and its one open sign is a weakness of signs, not of graphs
    counts = [len(b) for b in eigenspaces(matrices()["Frucht"]).bases]
    assert sum(c > 1 for c in counts) <= 1


def test_repeated_eigenvalues_get_the_symmetries_that_are_there():
    spaces = eigenspaces(matrices()["complete"])
    assert [b.shape[-1] for b in spaces.bases] == [1, 4]
    assert len(spaces.bases[1]) == 120  # the nodes are the corners of a simplex: S(5)
    few = SpectralAverage(Rows(5), most=16)
    assert torch.equal(few(matrices()["complete"][None]), few(matrices()["complete"][None]))
    assert spaces.choices(16).shape == (16, 5, 5)


def test_the_recipe_prints_its_page(tmp_path):
    pytest.importorskip("igraph", reason="needs python-igraph")
    script = Path(__file__).parent.parent / "recipes" / "graph_atlas.py"
    out = subprocess.run(
        [sys.executable, script, "--limit", "60", "--out", tmp_path / "page.md"],
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    assert "| connected graphs of 3 to 7 nodes | 60 |" in (tmp_path / "page.md").read_text()
