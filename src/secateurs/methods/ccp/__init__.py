"""CCP: remove the set of channels whose joint effect on the loss is least (Peng et al. 2019)."""

from secateurs.methods.ccp.method import CCP

__all__ = ["CCP"]
