"""Similarity of the feature maps of a group's units: a statistic that streams over batches and sites.

    S(i, j) = mean over samples b of  1 / (1 + d_b(i, j)),        d_b(i, j) = || F[b, i] - F[b, j] ||_2

Distances come from one Gram matrix a sample, |x_i - x_j|^2 = q_i + q_j - 2 <x_i, x_j> with q_i = |x_i|^2: no loop over
pairs. Where x_i and x_j nearly agree, the right-hand side subtracts large numbers and float32 loses all digits of the
result: maps of norm 100 at distance 0.01 come out as exactly equal. Two corrections are always applied. A common map is
subtracted first when it carries most of the energy (distances do not change), and every pair below `NEAR` of its own
scale is computed anew from the difference itself.

Shapes: B samples, C channels, F positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateurs.criteria.distances import CHUNK, NEAR, full_precision, recompute
from secateurs.errors import EvidenceError
from secateurs.graph.groups import Group, Site

ROWS = 128
"""Rows of a distance matrix computed at a time. By symmetry blocks of 128 do 5/8 of the work at C = 512."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """Similarities of a group's C units: s [C, C], symmetric, diagonal 1; energy [C], mean |F[b, i]|^2; float64."""

    s: Tensor
    energy: Tensor


class FeatureSimilarity:
    """An `Accumulator`: the mean similarity of the units' maps over all samples, and over all sites if several.

    With coupled groups the sites are the modules that read the units, and S is the mean over them.

    >>> import numpy as np
    >>> maps = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])  # distances 5 and 0
    >>> statistic = FeatureSimilarity(Group("conv", 2, ()), ())
    >>> statistic.update(maps)
    >>> found = statistic.result()
    >>> found.s  # (1/6 + 1) / 2 off the diagonal
    tensor([[1.0000, 0.5833],
            [0.5833, 1.0000]], dtype=torch.float64)
    >>> found.energy.round(decimals=5).tolist()  # (0 + 2) / 2, (25 + 2) / 2
    [1.0, 13.5]
    """

    def __init__(self, group: Group, sites: tuple[Site, ...]) -> None:
        self._name = group.name
        self._sum: Tensor | None = None
        self._energy: Tensor | None = None
        self._samples = 0

    def update(self, values: Tensor) -> None:
        """Update with maps [samples, units, positions]."""
        found, energy = sums(values)
        self._sum = found if self._sum is None else self._sum + found
        self._energy = energy if self._energy is None else self._energy + energy
        self._samples += len(values)

    def result(self) -> Similarity:
        """Return the means over all maps seen."""
        if self._sum is None or self._energy is None:
            msg = (
                f"no feature map of group {self._name!r} was seen. Its similarities would be empty. "
                "Pass data shaped like the inputs that the graph was traced with."
            )
            raise EvidenceError(msg)
        return Similarity(self._sum / self._samples, self._energy / self._samples)


def similarity_sum(x_BCF: Tensor) -> Tensor:
    """Sum over samples of 1 / (1 + d_b(i, j)): [B, C, F] -> float64 [C, C].

    Similarities are summed, not distances: 1 / (1 + mean d) is another quantity.

    >>> similarity_sum(torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]]))  # 1/(1+5) + 1/(1+0)
    tensor([[2.0000, 1.1667],
            [1.1667, 2.0000]], dtype=torch.float64)
    """
    return sums(x_BCF)[0]


def sums(x_BCF: Tensor) -> tuple[Tensor, Tensor]:
    """Sum similarities [C, C] and energies [C] over samples, in float64.

    Samples are taken in chunks, so that memory does not grow with B; half precision is computed in float32.
    """
    samples, count, _ = x_BCF.shape
    x_BCF = x_BCF.detach()
    if x_BCF.dtype not in NEAR:
        x_BCF = x_BCF.float()
    held = CHUNK.get(x_BCF.device.type, CHUNK["cpu"]) // (min(ROWS, count) * count * x_BCF.element_size())
    held = min(max(1, held), samples)
    # One buffer for every block: a fresh megabyte each time costs more in page faults than the arithmetic.
    buffer = x_BCF.new_empty(held * min(ROWS, count) * count)
    out_CC = torch.zeros(count, count, dtype=torch.float64, device=x_BCF.device)
    energy_C = out_CC.new_zeros(count)
    with torch.no_grad(), full_precision():
        for chunk in x_BCF.split(held):
            x, q, energy = _centred(chunk)
            energy_C += energy.double().sum(0)
            for start in range(0, count, ROWS):
                shape = (len(x), min(ROWS, count - start), count - start)
                block = _distance_block(x, q, buffer[: math.prod(shape)].view(shape), start)
                out_CC[start : start + ROWS, start:] += block.sqrt_().add_(1).reciprocal_().sum(0)
    # Only blocks on and above the diagonal were filled; inside a diagonal block both halves were.
    out_CC = out_CC.triu(1)
    return out_CC + out_CC.T + samples * torch.eye(count, dtype=out_CC.dtype, device=out_CC.device), energy_C


def _centred(x_BCF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Subtract each sample's mean map where it holds most of the energy; return maps, squared norms, and those before.

    Not always: centring turns exact zero maps (dead ReLU channels) into copies of the mean, which cost a recomputation.
    """
    count = x_BCF.shape[1]
    q_BC = _energy(x_BCF)
    mean_B1F = x_BCF.mean(1, keepdim=True)
    common_B = count * mean_B1F.square().sum((1, 2)) > 0.5 * q_BC.sum(1)
    if not bool(common_B.any()):
        return x_BCF, q_BC, q_BC
    x_BCF = x_BCF - mean_B1F * common_B[:, None, None]
    return x_BCF, _energy(x_BCF), q_BC


def _energy(x_BCF: Tensor) -> Tensor:
    """Squared norms of the maps, [B, C]; in one pass, where vecdot writes the products out first."""
    return torch.linalg.vector_norm(x_BCF, dim=-1).square_()


def _distance_block(x_BCF: Tensor, q_BC: Tensor, d: Tensor, start: int) -> Tensor:
    """Write into d [B, n, C - start] the squared distances of n channels to all from `start` on, infinite to itself."""
    stop = start + d.shape[1]
    rows, columns = x_BCF[:, start:stop], x_BCF[:, start:]
    q_rows, q_columns = q_BC[:, start:stop, None], q_BC[:, None, start:]
    torch.add(q_rows, q_columns, out=d)
    d.baddbmm_(rows, columns.transpose(1, 2), alpha=-2)
    d.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    # A cheap test per row first: it passes for nearly every block, and spares two passes over the matrix.
    near = NEAR[d.dtype]
    if bool((d.amin(-1) < near * (q_rows[..., 0] + q_columns.amax(-1))).any()):
        recompute(d, (d < near * (q_rows + q_columns)).nonzero(), rows, columns)
    return d.clamp_min_(0)
