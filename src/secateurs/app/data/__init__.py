"""Real data for training, for decisions and for the one final test, each from its own split."""

from secateurs.app.data.augment import Augmentation, Crop
from secateurs.app.data.images import Images, Standard
from secateurs.app.data.sources import NAMES, check_name, load, seems_there
from secateurs.app.data.splits import Splits, Task, stratified

__all__ = [
    "NAMES",
    "Augmentation",
    "Crop",
    "Images",
    "Splits",
    "Standard",
    "Task",
    "check_name",
    "load",
    "seems_there",
    "stratified",
]
