"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read by torchvision from a root folder that the user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from secateurs.app.data.images import Images, Shift, Standard
from secateurs.app.data.splits import Splits, stratified
from secateurs.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torchvision.datasets import CIFAR10

STANDARD = Standard(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that common CIFAR ResNet checkpoints were trained with."""

FRACTIONS = (0.9, 0.1)
"""Train and validation: 45,000 and 5,000 of the 50,000 training images (He et al. 2015, section 4.2)."""


def cifar10(root: Path, standard: Standard = STANDARD) -> Splits:
    """CIFAR-10: 45,000 / 5,000 / 10,000 images of 3x32x32."""
    return _cifar("cifar10", "CIFAR10", root, standard)


def cifar100(root: Path, standard: Standard = STANDARD) -> Splits:
    """CIFAR-100: 45,000 / 5,000 / 10,000 images of 3x32x32."""
    return _cifar("cifar100", "CIFAR100", root, standard)


def _cifar(name: str, cls: str, root: Path, standard: Standard) -> Splits:
    learning, held = _official(name, cls, root, train=True), _official(name, cls, root, train=False)
    train, validation = map(torch.from_numpy, stratified(np.asarray(learning.targets), FRACTIONS))
    pixels, labels = _tensors(learning)
    return Splits(
        name=name,
        train=Images(pixels[train], labels[train], standard, Shift(4, mirror=True)),
        calibration=Images(pixels[train], labels[train], standard),
        validation=Images(pixels[validation], labels[validation], standard),
        test=Images(*_tensors(held), standard),
        classes=tuple(learning.classes),
        shape=(3, 32, 32),
    )


def _tensors(data: CIFAR10) -> tuple[Tensor, Tensor]:
    pixels_NHWC = torch.from_numpy(data.data)
    return pixels_NHWC.permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


def _official(name: str, cls: str, root: Path, *, train: bool) -> CIFAR10:
    try:
        from torchvision import datasets  # an extra, needed here only
    except ImportError as missing:
        raise InputError(
            f"{name} is read by torchvision, which cannot be imported ({missing}); install it: "
            "python -m pip install 'secateurs[train]'"
        ) from missing
    try:
        return getattr(datasets, cls)(str(root), train=train, download=False)
    except (RuntimeError, OSError, EOFError) as cause:
        raise InputError(
            f"{root} does not hold {name} whole and unchanged ({cause}); download it there once: "
            f"torchvision.datasets.{cls}({str(root)!r}, download=True)"
        ) from cause
