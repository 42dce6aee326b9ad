"""The front door."""

from .config import Config
from .front import disabled, equivariantize, equivariantize_, unwrap
from .handle import Handle
from .report import Report

__all__ = ["Config", "Handle", "Report", "disabled", "equivariantize", "equivariantize_", "unwrap"]
