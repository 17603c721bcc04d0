"""Mixup and CutMix, by torchvision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateurs.app.training.optimisation import Stepping


def mixed(images: Tensor, labels: Tensor, stepping: Stepping, classes: int) -> tuple[Tensor, Tensor]:
    """Return a batch [n, c, h, w] with mixed images, and targets as probabilities [n, classes].

    If nothing is mixed, both are returned unchanged. Draws from torch's global generator.
    """
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(stepping, kind)]
    if not kinds:
        return images, labels
    from torchvision.transforms import v2  # an extra, needed here only

    makers: dict[str, Any] = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    kind = kinds[int(torch.randint(len(kinds), ()))]
    return makers[kind](alpha=getattr(stepping, kind), num_classes=classes)(images, labels)


def as_probabilities(labels: Tensor, classes: int) -> Tensor:
    """Labels as probabilities [n, classes]: one-hot where they are whole numbers.

    >>> as_probabilities(torch.tensor([1]), 3).tolist()
    [[0.0, 1.0, 0.0]]
    """
    return labels if labels.is_floating_point() else F.one_hot(labels, classes).float()
