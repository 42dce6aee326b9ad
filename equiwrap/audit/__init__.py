"""The audit: which operations break the symmetry, by how much, and what to do about it."""

from .report import Curve, Finding, Layer, Remedy, Report

__all__ = ["Curve", "Finding", "Layer", "Remedy", "Report"]
