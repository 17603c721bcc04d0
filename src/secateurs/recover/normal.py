"""Normal equations with a ridge: by Cholesky from the Gram matrix, or by conjugate gradients from the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from secateurs.errors import EvidenceError

CHUNK = 1 << 14
"""Rows per product in the network's dtype; the products are summed in float64."""

WIDE = 4608
"""Columns up to which a Gram matrix is formed: 170 MB in float64 (512 channels of a 3x3 convolution)."""

STRONGER = 7
"""Most tenfold increases of a ridge: from 1e-6 of the mean diagonal up to it."""

TOLERANCE, MOST = 1e-6, 200
"""Conjugate gradients stop at this residual, relative to the right-hand side, or after so many steps."""


class Normal(Protocol):
    """X'X of the rows X of every group: [groups, columns, columns]."""

    @property
    def size(self) -> Tensor:
        """The mean of the diagonal, [groups, 1, 1]; 1 for a group whose inputs are all zero."""
        ...

    def times(self, vectors: Tensor) -> Tensor:
        """X'X v: [groups, columns, outputs]."""
        ...

    def solve(self, right: Tensor, ridge: Tensor) -> Tensor:
        """Solve (X'X + ridge) v = right for v."""
        ...


def normal_of(x: Tensor) -> Normal:
    """Choose the representation of the normal equations of rows [rows, groups, columns]."""
    return Formed(product(x, x)) if x.shape[2] <= WIDE else Streamed(x)


@dataclass(eq=False)
class Formed:
    """The Gram matrix in float64, with its last factorisation cached.

    >>> Formed(torch.tensor([[[4.0]]], dtype=torch.float64)).solve(torch.ones(1, 1, 1).double(), torch.ones(1, 1, 1))
    tensor([[[0.2000]]], dtype=torch.float64)
    """

    gram: Tensor
    _factor: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    @property
    def size(self) -> Tensor:
        """The mean of the diagonal."""
        return _or_one(self.gram.diagonal(dim1=1, dim2=2).mean(1))

    def times(self, vectors: Tensor) -> Tensor:
        """X'X v."""
        return self.gram @ vectors

    def solve(self, right: Tensor, ridge: Tensor) -> Tensor:
        """Solve by Cholesky factorisation; with a stronger ridge for a group where rounding requires it."""
        if self._factor is None or not torch.equal(self._factor[0], ridge):
            self._factor = ridge, self._factorised(ridge)
        return torch.cholesky_solve(right, self._factor[1])

    def _factorised(self, ridge: Tensor) -> Tensor:
        """The Cholesky factor. Rows with fewer directions than columns, summed in float32, are not quite definite."""
        eye = torch.eye(self.gram.shape[1], dtype=self.gram.dtype, device=self.gram.device)
        for _ in range(STRONGER):
            factor, failed = torch.linalg.cholesky_ex(self.gram + ridge * eye)
            if not failed.any():
                return factor
            ridge = torch.where(failed[:, None, None] > 0, 10 * ridge, ridge)
        message = (
            "the inputs of a layer are NaN or infinite, so that nothing can be solved for it. "
            "Check the images: torch.isfinite(images).all()."
        )
        raise EvidenceError(message)


@dataclass(eq=False)
class Streamed:
    """The rows, for layers whose Gram matrix would not fit in memory; needs no more memory than the rows."""

    x: Tensor

    @property
    def size(self) -> Tensor:
        """The mean of the diagonal."""
        return _or_one(self._diagonal.mean(1)[:, 0])

    @cached_property
    def _diagonal(self) -> Tensor:
        return sum((u.double().square().sum(0) for u in self.x.split(CHUNK)), torch.zeros(()))[:, :, None]

    def times(self, vectors: Tensor) -> Tensor:
        """X'(X v), a chunk of rows at a time."""
        total = torch.zeros_like(vectors)
        narrow = vectors.to(self.x.dtype)
        for u in self.x.split(CHUNK):
            rows = u.transpose(0, 1)
            total += rows.transpose(1, 2) @ (rows @ narrow)
        return total

    def solve(self, right: Tensor, ridge: Tensor) -> Tensor:
        """Solve by diagonally preconditioned conjugate gradients, for all outputs (Hestenes and Stiefel 1952)."""
        found, residual = torch.zeros_like(right), right.clone()
        inverse = 1 / (self._diagonal + ridge)
        direction = inverse * residual
        energy = (residual * direction).sum(1, keepdim=True)
        goal = TOLERANCE * right.square().sum().sqrt()
        for _ in range(MOST):
            if residual.square().sum().sqrt() <= goal:
                break
            image = self.times(direction) + ridge * direction
            step = energy / (direction * image).sum(1, keepdim=True).clamp_min(torch.finfo(right.dtype).tiny)
            found, residual = found + step * direction, residual - step * image
            turned = inverse * residual
            before, energy = energy, (residual * turned).sum(1, keepdim=True)
            direction = turned + energy / before.clamp_min(torch.finfo(right.dtype).tiny) * direction
        return found


def _or_one(mean: Tensor) -> Tensor:
    return torch.where(mean > 0, mean, 1.0)[:, None, None]


def product(x: Tensor, y: Tensor) -> Tensor:
    """X'Y of every group [groups, columns, outputs], a chunk of rows at a time, summed in float64."""
    total = torch.zeros(x.shape[1], x.shape[2], y.shape[2], dtype=torch.float64, device=x.device)
    for u, v in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        total += u.permute(1, 2, 0) @ v.transpose(0, 1)
    return total
