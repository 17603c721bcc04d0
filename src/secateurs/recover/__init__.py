"""Recovery after removal: recalibration, mean folding, variance repair, least-squares reconstruction, distillation."""

from secateurs.recover.distil import Distil, DistilLoss, Match
from secateurs.recover.folding import FoldMeans
from secateurs.recover.recalibrate import Recalibrate, recalibrate
from secateurs.recover.reconstruct import Reconstruct
from secateurs.recover.recovery import Pair, Recovery, recover
from secateurs.recover.settle import settle_norms
from secateurs.recover.synthesis import synthesise
from secateurs.recover.variance import RepairVariance

__all__ = [
    "Distil",
    "DistilLoss",
    "FoldMeans",
    "Match",
    "Pair",
    "Recalibrate",
    "Reconstruct",
    "Recovery",
    "RepairVariance",
    "recalibrate",
    "recover",
    "settle_norms",
    "synthesise",
]
