"""What is done to an image of a file before a network sees it."""

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
    """The middle of a resized image, standardised: (pixel / 255 - mean) / std, channel by channel.

    size: side in pixels of what the network sees. resize: the image's shorter side before its middle is cut out; 8/7 of
    the size where it is not given. mean, std: one number a channel. interpolation: how pixels are resized.

    >>> Preprocessing(size=224).shorter, Preprocessing(size=224, resize=232).shorter
    (256, 232)
    >>> str(Preprocessing(size=32, mean=(0.5,), std=(0.5,)))
    '32 pixels a side, cut from 37; mean 0.5, std 0.5; bilinear'
    """

    size: int = 224
    resize: int | None = None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        """Refuse what makes no images."""
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
        """The shorter side of an image before its middle is cut out."""
        return self.resize or round(self.size * 8 / 7)

    def __str__(self) -> str:
        """What is done, in words and figures."""
        cut = f", cut from {self.shorter}" if self.shorter > self.size else ""
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{self.size} pixels a side{cut}; mean {mean}, std {std}; {self.interpolation}"

    def middle(self) -> list[Callable[[Any], Any]]:
        """torchvision's transforms that resize an image and cut out its middle."""
        from torchvision.transforms import v2  # an extra, needed here only

        return [v2.Resize(self.shorter, v2.InterpolationMode(self.interpolation)), v2.CenterCrop(self.size)]

    def part(self) -> list[Callable[[Any], Any]]:
        """torchvision's transforms that take a random part of an image, resized, and mirrored or not."""
        from torchvision.transforms import v2

        resized = v2.RandomResizedCrop(self.size, interpolation=v2.InterpolationMode(self.interpolation))
        return [resized, v2.RandomHorizontalFlip()]

    def standard(self) -> list[Callable[[Any], Any]]:
        """torchvision's transforms that make numbers of pixels, and standardise them."""
        import torch
        from torchvision.transforms import v2

        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([*self.mean], [*self.std])]

    def still(self) -> Callable[[Any], Any]:
        """How an image is seen that is decided by or tested on."""
        from torchvision.transforms import v2

        return v2.Compose([*self.middle(), *self.standard()])
