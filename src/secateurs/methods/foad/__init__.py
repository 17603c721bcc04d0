"""FOAD: units whose feature maps are alike stand in for each other (Shi et al. 2024)."""

from secateurs.methods.foad.method import FOAD

__all__ = ["FOAD"]
