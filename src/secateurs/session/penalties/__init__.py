"""Penalties: what is added to gradients, as formulas on tensors."""

from secateurs.session.penalties.growing import Growth
from secateurs.session.penalties.orthogonal import Layer, add_gram_gradient, gram_penalty, layer_weights, orthogonality
from secateurs.session.penalties.punish import Punish, punish_linear, punish_magnitude, punish_two_sided

__all__ = [
    "Growth",
    "Layer",
    "Punish",
    "add_gram_gradient",
    "gram_penalty",
    "layer_weights",
    "orthogonality",
    "punish_linear",
    "punish_magnitude",
    "punish_two_sided",
]
