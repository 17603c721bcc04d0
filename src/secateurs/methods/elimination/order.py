"""Backward elimination of the inputs of a linear map, with the others refitted after each removal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def eliminate(covariance: Array, weights: Array, damping: float) -> tuple[Indices, Array]:
    """Return the order of removal of units, and the squared error of the map's output that each removal adds.

        error of removing u next = (W'W)_uu / (Σ⁻¹)_uu
        W ← W - W_u (Σ⁻¹)_u / (Σ⁻¹)_uu,    Σ⁻¹ ← Σ⁻¹ - (Σ⁻¹)_u' (Σ⁻¹)_u / (Σ⁻¹)_uu

    covariance: Σ [units, units] of the inputs; weights: W'W [units, units], the products of the columns of W [outputs,
    units]. damping: added to the diagonal of Σ, relative to its mean. 1 / (Σ⁻¹)_uu is the variance of unit u that the
    remaining ones do not explain, so a linear combination of others is removed first, at no cost. The last unit is also
    listed, as the most expensive. Source: Hassibi, Stork and Wolff 1993 (eq. 5), with whole columns in the place of
    single weights.

    Units 0 and 1 are equal, and 2 is independent; one of the equal ones is removed first, and the other then has
    the double weight, 2² · 1 = 4:

    >>> order, errors = eliminate(np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1.5]]), np.ones((3, 3)), 1e-9)
    >>> order.tolist(), errors.round(3).tolist()
    ([0, 2, 1], [0.0, 1.5, 4.0])
    """
    size = len(covariance)
    mean = np.trace(covariance) / size
    inverse = np.linalg.inv(covariance + (damping * mean if mean > 0 else 1.0) * np.eye(size))
    products, left = weights.copy(), np.ones(size, dtype=bool)
    order, errors = np.empty(size, np.int64), np.empty(size)
    for turn in range(size):
        pivots = np.diagonal(inverse)
        price = np.where(left, np.diagonal(products).clip(0) / np.where(left, pivots, 1.0), np.inf)
        u = int(price.argmin())
        order[turn], errors[turn], left[u] = u, price[u], False
        row = inverse[u] / inverse[u, u]  # 1 at u: the column of W at u becomes zero
        cross = np.outer(products[u], row)
        products = products - cross - cross.T + products[u, u] * np.outer(row, row)
        inverse = inverse - np.outer(inverse[u], row)
    return order, errors


def express(mean: Array, covariance: Array, gone: Indices, damping: float) -> tuple[Array, Array, Indices]:
    """Regress removed units on the others: x_gone ≈ slope x_kept + shift; return slope, shift and the kept units.

    >>> slope, shift, kept = express(np.array([1.0, 2.0]), np.array([[1.0, 2.0], [2.0, 4.0]]), np.array([1]), 0.0)
    >>> slope.tolist(), shift.tolist(), kept.tolist()  # unit 1 is twice unit 0
    ([[2.0]], [0.0], [0])
    """
    kept = np.setdiff1d(np.arange(len(mean)), gone)
    inside = covariance[np.ix_(kept, kept)]
    level = np.trace(inside) / len(kept)
    inside = inside + (damping * level if level > 0 else 1.0) * np.eye(len(kept))
    slope = np.asarray(np.linalg.solve(inside, covariance[np.ix_(kept, gone)]).T, np.float64)
    return slope, mean[gone] - slope @ mean[kept], kept
