"""Networks, images and labels whose every bit comes from a seed, on any machine.

Parameters are uniform draws, scaled by one correctly rounded product each: no library's normal distribution, whose
last bits depend on the processor. Each filter has a gain and each norm a scale of its own, so that criteria differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

Batches = list[tuple[Tensor, Tensor]]
CLASSES = 10


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, with all of its tensors drawn anew in the order of its state dict."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, ...], low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.dim() > 1:
            bound = (3 / tensor[0].numel()) ** 0.5
            gains = drawn((len(tensor), *[1] * (tensor.dim() - 1)), 0.5, 1.5)
            tensor.copy_(drawn(tuple(tensor.shape), -bound, bound) * gains)
        elif name.endswith(("weight", "running_var")):
            tensor.copy_(drawn(tuple(tensor.shape), 0.5, 1.5))
        else:
            tensor.copy_(drawn(tuple(tensor.shape), -0.25, 0.25))
    return model.eval()


def images(count: int, size: int, channels: int = 3, seed: int = 1) -> Batches:
    """Two batches of noise with labels drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, channels, size, size, generator=generator)
    y = torch.randint(0, CLASSES, (count,), generator=generator)
    half = count // 2
    return [(x[:half], y[:half]), (x[half:], y[half:])]


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters: every other pixel, and zeros for the new channels."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.pad = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(short, (0, 0, 0, 0, self.pad, self.pad)))


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 of He et al. 2015, written out here: the library's own may move."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(before, after, stride), Block(after, after, 1), Block(after, after, 1))
            for before, after, stride in stages
        )
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class Pupil(nn.Module):
    """A stem, a residual block, a depthwise and a strided convolution, and a classifier, for 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.first = nn.Conv2d(12, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 12, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(12)
        self.expand = nn.Conv2d(12, 24, 1)
        self.depth = nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24)
        self.norm3 = nn.BatchNorm2d(24)
        self.down = nn.Conv2d(24, 20, 3, stride=2, padding=1)
        self.head = nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))
        x = F.relu(self.norm3(self.depth(F.relu(self.expand(x)))))
        return self.head(F.relu(self.down(x)).mean((2, 3)))


def _densenet() -> nn.Module:
    return zoo.DenseNet(growth_rate=16, block_config=(3, 4, 3, 2), num_init_features=32, num_classes=CLASSES)


def _vit() -> nn.Module:
    return zoo.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=CLASSES
    )


def _convnext() -> nn.Module:
    stages = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 2)]
    return ConvNeXt(stages, num_classes=CLASSES)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": ResNet20,
    "resnet18": lambda: zoo.resnet18(num_classes=CLASSES),
    "mobilenet_v2": lambda: zoo.mobilenet_v2(num_classes=CLASSES, width_mult=0.5),
    "efficientnet_b0": lambda: zoo.efficientnet_b0(num_classes=CLASSES),
    "densenet": _densenet,
    "shufflenet_v2_x0_5": lambda: zoo.shufflenet_v2_x0_5(num_classes=CLASSES),
    "squeezenet1_1": lambda: zoo.squeezenet1_1(num_classes=CLASSES),
    "vit": _vit,
    "convnext": _convnext,
}


class Subject(NamedTuple):
    """A network, and data for what needs some; nothing here is changed by pruning a copy."""

    model: nn.Module
    example: Tensor
    data: Batches


@lru_cache(maxsize=1)
def subject(name: str) -> Subject:
    """The network of that name, filled, with sixteen images of 32x32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = filled(BUILDERS[name]())
    data = images(16, 32)
    return Subject(model, data[0][0][:1], data)


@lru_cache(maxsize=1)
def digits(batches: int, size: int) -> Batches:
    """The first of scikit-learn's handwritten digits, in batches, with grey from 0 to 1."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = torch.from_numpy(bundle.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(bundle.target).long()
    return list(zip(x.split(size)[:batches], y.split(size)[:batches], strict=True))


def cast(data: Batches, dtype: torch.dtype) -> Batches:
    """The same numbers in another precision."""
    return [(x.to(dtype), y) for x, y in data]
