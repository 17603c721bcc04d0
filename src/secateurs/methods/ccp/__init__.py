"""CCP: remove the set of channels whose joint effect on the loss is least (Peng et al. 2019)."""

from secateurs.methods.ccp.method import CCP, Curvature, Gate, Sizes
from secateurs.methods.ccp.quadratic import Solver

__all__ = ["CCP", "Curvature", "Gate", "Sizes", "Solver"]
