"""Augmentation of training images beyond a data set's own crop and mirror: torchvision's RandAugment and erasing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from secateurs.app.choices import Crop
from secateurs.errors import InputError


@final
@dataclass(frozen=True)
class Augmentation:
    """Settings of the augmentation.

    crop: "standard" is the data set's own (shifted by up to an eighth and mirrored; for folders of images a random
    crop, resized and mirrored), "none" changes nothing. randaugment: number of random operations per image, each of
    strength `magnitude` of 30 (Cubuk et al. 2020, arXiv:1909.13719). erase: probability that a rectangle of an image is
    filled with the mean of all (Zhong et al. 2020, arXiv:1708.04896).

    >>> Augmentation().more
    False
    """

    crop: Crop = "standard"
    randaugment: int = 0
    magnitude: int = 9
    erase: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.randaugment < 0 or not 0 <= self.magnitude <= 30:
            raise InputError(
                f"randaugment={self.randaugment} is a number of operations, 0 or more, and magnitude="
                f"{self.magnitude} their strength, from 0 to 30"
            )
        if not 0 <= self.erase <= 1:
            raise InputError(f"erase={self.erase} is a probability: from 0 to 1")

    @property
    def more(self) -> bool:
        """True if there is any augmentation beyond crop and mirror."""
        return self.randaugment > 0 or self.erase > 0

    def transforms(self) -> tuple[list[Any], list[Any]]:
        """Return torchvision's transforms: of raw pixels, and of standardised images."""
        from torchvision.transforms import v2  # an extra, needed here only

        pixels = [v2.RandAugment(self.randaugment, self.magnitude)] if self.randaugment else []
        return pixels, [v2.RandomErasing(self.erase)] if self.erase else []


@final
@dataclass(frozen=True, eq=False)
class Pixels:
    """RandAugment of a batch of raw pixels, image by image; `scale` is the value of white."""

    transform: Callable[[Tensor], Tensor]
    scale: float

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Augment a batch of uint8 images, and leave it uint8."""
        # The operations are defined for the range 0 to 255.
        wide = (x_NCHW.float() * (255.0 / self.scale)).round().to(torch.uint8)
        changed = torch.stack([self.transform(image) for image in wide])
        return (changed.float() * (self.scale / 255.0)).round().to(torch.uint8)
