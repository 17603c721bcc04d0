"""MobileNet-V1 for 32x32 images.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
arXiv:1704.04861, table 1. For CIFAR the stem keeps the resolution, and one stride-2 block fewer is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels and stride of each depthwise-separable block."""


@final
class CifarMobileNet(nn.Module):
    """A 3x3 stem of 32 channels, thirteen depthwise-separable blocks, global average pooling, one linear layer.

    Shapes: images [n, in_channels, h, w] -> logits [n, num_classes].

    >>> sum(p.numel() for p in CifarMobileNet(in_channels=3, num_classes=10).parameters())
    3217226
    """

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        """Build the network."""
        super().__init__()
        self.stem = _unit(in_channels, 32, 3)
        blocks: list[nn.Module] = []
        before = 32
        for after, stride in BLOCKS:
            blocks.append(nn.Sequential(_unit(before, before, 3, stride, before), _unit(before, after, 1)))
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        return self.linear(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def _unit(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def mobilenet_v1(in_channels: int = 3, num_classes: int = 10) -> CifarMobileNet:
    """MobileNet-V1 for CIFAR: 3.2 M parameters."""
    return CifarMobileNet(in_channels=in_channels, num_classes=num_classes)
