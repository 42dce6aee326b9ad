"""Groups as data: generators, a Haar sampler, perhaps a list of elements."""

from .base import Device, Elements, Group, working_dtype
from .finite import FiniteGroup
from .orthogonal import Euclidean, Orthogonal, homogeneous
from .parse import families, parse_group
from .planar import Cyclic, Dihedral
from .product import Product

__all__ = [
    "Cyclic",
    "Device",
    "Dihedral",
    "Elements",
    "Euclidean",
    "FiniteGroup",
    "Group",
    "Orthogonal",
    "Product",
    "families",
    "homogeneous",
    "parse_group",
    "working_dtype",
]
