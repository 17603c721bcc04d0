"""Means and covariances of a group's activations, streamed in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.errors import EvidenceError
from secateurs.graph.groups import Group, Site


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of the inputs x [rows, units] of the layers that read a group, a row for each image and position.

    mean: [units]; covariance: [units, units], divided by the number of rows.
    """

    mean: Tensor
    covariance: Tensor
    rows: int


class Covariance:
    """An `Accumulator` of `Moments`: one units x units matrix a group, for any number of images.

    >>> statistic = Covariance(Group("conv", 2, ()), ())
    >>> statistic.update(torch.tensor([[[0.0, 2.0], [1.0, 5.0]]]))  # one image, two units, two positions
    >>> found = statistic.result()
    >>> found.mean.tolist(), found.covariance.tolist()  # deviations -1, 1 and -2, 2
    ([1.0, 3.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    def __init__(self, group: Group, sites: tuple[Site, ...]) -> None:
        self._name, self._rows = group.name, 0
        self._total: Tensor | None = None
        self._square: Tensor | None = None

    def update(self, values: Tensor) -> None:
        """Update with the activations of a batch: [samples, units, positions]."""
        x = values.detach().transpose(0, 1).flatten(1).double()
        total, square = x.sum(1), x @ x.T
        if self._total is None or self._square is None:
            self._total, self._square = total, square
        else:
            self._total += total
            self._square += square
        self._rows += x.shape[1]

    def result(self) -> Moments:
        """Return the moments over all images and positions."""
        if self._total is None or self._square is None:
            message = (
                f"no activation of group {self._name!r} was seen. Its covariance would be empty. "
                "Pass data that yields at least one batch."
            )
            raise EvidenceError(message)
        mean = self._total / self._rows
        return Moments(mean, self._square / self._rows - torch.outer(mean, mean), self._rows)
