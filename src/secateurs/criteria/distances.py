"""Squared distances between rows, exact where the Gram matrix would cancel.

|x_i - x_j|^2 = q_i + q_j - 2 <x_i, x_j> with q_i = |x_i|^2 needs no loop over pairs, but cancels where two rows
nearly agree: those pairs are recomputed from the difference itself.

Shapes: C rows, F features of each.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

NEAR = {torch.float32: 1e-3, torch.float64: 1e-9}
"""Pairs whose squared distance is below this part of q_i + q_j are recomputed from the difference."""

CHUNK = {"cpu": 2 << 20, "cuda": 1 << 28}
"""Bytes of distances computed at a time: the size of caches, or enough to keep an accelerator busy."""


def squared_distances(x_CF: Tensor) -> Tensor:
    """Squared Euclidean distances between the rows, in float64: [C, F] -> [C, C], symmetric, zero diagonal.

    Computed from one Gram matrix; pairs so close that float64 would cancel are computed from the difference.

    >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]]))
    tensor([[ 0., 25., 25.],
            [25.,  0.,  0.],
            [25.,  0.,  0.]], dtype=torch.float64)
    """
    x_CF = x_CF.detach().to(torch.float64)
    with full_precision():
        if x_CF.device.type == "cpu":  # NumPy sees that the product is symmetric and does half of it
            array = x_CF.numpy()
            gram_CC = torch.from_numpy(array @ array.T)
        else:
            gram_CC = x_CF @ x_CF.T
        q_C = gram_CC.diagonal().clone()
        d_CC = gram_CC.mul_(-2).add_(q_C[:, None]).add_(q_C).fill_diagonal_(torch.inf)
        near = NEAR[d_CC.dtype]
        if bool((d_CC.amin(-1) < near * (q_C + q_C.amax())).any()):
            pairs = (d_CC < near * (q_C[:, None] + q_C)).nonzero()
            zero = torch.zeros_like(pairs[:, 0])
            recompute(d_CC[None], torch.column_stack((zero, pairs)), x_CF[None], x_CF[None])
    return d_CC.clamp_min_(0).fill_diagonal_(0)


@contextmanager
def full_precision() -> Generator[None]:
    """Keep matrix products in the precision of their arguments: no TF32, no autocast; both as before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def recompute(d: Tensor, pairs: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Replace the listed entries (b, i, j) of d by |rows[b, i] - columns[b, j]|^2, in bounded memory."""
    held = CHUNK.get(d.device.type, CHUNK["cpu"]) // (rows.shape[-1] * d.element_size())
    for part in pairs.split(max(1, held)):
        sample, i, j = part.unbind(1)
        d[sample, i, j] = (rows[sample, i] - columns[sample, j]).square_().sum(-1)
