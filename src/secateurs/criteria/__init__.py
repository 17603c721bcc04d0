"""Criteria: functions that score the units of a group from its evidence; larger is more important."""

from secateurs.criteria.batch_norm_scale import BatchNormScale
from secateurs.criteria.chip import CHIP
from secateurs.criteria.class_fisher import RDT
from secateurs.criteria.coring import CORING
from secateurs.criteria.criterion import Criterion, score
from secateurs.criteria.geometric_median import GeometricMedian
from secateurs.criteria.gradient_flow import GraSP
from secateurs.criteria.magnitude import Magnitude
from secateurs.criteria.random import Random
from secateurs.criteria.taylor import Taylor

__all__ = [
    "CHIP",
    "CORING",
    "RDT",
    "BatchNormScale",
    "Criterion",
    "GeometricMedian",
    "GraSP",
    "Magnitude",
    "Random",
    "Taylor",
    "score",
]
