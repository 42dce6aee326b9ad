"""The clouds that break frames: symmetric, flat, straight, repeated, far away, tiny, nearly all
that."""

from __future__ import annotations

import math

import torch

D = torch.float64


def _icosahedron():
    phi = (1 + 5**0.5) / 2
    rows = []
    for a in (1.0, -1.0):
        for b in (phi, -phi):
            rows += [[0, a, b], [a, b, 0], [b, 0, a]]
    return torch.tensor(rows, dtype=D)


CUBE = torch.tensor([[a, b, c] for a in (1, -1) for b in (1, -1) for c in (1, -1)], dtype=D)
TETRAHEDRON = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=D)
OCTAHEDRON = torch.cat([torch.eye(3, dtype=D), -torch.eye(3, dtype=D)])
ICOSAHEDRON = _icosahedron()
SQUARE = torch.tensor([[1, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0]], dtype=D)
HEXAGON = torch.tensor(
    [[math.cos(k * math.pi / 3), math.sin(k * math.pi / 3), 0] for k in range(6)], dtype=D
)
WATER = torch.tensor([[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]], dtype=D)
OFF = torch.tensor([3.0, -2.0, 5.0], dtype=D)


def _isotropic(n):
    x = torch.randn(n, 3, dtype=D)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x)).T


def clouds() -> dict[str, torch.Tensor]:
    """Every degenerate cloud by name, in three dimensions, float64; fresh random parts on each
    call."""
    line = torch.randn(5, 1, dtype=D) * torch.randn(1, 3, dtype=D)
    iso = _isotropic(20)
    found = {f"generic {n}": torch.randn(n, 3, dtype=D) for n in (4, 5, 20)}
    found |= {f"N = {n}": torch.randn(n, 3, dtype=D) for n in (1, 2, 3)}
    found |= {
        "line": line,
        "line off origin": line + OFF,
        "two ends alike": torch.cat([line, -line]),
    }
    for name, flat in (("water", WATER), ("square", SQUARE), ("hexagon", HEXAGON)):
        found |= {name: flat, f"{name} off origin": flat + OFF}
    found |= {
        "cube": CUBE,
        "tetrahedron": TETRAHEDRON,
        "octahedron": OCTAHEDRON,
        "icosahedron": ICOSAHEDRON,
        "isotropic": iso,
        "two equal eigenvalues": iso * torch.tensor([1.0, 1.0, 2.0], dtype=D),
        "plus and minus": torch.cat([iso[:5], -iso[:5]]),
        "repeated points": torch.randn(5, 3, dtype=D).repeat(4, 1),
        "all equal and far": torch.randn(1, 3, dtype=D).repeat(6, 1) + 1e3,
        "all at the origin": torch.zeros(4, 3, dtype=D),
        "leading zeros": torch.cat([torch.zeros(5, 3, dtype=D), torch.randn(6, 3, dtype=D)]),
        "half-integer lattice": torch.randint(-2, 3, (8, 3)).to(D) / 2,
        "near pair": torch.cat([
            (p := torch.randn(1, 3, dtype=D)),
            p + 1e-5,
            torch.randn(3, 3, dtype=D),
        ]),
    }
    for k in range(3, 9):
        for name, exact in (
            ("cube", CUBE),
            ("square", SQUARE),
            ("line", line),
            ("icosahedron", ICOSAHEDRON),
        ):
            found[f"{name} ± 1e-{k}"] = exact + 10.0**-k * torch.randn(exact.shape, dtype=D)
    return found
