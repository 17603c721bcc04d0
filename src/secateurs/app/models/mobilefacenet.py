"""MobileFaceNet: embeddings of faces.

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices", 2018,
arXiv:1804.07573, table 1, for images 112 high and 112 or 96 wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Expansion, channels, repeats and first stride of each stage of bottlenecks."""


@final
class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 projection, with PReLU between; a shortcut where the shape stays.

    Shapes: [n, before, h, w] -> [n, after, h / stride, w / stride].
    """

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        """Build a block with `before * expansion` inner channels."""
        super().__init__()
        inner = before * expansion
        self.connect = stride == 1 and before == after
        self.conv = nn.Sequential(
            nn.Conv2d(before, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return x + self.conv(x) if self.connect else self.conv(x)


@final
class Unit(nn.Module):
    """A convolution with BatchNorm, and PReLU unless `linear`."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        *,
        depthwise: bool = False,
        linear: bool = False,
    ) -> None:
        """Build the unit."""
        super().__init__()
        groups = before if depthwise else 1
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(after)
        self.prelu = None if linear else nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


@final
class MobileFaceNet(nn.Module):
    """Faces [n, 3, 112, 96] (or 112x112) -> embeddings [n, 128].

    The keys are those of the widespread checkpoints: `conv1`, `dw_conv1`, `blocks`, `conv2`, `linear7`, `linear1`.

    >>> sum(p.numel() for p in MobileFaceNet().parameters())  # the paper's 0.99 M
    999552
    """

    def __init__(self, *, width: int = 96, features: int = 128) -> None:
        """Build the network for images 112 high and `width` wide, a multiple of 16."""
        super().__init__()
        self.conv1 = Unit(3, 64, 3, 2, 1)
        self.dw_conv1 = Unit(64, 64, 3, 1, 1, depthwise=True)
        blocks: list[nn.Module] = []
        before = 64
        for expansion, after, repeats, stride in STAGES:
            for repeat in range(repeats):
                blocks.append(Bottleneck(before, after, stride if repeat == 0 else 1, expansion))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = Unit(before, 512, 1)
        self.linear7 = Unit(512, 512, (7, width // 16), depthwise=True, linear=True)
        self.linear1 = Unit(512, features, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """Faces -> embeddings."""
        x = self.blocks(self.dw_conv1(self.conv1(x)))
        return self.linear1(self.linear7(self.conv2(x))).flatten(1)
