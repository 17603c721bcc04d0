"""Real data for training, for decisions and for the one final test, each from its own split."""

from secateurs.app.data.augment import Augmentation, Crop
from secateurs.app.data.images import Images, Standard
from secateurs.app.data.sources import NAMES, check_name, load
from secateurs.app.data.splits import Splits, stratified

__all__ = ["NAMES", "Augmentation", "Crop", "Images", "Splits", "Standard", "check_name", "load", "stratified"]
