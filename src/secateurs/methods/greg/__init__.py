"""GReg-1 and GReg-2: an L2 penalty that grows until the chosen units vanish (Wang et al. 2021)."""

from secateurs.methods.greg.method import GReg1, GReg2

__all__ = ["GReg1", "GReg2"]
