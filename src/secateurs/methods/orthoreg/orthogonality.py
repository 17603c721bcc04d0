"""OrthoReg's penalty: the distance of each layer's smaller Gram matrix from the identity.

Legend: A is a layer's weight as a matrix [rows, columns], rows = filters; G is its Gram matrix on the smaller side.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secateurs.errors import InputError
from secateurs.graph.groups import Role
from secateurs.session.per_group import spread
from secateurs.session.schedule import Position
from secateurs.session.scope import Units

Norm = Literal["l1", "squared"]
Weighting = Literal["published", "smaller-side"]


def layer_weights(shapes: Sequence[Sequence[int]], *, by: Weighting = "published") -> tuple[float, ...]:
    """Layer weights w_l = s_l / Σ s that sum to one, from the shapes of convolutions' weights.

    "published": s = √(input channels) of a 1×1 convolution and √filters of every other, depthwise ones too, which is
    what the code has for VGG-13, ResNet-34 and MobileNet-V1. "smaller-side" (ours): s = √min(filters, their entries).

    >>> [round(w, 3) for w in layer_weights([(n, n, 3, 3) for n in (64, 64, 128, 128, 256, 256, *[512] * 4)])]
    [0.05, 0.05, 0.07, 0.07, 0.099, 0.099, 0.14, 0.14, 0.14, 0.14]
    """
    sizes = [math.sqrt(_size(shape, by)) for shape in shapes]
    return tuple(size / sum(sizes) for size in sizes)


def _size(shape: Sequence[int], by: Weighting) -> int:
    if by == "smaller-side":
        return min(shape[0], math.prod(shape[1:]))
    return shape[1] if math.prod(shape[2:]) == 1 else shape[0]


def orthogonality(matrix: Tensor) -> float:
    """Degree of orthogonality Σ|diag G| / Σ|G|: 1 if the smaller side is orthogonal.

    >>> orthogonality(torch.eye(3, 5)), orthogonality(torch.ones(2, 4))
    (1.0, 0.5)
    """
    gram = _gram(matrix.detach().float()).abs()
    whole = float(gram.sum())
    return float(gram.diagonal().sum()) / whole if whole > 0.0 else 0.0


@dataclass(frozen=True)
class Orthonormal:
    """The penalty strength·Σ_l w_l Σ_ab |G_l[a, b] − δ_ab|, every `every`-th step with `every` times the strength.

    G = A Aᵀ where rows < columns, else Aᵀ A (the code uses it for square 1×1 convolutions, too); `squared` is our
    smooth variant with |·|² for |·|. Source: Lubana et al., OrthoReg (arXiv 2009.05014), published code; the paper's
    formula was not read. Units are the filters of every convolution; the bias of a filter, where there is one, is a
    further column of A.
    """

    strength: float
    norm: Norm = "l1"
    weighting: Weighting = "published"
    every: int = 1
    roles: tuple[Role, ...] = ("out", "bias")

    def init(self, units: Units) -> Tensor:
        """Return the factors [units], which never change: strength·every·w_l."""
        shares = layer_weights([layer[0].shape for layer in _layers(units.rows.tensors)], by=self.weighting)
        each = torch.tensor([self.strength * self.every * share for share in shares], dtype=torch.float64)
        return spread(each, units.ledger).to(units.rows.device)

    def update(self, units: Units, state: Tensor, at: Position) -> tuple[Tensor | None, Tensor]:
        """Return the factors at every `every`-th step."""
        return None if at.step % self.every else state, state

    @torch.no_grad()
    def direction(self, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return 2·sign(G − I) A (or A·2·sign(G − I)); 4·(G − I) A with `squared`; layers of one shape as one product.

        Runs in float32 outside autocast: the sum of 512² entries would overflow half precision.
        """
        layers = _layers(weights)
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, layer in enumerate(layers):
            alike[(*layer[0].shape, len(layer))].append(i)
        found: dict[int, list[Tensor]] = {}
        for members in alike.values():
            a_LRC = torch.stack([_as_matrix(layers[i]) for i in members])
            wide = a_LRC.shape[1] < a_LRC.shape[2]
            gram = a_LRC @ a_LRC.mT if wide else a_LRC.mT @ a_LRC
            gram.diagonal(dim1=1, dim2=2).sub_(1.0)
            slope = gram.sign_().mul_(2.0) if self.norm == "l1" else gram.mul_(4.0)
            step_LRC = slope @ a_LRC if wide else a_LRC @ slope
            for i, step in zip(members, step_LRC.unbind(), strict=True):
                found[i] = _as_tensors(step, layers[i])
        return [part for i in range(len(layers)) for part in found[i]]


def _layers(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Weights, each with the bias that follows it."""
    layers: list[list[Tensor]] = []
    for tensor in tensors:
        if tensor.dim() == 1:
            layers[-1].append(tensor)
        else:
            layers.append([tensor])
    return layers


def _as_matrix(layer: Sequence[Tensor]) -> Tensor:
    """Filters as rows, in float32; a bias is the last column."""
    return torch.cat([tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1) for tensor in layer], 1).float()


def _as_tensors(matrix: Tensor, layer: Sequence[Tensor]) -> list[Tensor]:
    """A matrix like that of `_as_matrix` as the layer's weight and bias."""
    columns = [tensor[0].numel() for tensor in layer]
    return [part.reshape(t.shape).to(t.dtype) for part, t in zip(matrix.split(columns, 1), layer, strict=True)]


def _gram(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2:
        raise InputError(f"a Gram matrix needs a matrix, not shape {tuple(matrix.shape)}. Flatten the filters first.")
    return matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
