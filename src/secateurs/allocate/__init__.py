"""Allocators: choose how many units, and which, each group keeps, from scores, cost and a budget."""

from secateurs.allocate.aligned import aligned
from secateurs.allocate.alignment import Alignment
from secateurs.allocate.allocator import Allocator
from secateurs.allocate.budget import Budget
from secateurs.allocate.levels import levels
from secateurs.allocate.normalise import AsIs, ByMax, ByMean, BySum, Normaliser
from secateurs.allocate.ranked import Ranked
from secateurs.allocate.uniform import Uniform

__all__ = [
    "Alignment",
    "Allocator",
    "AsIs",
    "Budget",
    "ByMax",
    "ByMean",
    "BySum",
    "Normaliser",
    "Ranked",
    "Uniform",
    "aligned",
    "levels",
]
