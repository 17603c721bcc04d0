"""FOAD: remove units whose feature maps are similar to those of kept units (Shi et al. 2024)."""

from secateurs.methods.foad.method import FOAD

__all__ = ["FOAD"]
