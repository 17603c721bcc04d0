"""Backward elimination: remove the units that the others can express by least squares."""

from secateurs.methods.elimination.method import BackwardElimination

__all__ = ["BackwardElimination"]
