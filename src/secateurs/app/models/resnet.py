"""ResNets for 32x32 images: He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.

The CIFAR ResNets of section 4.2 have a 3x3 stem of 16 channels, three stages of `n` two-convolution blocks with 16, 32
and 64 channels (the second and third begin with stride 2), global average pooling and one linear layer: 6n + 2 weighted
layers. Shortcuts that change the shape are the paper's option A (subsample, and fill the new channels with zeros: no
parameters) or its option B (a 1x1 convolution with BatchNorm). ResNet-18 and ResNet-34 of table 1 are adapted to CIFAR
by a 3x3 stem with no pooling behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Shortcut = Literal["pad", "conv"]
"""Option A (parameter-free) or option B (1x1 convolution and BatchNorm) where the shape changes."""

STAGES = ((16, 1), (32, 2), (64, 2))
"""Channels and first stride of each stage."""


@final
class Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)).

    Shapes: [n, before, h, w] -> [n, after, ceil(h / stride), ceil(w / stride)].
    """

    def __init__(self, before: int, after: int, stride: int, shortcut: Shortcut = "pad") -> None:
        """Build a block that takes `before` channels to `after` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride = stride
        self.pad = (after - before) // 2
        self.project: nn.Module | None = None
        if shortcut == "conv" and (stride != 1 or before != after):
            self.project = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def shortcut(self, x: Tensor) -> Tensor:
        """A projection, or x[:, :, ::stride, ::stride] with (after - before) / 2 zero channels on both sides."""
        if self.project is not None:
            return self.project(x)
        if self.stride == 1 and self.pad == 0:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


@final
class CifarResNet(nn.Module):
    """A CIFAR ResNet of 6n + 2 weighted layers.

    Shapes: images [n, in_channels, h, w] -> logits [n, num_classes]. Meant for 32x32, it runs on any size: 8x8 images
    pass through maps of 8, 4 and 2 pixels a side.

    He et al. 2015, arXiv:1512.03385, section 4.2. Keys are those of the widespread checkpoints: `conv1`, `bn1`,
    `layer{1,2,3}.{block}.{conv1,bn1,conv2,bn2}`, `linear`. One deviation: the linear layer starts from He's normal
    initialisation like the convolutions, as those checkpoints did.

    >>> sum(p.numel() for p in CifarResNet(20, in_channels=3, num_classes=10).parameters())  # the paper's 0.27 M
    269722
    """

    def __init__(self, depth: int, *, in_channels: int, num_classes: int, shortcut: Shortcut = "pad") -> None:
        """Build the network of `depth` = 6n + 2 layers."""
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(
                f"depth={depth} is not 6n + 2 with n >= 1, which a CIFAR ResNet needs; use 20, 32, 44, 56 or 110"
            )
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, STAGES[0][0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0][0])
        self.layer1 = _stage(STAGES[0][0], *STAGES[0], blocks, shortcut)
        self.layer2 = _stage(STAGES[0][0], *STAGES[1], blocks, shortcut)
        self.layer3 = _stage(STAGES[1][0], *STAGES[2], blocks, shortcut)
        self.linear = nn.Linear(STAGES[2][0], num_classes)
        _he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


@final
class FourStageResNet(nn.Module):
    """ResNet-18 or ResNet-34 with a 3x3 stem: stages of 64, 128, 256 and 512 channels, projection shortcuts.

    Shapes: images [n, in_channels, h, w] -> logits [n, num_classes].

    >>> sum(p.numel() for p in FourStageResNet((3, 4, 6, 3), in_channels=3, num_classes=10).parameters())
    21282122
    """

    def __init__(self, blocks: Sequence[int], *, in_channels: int, num_classes: int) -> None:
        """Build the network with these numbers of blocks in its stages."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 1, blocks[0], "conv")
        self.layer2 = _stage(64, 128, 2, blocks[1], "conv")
        self.layer3 = _stage(128, 256, 2, blocks[2], "conv")
        self.layer4 = _stage(256, 512, 2, blocks[3], "conv")
        self.linear = nn.Linear(512, num_classes)
        _he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(before: int, after: int, stride: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    first = Block(before, after, stride, shortcut)
    return nn.Sequential(first, *(Block(after, after, 1) for _ in range(blocks - 1)))


def _he(model: nn.Module) -> None:
    """Initialise convolutions and linear layers from He's normal distribution."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def resnet20(in_channels: int = 3, num_classes: int = 10) -> CifarResNet:
    """He et al. 2015, section 4.2, n = 3: 0.27 M parameters."""
    return CifarResNet(20, in_channels=in_channels, num_classes=num_classes)


def resnet32(in_channels: int = 3, num_classes: int = 10) -> CifarResNet:
    """He et al. 2015, section 4.2, n = 5: 0.46 M parameters."""
    return CifarResNet(32, in_channels=in_channels, num_classes=num_classes)


def resnet44(in_channels: int = 3, num_classes: int = 10) -> CifarResNet:
    """He et al. 2015, section 4.2, n = 7: 0.66 M parameters."""
    return CifarResNet(44, in_channels=in_channels, num_classes=num_classes)


def resnet56(in_channels: int = 3, num_classes: int = 10) -> CifarResNet:
    """He et al. 2015, section 4.2, n = 9: 0.85 M parameters."""
    return CifarResNet(56, in_channels=in_channels, num_classes=num_classes)


def resnet110(in_channels: int = 3, num_classes: int = 10) -> CifarResNet:
    """He et al. 2015, section 4.2, n = 18: 1.7 M parameters."""
    return CifarResNet(110, in_channels=in_channels, num_classes=num_classes)


def resnet56_conv(in_channels: int = 3, num_classes: int = 10) -> CifarResNet:
    """ResNet-56 with convolutional shortcuts (option B)."""
    return CifarResNet(56, in_channels=in_channels, num_classes=num_classes, shortcut="conv")


def resnet18(in_channels: int = 3, num_classes: int = 10) -> FourStageResNet:
    """ResNet-18 with a 3x3 stem: 11.2 M parameters."""
    return FourStageResNet((2, 2, 2, 2), in_channels=in_channels, num_classes=num_classes)


def resnet34(in_channels: int = 3, num_classes: int = 10) -> FourStageResNet:
    """ResNet-34 with a 3x3 stem: 21.3 M parameters."""
    return FourStageResNet((3, 4, 6, 3), in_channels=in_channels, num_classes=num_classes)
