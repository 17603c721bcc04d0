"""OrthoReg and early-bird tickets: orthonormal filters first, then cuts in rounds (Lubana et al. 2020)."""

from secateurs.methods.orthoreg.importance import EarlyBird
from secateurs.methods.orthoreg.method import OrthoReg

__all__ = ["EarlyBird", "OrthoReg"]
