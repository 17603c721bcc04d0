"""EPruner: keep the exemplars of each layer, found by affinity propagation (Lin et al. 2021)."""

from secateurs.methods.epruner.method import EPruner

__all__ = ["EPruner"]
