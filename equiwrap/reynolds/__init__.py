"""*P(W) = ∫ ρ_out(g) W ρ_in(g)⁻¹ dg*: weights projected onto the equivariant ones."""

from .kernels import kernel_matrix, project_kernel
from .orbits import orbit_mean, orbits_of

__all__ = ["kernel_matrix", "orbit_mean", "orbits_of", "project_kernel"]
