"""Adaptive Pruning: filters are removed and inserted by their profit (our reconstruction from the abstract)."""

from secateurs.methods.adaptive.method import AdaptivePruning

__all__ = ["AdaptivePruning"]
