"""GoogLeNet for 32x32 images, in the form that EPruner and others prune.

Szegedy et al., "Going Deeper with Convolutions", 2014, arXiv:1409.4842, table 1. For CIFAR the stem is one 3x3
convolution of 192 channels, every convolution has a bias and a BatchNorm, the 5x5 convolutions are two 3x3 ones, and
there are no auxiliary heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Widths(NamedTuple):
    """Channels of one Inception block: of its four branches, and of the 1x1 reductions before the 3x3 ones."""

    one: int
    reduce_three: int
    three: int
    reduce_five: int
    five: int
    pool: int

    @property
    def out(self) -> int:
        """Channels of the concatenation."""
        return self.one + self.three + self.five + self.pool


STAGES = (
    (Widths(64, 96, 128, 16, 32, 32), Widths(128, 128, 192, 32, 96, 64)),
    (
        Widths(192, 96, 208, 16, 48, 64),
        Widths(160, 112, 224, 24, 64, 64),
        Widths(128, 128, 256, 24, 64, 64),
        Widths(112, 144, 288, 32, 64, 64),
        Widths(256, 160, 320, 32, 128, 128),
    ),
    (Widths(256, 160, 320, 32, 128, 128), Widths(384, 192, 384, 48, 128, 128)),
)


@final
class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and two 3x3; 3x3 max-pooling and 1x1.

    Shapes: [n, before, h, w] -> [n, widths.out, h, w].
    """

    def __init__(self, before: int, widths: Widths) -> None:
        """Build a block that takes `before` channels."""
        super().__init__()
        w = widths
        self.one = nn.Sequential(*_unit(before, w.one, 1))
        self.three = nn.Sequential(*_unit(before, w.reduce_three, 1), *_unit(w.reduce_three, w.three, 3))
        self.five = nn.Sequential(
            *_unit(before, w.reduce_five, 1), *_unit(w.reduce_five, w.five, 3), *_unit(w.five, w.five, 3)
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *_unit(before, w.pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


@final
class CifarGoogLeNet(nn.Module):
    """A stem, nine Inception blocks with two poolings between, global average pooling and one linear layer.

    Shapes: images [n, in_channels, h, w] -> logits [n, num_classes].

    >>> sum(p.numel() for p in CifarGoogLeNet(in_channels=3, num_classes=10).parameters())  # EPruner: 6.2 M
    6166250
    """

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        """Build the network."""
        super().__init__()
        self.stem = nn.Sequential(*_unit(in_channels, 192, 3))
        stages: list[nn.Module] = []
        before = 192
        for stage in STAGES:
            blocks: list[nn.Module] = []
            for widths in stage:
                blocks.append(Inception(before, widths))
                before = widths.out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.between = nn.MaxPool2d(3, stride=2, padding=1)
        self.linear = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        x = self.stem(x)
        for at, stage in enumerate(self.stages):
            x = stage(self.between(x) if at else x)
        return self.linear(x.mean(dim=(2, 3)))


def _unit(before: int, after: int, kernel: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    return conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def googlenet(in_channels: int = 3, num_classes: int = 10) -> CifarGoogLeNet:
    """GoogLeNet for CIFAR: 6.2 M parameters, 1.53 G multiply-accumulates at 32x32."""
    return CifarGoogLeNet(in_channels=in_channels, num_classes=num_classes)
