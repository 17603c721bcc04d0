"""Evidence: weights, gradients and activation statistics that criteria read, computed in one pass over the data."""

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
