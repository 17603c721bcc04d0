"""Real data for training, for decisions and for the one final test, each from its own split."""

from secateurs.data.images import Images, Standard
from secateurs.data.resolve import NAMES, check_name, load
from secateurs.data.splits import Splits, stratified

__all__ = ["NAMES", "Images", "Splits", "Standard", "check_name", "load", "stratified"]
