"""Everything that touches torch.fx."""

from .rewrite import Averaged, averaged_graph

__all__ = ["Averaged", "averaged_graph"]
