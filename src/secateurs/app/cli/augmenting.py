"""Augmentation: the fields of a recipe for random changes of training images."""

from dataclasses import dataclass, field

from secateurs.app.choices import Crop
from secateurs.app.cli.flags import about as _about


@dataclass(frozen=True)
class Augmenting:
    """Crops, mirrors and mixtures of training images."""

    crop: Crop = field(
        default="standard",
        metadata=_about("augmentation", "the data set's own random crop and mirror, or images as they are", ""),
    )
    randaugment: int = field(
        default=0, metadata=_about("augmentation", "random operations on each training image (RandAugment)", "N")
    )
    randaugment_magnitude: int = field(default=9, metadata=_about("augmentation", "their strength, from 0 to 30", "N"))
    erase: float = field(
        default=0.0, metadata=_about("augmentation", "probability with which a rectangle of an image is erased", "P")
    )
    mixup: float = field(
        default=0.0, metadata=_about("augmentation", "parameter of mixup's Beta distribution; 0: none", "X")
    )
    cutmix: float = field(
        default=0.0, metadata=_about("augmentation", "parameter of CutMix's Beta distribution; 0: none", "X")
    )
