"""Normalisers: functions from scores to scores that make different groups comparable.

The scores of a norm or a Taylor expansion scale with the size of a layer's weights. Dividing by a positive
number per group keeps the order inside the group; it is computed from absolute values, so that signs are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Normaliser = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ByMean:
    """Divide by the mean absolute score: an average unit of any group scores 1.

    >>> ByMean()(torch.tensor([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """

    def __call__(self, scores: Tensor) -> Tensor:
        """Return scores relative to the group's mean."""
        return _divided(scores, scores.abs().mean())


@dataclass(frozen=True)
class ByMax:
    """Divide by the largest absolute score: the best unit of any group scores 1.

    >>> ByMax()(torch.tensor([1.0, 4.0])).tolist()
    [0.25, 1.0]
    """

    def __call__(self, scores: Tensor) -> Tensor:
        """Return scores relative to the group's maximum."""
        return _divided(scores, scores.abs().max())


@dataclass(frozen=True)
class BySum:
    """Divide by the sum of absolute scores: every group's scores sum to 1, so that wide groups lose units first.

    >>> BySum()(torch.tensor([1.0, 3.0])).tolist()
    [0.25, 0.75]
    """

    def __call__(self, scores: Tensor) -> Tensor:
        """Return scores as shares of the group's total."""
        return _divided(scores, scores.abs().sum())


@dataclass(frozen=True)
class AsIs:
    """Compare raw scores, for scores on a common scale, such as a change of the loss.

    >>> AsIs()(torch.tensor([1.0, 3.0])).tolist()
    [1.0, 3.0]
    """

    def __call__(self, scores: Tensor) -> Tensor:
        """Return scores unchanged."""
        return scores


def _divided(scores: Tensor, size: Tensor) -> Tensor:
    """Divide, leaving a group whose scores are all zero as it is."""
    return scores / torch.where(size > 0, size, 1.0)
