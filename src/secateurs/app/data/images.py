"""Images in memory, standardised and augmented batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from secateurs.app.data.augment import Augmentation, Pixels


@final
@dataclass(frozen=True)
class Standard:
    """(x / scale - mean) / std, channel by channel.

    >>> Standard(scale=16.0, mean=(0.5,), std=(0.25,))(torch.full((1, 1, 1, 1), 12, dtype=torch.uint8)).item()
    1.0
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Standardise a batch of raw pixels."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return x_NCHW.float().div_(self.scale).sub_(mean).div_(std)


@final
@dataclass(frozen=True)
class Shift:
    """Shift every image by up to `pixels` in both directions, filled with black; mirror half of them if requested.

    The standard augmentation of CIFAR (He et al. 2015, section 4.2: 4 pixels, mirrored). Draws from torch's global
    generator, which the training loop reseeds in every epoch.
    """

    pixels: int
    mirror: bool

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Augment a batch of raw pixels."""
        n, channels, height, width = x_NCHW.shape
        padded = F.pad(x_NCHW, (self.pixels,) * 4)
        top, left = torch.randint(0, 2 * self.pixels + 1, (2, n))
        rows = (top[:, None] + torch.arange(height))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width))[:, None, None, :]
        if self.mirror:
            columns = torch.where(torch.rand(n, 1, 1, 1) < 0.5, columns.flip(-1), columns)
        every = torch.arange(n)[:, None, None, None]
        return padded[every, torch.arange(channels)[None, :, None, None], rows, columns]


@final
@dataclass(frozen=True, eq=False)
class Images(Dataset[tuple[Tensor, Tensor]]):
    """Labelled raw images of one size, uint8 [n, c, h, w]. A `DataLoader` fetches whole batches from it.

    Give the loader `collate_fn=as_batch`.
    """

    pixels: Tensor
    labels: Tensor
    standard: Standard
    augment: Shift | None = None
    more: Augmentation = Augmentation()  # noqa: RUF009 (frozen)

    def augmented(self, how: Augmentation) -> Images:
        """The same images with another augmentation."""
        return replace(self, augment=self.augment if how.crop == "standard" else None, more=how)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image, [c, h, w], and its label, []."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A batch, [b, c, h, w], and its labels, [b]; which torch's DataLoader uses if present."""
        picked = torch.as_tensor(indices)
        raw = self.pixels[picked]
        raw = self.augment(raw) if self.augment else raw
        if not self.more.more:
            return self.standard(raw), self.labels[picked]
        pixels, erase = self._transforms
        seen = self.standard(pixels(raw) if pixels else raw)
        return torch.stack([erase(image) for image in seen]) if erase else seen, self.labels[picked]

    @cached_property
    def _transforms(self) -> tuple[Pixels | None, Callable[[Tensor], Tensor] | None]:
        pixels, standardised = self.more.transforms()
        return Pixels(pixels[0], self.standard.scale) if pixels else None, next(iter(standardised), None)


def as_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the batch that `Images` has fetched."""
    return batch
