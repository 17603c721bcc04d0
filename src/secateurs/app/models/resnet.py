"""The CIFAR ResNets of He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385, section 4.2.

A 3x3 stem of 16 channels, three stages of `n` two-convolution blocks with 16, 32 and 64 channels (the second and third
begin with stride 2), global average pooling and one linear layer: 6n + 2 weighted layers. Shortcuts that change the
shape are the paper's option A: subsample, and fill the new channels with zeros. They have no parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

STAGES = ((16, 1), (32, 2), (64, 2))
"""Channels and first stride of each stage."""


@final
class Block(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), with the option-A shortcut.

    Shapes: [n, before, h, w] -> [n, after, ceil(h / stride), ceil(w / stride)].
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        """Build a block that takes `before` channels to `after` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride = stride
        self.pad = (after - before) // 2

    def shortcut(self, x: Tensor) -> Tensor:
        """x[:, :, ::stride, ::stride], with (after - before) / 2 zero channels on both sides."""
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

    def __init__(self, depth: int, *, in_channels: int, num_classes: int) -> None:
        """Build the network of `depth` = 6n + 2 layers."""
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(
                f"depth={depth} is not 6n + 2 with n >= 1, which a CIFAR ResNet needs; use 20, 32, 44, 56 or 110"
            )
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, STAGES[0][0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGES[0][0])
        self.layer1 = _stage(STAGES[0][0], *STAGES[0], blocks)
        self.layer2 = _stage(STAGES[0][0], *STAGES[1], blocks)
        self.layer3 = _stage(STAGES[1][0], *STAGES[2], blocks)
        self.linear = nn.Linear(STAGES[2][0], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(before: int, after: int, stride: int, blocks: int) -> nn.Sequential:
    first = Block(before, after, stride)
    return nn.Sequential(first, *(Block(after, after, 1) for _ in range(blocks - 1)))


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
