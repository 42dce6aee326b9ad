"""*P(W) = ∫ ρ_out(g) W ρ_in(g)⁻¹ dg*: weights projected onto the equivariant ones."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .fields import Fields, Side, images_of
from .kernels import Kernels, kernel_matrix, project_kernel
from .orbits import Orbits, orbit_mean, orbits_of
from .projector import Projector

if TYPE_CHECKING:
    from .blocks import Blocks, pieces
    from .intertwiners import intertwiners
    from .irreps import Angular, Irrep, Irreps, frequency, quaternion, spin, unitary
    from .sets import Sets
    from .steerable import Steerable, steering_error
    from .translations import Translations
    from .turning import Pixels, Turning

__all__ = [
    "Angular",
    "Blocks",
    "Fields",
    "Irrep",
    "Irreps",
    "Kernels",
    "Orbits",
    "Pixels",
    "Projector",
    "Sets",
    "Side",
    "Steerable",
    "Translations",
    "Turning",
    "frequency",
    "images_of",
    "intertwiners",
    "kernel_matrix",
    "orbit_mean",
    "orbits_of",
    "pieces",
    "project_kernel",
    "quaternion",
    "spin",
    "steering_error",
    "unitary",
]

_FILES = {
    "blocks": ("Blocks", "pieces"),
    "intertwiners": ("intertwiners",),
    "irreps": ("Angular", "Irrep", "Irreps", "frequency", "quaternion", "spin", "unitary"),
    "sets": ("Sets",),
    "steerable": ("Steerable", "steering_error"),
    "translations": ("Translations",),
    "turning": ("Pixels", "Turning"),
}
_LATER = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    """The names above, from their files.

    Raises:
        AttributeError: no such name.
    """
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return found
