"""What follows removal: the accuracy comes back."""

from secateurs.recover.recalibrate import recalibrate

__all__ = ["recalibrate"]
