"""Structural changes of a model: plans, removal, masks, verification and growth."""

from secateurs.surgery.apply import apply
from secateurs.surgery.grow import grow
from secateurs.surgery.mask import mask
from secateurs.surgery.plan import Plan
from secateurs.surgery.verify import GroupDeviation, Verification, verify

__all__ = ["GroupDeviation", "Plan", "Verification", "apply", "grow", "mask", "verify"]
