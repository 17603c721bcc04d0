"""Evidence: per-unit tensors gathered once, only what is needed, leaving the model as it was."""

from secateurs.evidence.derivatives import Derivatives
from secateurs.evidence.kinds import (
    Accumulator,
    Activations,
    Evidence,
    GateGradients,
    Gradients,
    Need,
    Needs,
    Reads,
    SitePolicy,
    Weights,
    Writes,
    inner_needs,
)
from secateurs.evidence.observe import observe

__all__ = [
    "Accumulator",
    "Activations",
    "Derivatives",
    "Evidence",
    "GateGradients",
    "Gradients",
    "Need",
    "Needs",
    "Reads",
    "SitePolicy",
    "Weights",
    "Writes",
    "inner_needs",
    "observe",
]
