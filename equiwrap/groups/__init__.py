"""Groups as data: generators, a Haar sampler, perhaps a list of elements."""

from .base import Device, Elements, Group, working_dtype
from .finite import FiniteGroup
from .linear import Linear
from .lorentz import Lorentz, boost, metric
from .octahedral import Octahedral
from .orthogonal import Euclidean, Orthogonal, homogeneous
from .parse import families, parse_group
from .permutation import Permutations, Shifts
from .planar import Cyclic, Dihedral
from .product import Product
from .scale import Scale
from .unitary import Unitary

__all__ = [
    "Cyclic",
    "Device",
    "Dihedral",
    "Elements",
    "Euclidean",
    "FiniteGroup",
    "Group",
    "Linear",
    "Lorentz",
    "Octahedral",
    "Orthogonal",
    "Permutations",
    "Product",
    "Scale",
    "Shifts",
    "Unitary",
    "boost",
    "families",
    "homogeneous",
    "metric",
    "parse_group",
    "working_dtype",
]
