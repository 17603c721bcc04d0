"""OrthoReg's penalty: the distance of each layer's smaller Gram matrix from the identity.

Legend: A is a layer's weight as a matrix [rows, columns], rows = filters; G is its Gram matrix on the smaller side.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from secateurs.errors import InputError

Norm = Literal["l1", "squared"]


def gram_penalty(matrices: Sequence[Tensor], weights: Sequence[float], *, norm: Norm = "l1") -> Tensor:
    """Distance of the min-side Gram matrices from the identity, summed over entries and weighted over layers.

    R = Σ_l w_l · Σ_ab |G_l[a, b] − δ_ab|, G = A Aᵀ where rows ≤ columns, else Aᵀ A. `squared` is our smooth variant
    with
    |·|² for |·|. Source: Lubana and Dick, OrthoReg (arXiv 2009.05014), published code; the paper's formula was not
    read.

    >>> float(gram_penalty([torch.eye(3, 5)], [1.0])), float(gram_penalty([torch.zeros(3, 5)], [1.0]))
    (0.0, 3.0)
    """
    total = torch.zeros((), dtype=torch.float32 if not matrices else matrices[0].dtype)
    for matrix, weight in zip(matrices, weights, strict=True):
        off = _gram(matrix)
        off.diagonal().sub_(1.0)
        total = total.to(off) + weight * (off.abs().sum() if norm == "l1" else off.square().sum())
    return total


def layer_weights(shapes: Sequence[tuple[int, int]], *, by: Literal["min", "rows"] = "min") -> tuple[float, ...]:
    """Layer weights w_l = s_l / Σ s that sum to one: s = √min(rows, columns) (ResNets) or √rows (VGG), as published.

    >>> [round(w, 3) for w in layer_weights((n, 9 * n) for n in (64, 64, 128, 128, 256, 256, *[512] * 4))]
    [0.05, 0.05, 0.07, 0.07, 0.099, 0.099, 0.14, 0.14, 0.14, 0.14]
    """
    sizes = [math.sqrt(min(shape) if by == "min" else shape[0]) for shape in shapes]
    return tuple(size / sum(sizes) for size in sizes)


def orthogonality(matrix: Tensor) -> float:
    """Degree of orthogonality Σ|diag G| / Σ|G|: 1 where the smaller side is perfectly decorrelated.

    >>> orthogonality(torch.eye(3, 5)), orthogonality(torch.ones(2, 4))
    (1.0, 0.5)
    """
    gram = _gram(matrix.detach().float()).abs()
    whole = float(gram.sum())
    return float(gram.diagonal().sum()) / whole if whole > 0.0 else 0.0


class Layer(NamedTuple):
    """A layer's weight and its gradient; a bias, where there is one, is a further column of the matrix."""

    weight: Tensor
    grad: Tensor
    bias: Tensor | None = None
    bias_grad: Tensor | None = None

    def matrix(self) -> Tensor:
        """Filters as rows, in float32."""
        rows = self.weight.flatten(1).float()
        return rows if self.bias is None else torch.cat([rows, self.bias.float().unsqueeze(1)], dim=1)


@torch.no_grad()
def add_gram_gradient(layers: Sequence[Layer], weights: Sequence[float], *, strength: float, norm: Norm = "l1") -> None:
    """Add `strength` times the penalty's gradient to the layers' gradients, layers of one shape as one product.

    dR/dA = w·2·sign(A Aᵀ − I) A (rows ≤ columns), w·2·A sign(Aᵀ A − I) otherwise; with `squared`, w·4·(G − I) instead
    of the sign. Runs in float32 outside autocast: the sum of 512² entries would overflow half precision.
    """
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, layer in enumerate(layers):
        alike[(*layer.weight.shape, int(layer.bias is not None))].append(i)
    for members in alike.values():
        a_LRC = torch.stack([layers[i].matrix() for i in members])
        wide = a_LRC.shape[1] <= a_LRC.shape[2]
        gram = a_LRC @ a_LRC.mT if wide else a_LRC.mT @ a_LRC
        gram.diagonal(dim1=1, dim2=2).sub_(1.0)
        slope = gram.sign_().mul_(2.0) if norm == "l1" else gram.mul_(4.0)
        step_LRC = slope @ a_LRC if wide else a_LRC @ slope
        for i, step in zip(members, step_LRC.unbind(), strict=True):
            _add(layers[i], step, strength * weights[i])


def _add(layer: Layer, step: Tensor, factor: float) -> None:
    columns = step.shape[1] - int(layer.bias is not None)
    layer.grad.add_(step[:, :columns].view(layer.weight.shape).to(layer.grad.dtype), alpha=factor)
    if layer.bias_grad is not None:
        layer.bias_grad.add_(step[:, columns].to(layer.bias_grad.dtype), alpha=factor)


def _gram(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2:
        raise InputError(f"a Gram matrix needs a matrix, not shape {tuple(matrix.shape)}. Flatten the filters first.")
    return matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
