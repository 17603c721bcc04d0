"""Group Fisher: remove the coupled channel with the least Fisher information per saved memory (Liu et al. 2021)."""

from secateurs.methods.group_fisher.method import GroupFisher

__all__ = ["GroupFisher"]
