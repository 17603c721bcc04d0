"""torchvision's classifiers without weights, at the smallest input they accept in both modes."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field

import torch
import torchvision
from tests.zoo.laws import Subject, shake
from torch import nn

# Two copies in float64 fill ten gigabytes: judged by fewer laws.
GIANTS = {"regnet_y_128gf", "vit_h_14"}
# With more parameters than this, a network is built anew each time: no copy is kept to copy from.
MANY = 50_000_000


@dataclass(frozen=True)
class Builder:
    """A named torchvision builder, its input size, a second size if it takes any, and its options."""

    name: str
    size: int = 64
    second: int | None = 96
    options: dict[str, object] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network in float64 and eval mode, always with the same weights."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            model = torchvision.models.get_model(self.name, weights=None, num_classes=10, **self.options)
            return shake(model.double()).eval()

    def subject(self) -> Subject:
        """The network as the laws see it."""
        images = [None if n is None else _images(n) for n in (self.size, self.second)]
        model = self.build()
        if sum(p.numel() for p in model.parameters()) > MANY:
            return Subject(self.name, self.build, *images)
        return Subject(self.name, lambda: copy.deepcopy(model), *images)


def _images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size)).double()


def _builder(name: str) -> Builder:
    if name.startswith("vit_"):
        size = 56 if name.endswith("14") else 64
        return Builder(name, size, None, {"image_size": size})
    if name == "maxvit_t":
        return Builder(name, 224, None)  # its partitions of 7 × 7 need 7 · 2⁵ pixels
    if name == "inception_v3":
        return Builder(name, 299, None, {"init_weights": False})  # the auxiliary head needs a map of 17 × 17
    if name == "googlenet":
        return Builder(name, options={"init_weights": False})
    if name.startswith(("alexnet", "squeezenet")):
        return Builder(name, second=80)
    return Builder(name)


BUILDERS = [_builder(name) for name in torchvision.models.list_models(module=torchvision.models)]


def small_vision_transformer() -> Subject:
    """`vit_b_16` in small: its own class with two layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.VisionTransformer(
            image_size=32, patch_size=16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
        )
        shake(model.double()).eval()
    return Subject("vit_b_16 in small", lambda: copy.deepcopy(model), _images(32))
