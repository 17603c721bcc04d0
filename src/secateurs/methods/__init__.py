"""Methods: one class for each paper, whose fields are its settings, with the paper's defaults.

One-shot methods choose the units to keep of a trained network (`select`); the others prune while it trains (`start`).
"""

from secateurs.methods.adaptive import AdaptivePruning
from secateurs.methods.ccp import CCP
from secateurs.methods.elimination import BackwardElimination
from secateurs.methods.epruner import EPruner
from secateurs.methods.foad import FOAD
from secateurs.methods.greg import GReg1, GReg2
from secateurs.methods.group_fisher import GroupFisher
from secateurs.methods.increg import IncReg
from secateurs.methods.one_shot import Method
from secateurs.methods.orthoreg import OrthoReg
from secateurs.methods.soft import ASFP, ASRFP, SFP, SRFP
from secateurs.methods.sparse import DepGraph, NetworkSlimming
from secateurs.session.sparsify import Gradual

__all__ = [
    "ASFP",
    "ASRFP",
    "CCP",
    "FOAD",
    "SFP",
    "SRFP",
    "AdaptivePruning",
    "BackwardElimination",
    "DepGraph",
    "EPruner",
    "GReg1",
    "GReg2",
    "Gradual",
    "GroupFisher",
    "IncReg",
    "Method",
    "NetworkSlimming",
    "OrthoReg",
]
