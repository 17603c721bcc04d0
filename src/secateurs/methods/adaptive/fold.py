"""Compensate for a removed unit: move its outgoing weights to its most correlated unit, the constant into a bias."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from secateurs.graph import Group
from secateurs.session.run import Run
from secateurs.types import Floats, Ints


@torch.no_grad()
def fold(run: Run, group: Group, units: Ints, partner: Ints, z: Floats) -> None:
    """Compensate the layers that read removed units, from the moments of z [samples, units].

    A redundant unit c with partner j, z_c ≈ a·z_j + b: the consumers' weights of j grow by a times those of c, and a
    bias by b times their sum. For a unit without a partner, a = 0 and b is its mean. Exact where maps are
    constant or not padded; consumers without a bias are followed by a norm, which removes a constant itself.
    """
    tensors = run.parameters
    consumers = [piece for piece in group.slices if piece.role == "in" and piece.tensor in tensors]
    for unit in units.tolist():
        other = int(partner[unit])
        gain, rest = (0.0, float(z[:, unit].mean())) if other < 0 else fit(z[:, other], z[:, unit])
        for piece in consumers:
            weight = tensors[piece.tensor].detach()
            mine = weight.index_select(piece.dim, _index(piece.index[unit], weight))
            if other >= 0:
                weight.index_add_(piece.dim, _index(piece.index[other], weight), mine, alpha=gain)
            bias = tensors.get(piece.tensor.removesuffix("weight") + "bias")
            if (
                bias is not None
                and piece.tensor.endswith("weight")
                and bias.shape[0] == weight.shape[0]
                and piece.dim == 1
            ):
                bias.detach().add_(mine.flatten(1).sum(1), alpha=rest)


def fit(x: Floats, y: Floats) -> tuple[float, float]:
    """Least squares y ≈ a·x + b.

    >>> fit(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    (2.0, 1.0)
    """
    centred = x - x.mean()
    power = float(np.square(centred).sum())
    gain = float((centred * y).sum() / power) if power > 0.0 else 0.0
    return gain, float(y.mean() - gain * x.mean())


def _index(positions: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(positions)).to(like.device)
