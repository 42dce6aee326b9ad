"""*P(W) = ∫ ρ_out(g) W ρ_in(g)⁻¹ dg*: weights projected onto the equivariant ones."""

from .fields import Fields, Side, images_of
from .kernels import Kernels, kernel_matrix, project_kernel
from .orbits import Orbits, orbit_mean, orbits_of
from .projector import Projector

__all__ = [
    "Fields",
    "Kernels",
    "Orbits",
    "Projector",
    "Side",
    "images_of",
    "kernel_matrix",
    "orbit_mean",
    "orbits_of",
    "project_kernel",
]
