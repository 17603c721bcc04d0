"""Images held in memory, standardised and augmented a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset


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
    """Move every image by up to `pixels` in both directions, the gap filled with black; mirror half of them if asked.

    The standard augmentation of CIFAR (He et al. 2015, section 4.2: 4 pixels, mirrored). Draws from torch's global
    generator, which the training loop seeds anew in every epoch.
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

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image, [c, h, w], and its label, []."""
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """A batch, [b, c, h, w], and its labels, [b]; what torch's loader asks for when it can."""
        picked = torch.as_tensor(indices)
        raw = self.pixels[picked]
        return self.standard(self.augment(raw) if self.augment else raw), self.labels[picked]


def as_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Take what `Images` fetched: it already is a batch."""
    return batch
