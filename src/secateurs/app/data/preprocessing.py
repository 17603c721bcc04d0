"""Preprocessing of images that are read from files: resize, centre crop, normalise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from secateurs.app.choices import Interpolation
from secateurs.errors import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of red, green and blue."""


@final
@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation: (pixel / 255 - mean) / std for each channel.

    size: side of the network's input, in pixels. resize: shorter side of the image before the crop; 8/7 of `size` by
    default. mean, std: one number a channel. interpolation: of the resize.

    >>> Preprocessing(size=224).shorter, Preprocessing(size=224, resize=232).shorter
    (256, 232)
    >>> str(Preprocessing(size=32, mean=(0.5,), std=(0.5,)))
    '32 pixels a side, cropped from 37; mean 0.5, std 0.5; bilinear'
    """

    size: int = 224
    resize: int | None = None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        """Check sizes and numbers of channels."""
        if self.size < 1 or self.shorter < self.size:
            raise InputError(
                f"images of {self.size} pixels a side cannot be cut from images resized to {self.shorter}; "
                "--image-resize is at least --image-size"
            )
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise InputError(
                f"mean {self.mean} and std {self.std} are one number a channel each, the latter above 0, "
                "for example --image-mean [0.5,0.5,0.5] --image-std [0.5,0.5,0.5]"
            )

    @property
    def shorter(self) -> int:
        """Shorter side of the image before the centre crop."""
        return self.resize or round(self.size * 8 / 7)

    def __str__(self) -> str:
        """Describe it in one line."""
        cut = f", cropped from {self.shorter}" if self.shorter > self.size else ""
        return f"{self.size} pixels a side{cut}; {self.statistics()}; {self.interpolation}"

    def statistics(self) -> str:
        """Describe the normalisation.

        >>> Preprocessing(mean=(0.5,), std=(0.25,)).statistics()
        'mean 0.5, std 0.25'
        """
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"mean {mean}, std {std}"

    def middle(self) -> list[Callable[[Any], Any]]:
        """torchvision's transforms: resize and centre crop."""
        from torchvision.transforms import v2  # an extra, needed here only

        return [v2.Resize(self.shorter, v2.InterpolationMode(self.interpolation)), v2.CenterCrop(self.size)]

    def part(self) -> list[Callable[[Any], Any]]:
        """torchvision's transforms: random resized crop, randomly mirrored."""
        from torchvision.transforms import v2

        resized = v2.RandomResizedCrop(self.size, interpolation=v2.InterpolationMode(self.interpolation))
        return [resized, v2.RandomHorizontalFlip()]

    def standard(self) -> list[Callable[[Any], Any]]:
        """torchvision's transforms: to float tensor, and normalise."""
        import torch
        from torchvision.transforms import v2

        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([*self.mean], [*self.std])]

    def still(self) -> Callable[[Any], Any]:
        """The transform for validation and test images."""
        from torchvision.transforms import v2

        return v2.Compose([*self.middle(), *self.standard()])
