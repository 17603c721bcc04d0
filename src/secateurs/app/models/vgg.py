"""VGG networks for 32x32 images, in the forms that pruning papers report.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, arXiv:1409.1556,
table 1, configurations B, D and E. Two deviations, both usual on CIFAR (Li et al. 2016, arXiv:1608.08710, section 4.1,
and Liu et al. 2017, arXiv:1708.06519): BatchNorm, and one linear layer on the pooled features in place of the three
that 224x224 images need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

POOL = 0
"""A 2x2 max-pooling, in a list of widths."""

VGG13 = (64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL)
VGG16 = (64, 64, POOL, 128, 128, POOL, *[256] * 3, POOL, *[512] * 3, POOL, *[512] * 3, POOL)
VGG19 = (64, 64, POOL, 128, 128, POOL, *[256] * 4, POOL, *[512] * 4, POOL, *[512] * 4, POOL)


@final
class CifarVGG(nn.Module):
    """3x3 convolutions, each with BatchNorm and ReLU, 2x2 max-poolings between stages, and one linear layer.

    Shapes: images [n, in_channels, h, w] with h, w >= 32 -> logits [n, num_classes].

    `norm_last` is the form of OrthoReg's code: convolutions with a bias, and BatchNorm behind the ReLU.

    >>> sum(p.numel() for p in CifarVGG(in_channels=3, num_classes=10).parameters())  # Li et al.: 1.5e7
    14724042
    """

    def __init__(
        self, widths: Sequence[int] = VGG16, *, in_channels: int, num_classes: int, norm_last: bool = False
    ) -> None:
        """Build the network of these widths; `POOL` stands for a pooling."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width in widths:
            if width == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=norm_last)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            norm, relu = nn.BatchNorm2d(width), nn.ReLU(inplace=not norm_last)
            layers += [conv, relu, norm] if norm_last else [conv, norm, relu]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def vgg13(in_channels: int = 3, num_classes: int = 10) -> CifarVGG:
    """VGG-13 as in OrthoReg's code: biases, BatchNorm behind the ReLU; 9.4 M parameters."""
    return CifarVGG(VGG13, in_channels=in_channels, num_classes=num_classes, norm_last=True)


def vgg16_bn(in_channels: int = 3, num_classes: int = 10) -> CifarVGG:
    """VGG-16 with BatchNorm for CIFAR: 14.7 M parameters."""
    return CifarVGG(VGG16, in_channels=in_channels, num_classes=num_classes)


def vgg19_bn(in_channels: int = 3, num_classes: int = 10) -> CifarVGG:
    """VGG-19 with BatchNorm for CIFAR: 20.0 M parameters."""
    return CifarVGG(VGG19, in_channels=in_channels, num_classes=num_classes)
