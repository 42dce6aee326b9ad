"""Everything that touches torch.fx."""

from .capture import Captured, capture, opaque
from .rewrite import Averaged, averaged_graph

__all__ = ["Averaged", "Captured", "averaged_graph", "capture", "opaque"]
