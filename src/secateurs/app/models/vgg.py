"""VGG-16 with BatchNorm for 32x32 images, the other network that most pruning papers report.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, arXiv:1409.1556,
table 1, configuration D. Two deviations, both usual on CIFAR (Li et al. 2016, arXiv:1608.08710, section 4.1, and
Liu et al. 2017, arXiv:1708.06519): a BatchNorm after each convolution, and one linear layer on the 512 pooled
features in place of the three that 224x224 images need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


@final
class CifarVGG(nn.Module):
    """Thirteen 3x3 convolutions with BatchNorm and ReLU, five 2x2 max-poolings, one linear layer.

    Shapes: images [n, in_channels, h, w] with h, w >= 32 -> logits [n, num_classes].

    >>> sum(p.numel() for p in CifarVGG(in_channels=3, num_classes=10).parameters())  # Li et al.: 1.5e7
    14724042
    """

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        """Build the network."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in VGG16:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(channels, entry, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
            layers += [conv, nn.BatchNorm2d(entry), nn.ReLU(inplace=True)]
            channels = entry
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def vgg16_bn(in_channels: int = 3, num_classes: int = 10) -> CifarVGG:
    """VGG-16 with BatchNorm for CIFAR: 14.7 M parameters."""
    return CifarVGG(in_channels=in_channels, num_classes=num_classes)
