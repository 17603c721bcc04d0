"""Data sets in three splits: for training, for decisions (validation), and for the one final test."""

from secateurs.app.data.augment import Augmentation
from secateurs.app.data.images import Images, Standard
from secateurs.app.data.preprocessing import Preprocessing
from secateurs.app.data.sources import NAMES, check_name, load, seems_there
from secateurs.app.data.splits import Splits, Task, stratified

__all__ = [
    "NAMES",
    "Augmentation",
    "Images",
    "Preprocessing",
    "Splits",
    "Standard",
    "Task",
    "check_name",
    "load",
    "seems_there",
    "stratified",
]
