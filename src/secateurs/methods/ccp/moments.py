"""First and second moments of per-sample gate gradients, for the quadratic model of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.errors import EvidenceError
from secateurs.graph.groups import Group, Site


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of the gate gradients z [N, C] of N samples, in float64.

    u [C] = (1 / N) sum_n z_n, the gradient of the mean loss; s [C, C] = (1 / 2N) Z'Z, half its empirical Fisher matrix.
    """

    u: Tensor
    s: Tensor
    samples: int


class GateMoments:
    """An `Accumulator` of `Moments`: one C x C matrix a group, for any number of samples.

    >>> statistic = GateMoments(Group("conv", 2, ()), ())
    >>> statistic.update(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    >>> found = statistic.result()
    >>> found.u.tolist(), found.s.tolist()  # (1 + 3) / 2, (0 + 2) / 2; (1 + 9) / 4, 6 / 4, 4 / 4
    ([2.0, 1.0], [[2.5, 1.5], [1.5, 1.0]])
    """

    def __init__(self, group: Group, sites: tuple[Site, ...]) -> None:
        self._name = group.name
        self._total: Tensor | None = None
        self._square: Tensor | None = None
        self._samples = 0

    def update(self, values: Tensor) -> None:
        """Update with the gate gradients of a batch: [samples, units]."""
        z = values.detach().to(torch.float64)
        if self._total is None or self._square is None:
            self._total, self._square = z.sum(0), z.T @ z
        else:
            self._total += z.sum(0)
            self._square.addmm_(z.T, z)
        self._samples += len(z)

    def result(self) -> Moments:
        """Return the moments over all samples."""
        if self._total is None or self._square is None:
            msg = (
                f"no gate gradient of group {self._name!r} was seen. Its moments would be empty. "
                "Pass data that yields at least one batch."
            )
            raise EvidenceError(msg)
        return Moments(self._total / self._samples, self._square / (2 * self._samples), self._samples)
