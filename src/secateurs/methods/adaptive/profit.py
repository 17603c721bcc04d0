"""Profits of a filter, for Adaptive Pruning: our reconstruction, since the paper's formulas could not be read.

z is the pooled activation of a group's units on some samples, [samples, units]: the input of the layers that read it,
averaged over positions. Everything is float64 and per group; profits are comparable inside a group only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secateurs.types import Floats, Ints

_DEAD = 1e-12
DELTA = 1e-4
"""Added before logarithms, so that a profit of zero stays finite."""


def discriminability(z: Floats, labels: Ints) -> Floats:
    """Share of each unit's variance that lies between classes: the correlation ratio η² = S_B / S_T, in [0, 1].

    Chance alone gives (K − 1)/(n − 1) for K classes and n samples, which is subtracted.

    >>> discriminability(np.array([[0.0, 1], [0, 0], [2, 1], [2, 0]]), np.array([0, 0, 1, 1])).round(3).tolist()
    [0.667, 0.0]
    """
    centred = z - z.mean(0)
    total = np.square(centred).sum(0)
    between = np.zeros_like(total)
    classes = np.unique(labels)
    for one in classes:
        members = centred[labels == one]
        between += len(members) * np.square(members.mean(0))
    eta = np.divide(between, total, out=np.zeros_like(total), where=total > _DEAD)
    return np.clip(eta - (len(classes) - 1) / max(len(z) - 1, 1), 0.0, 1.0)


def correlation(z: Floats) -> Floats:
    """Correlation matrix of the units; constant units correlate with none.

    >>> correlation(np.array([[0.0, 1, 5], [1, 0, 5], [2, -1, 5]])).round(3).tolist()
    [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    centred = z - z.mean(0)
    spread = np.sqrt(np.square(centred).sum(0))
    alive = spread > _DEAD * max(float(spread.mean()), _DEAD)
    unit = np.divide(centred, spread, out=np.zeros_like(centred), where=alive)
    found = unit.T @ unit
    np.fill_diagonal(found, 1.0)
    return found


def uniqueness(z: Floats, shrink: float = 0.05) -> Floats:
    """Share of each unit's variance that its peers do not explain linearly: 1 / [R_λ⁻¹]_cc, in (0, 1]; 0 if constant.

    R_λ = (1 − λ) R + λ I keeps the inverse bounded; with λ = 0 this is the reciprocal variance inflation factor, 1 −
    R².

    >>> uniqueness(np.array([[0.0, 0, 1], [1, 1, 0], [2, 2, 1], [1, 1, 2]]), shrink=0.0001).round(2).tolist()
    [0.0, 0.0, 1.0]
    """
    matrix = correlation(z)
    shrunk = (1.0 - shrink) * matrix + shrink * np.eye(len(matrix))
    found = 1.0 / np.diagonal(np.linalg.inv(shrunk))
    variance = z.var(0)
    return np.where(variance > _DEAD * max(float(variance.mean()), _DEAD), np.clip(found, 0.0, 1.0), 0.0)


def own_profit(z: Floats, labels: Ints | None) -> Floats:
    """P1 = √(d̂·U), discriminability relative to the best in the layer; without class labels U alone."""
    unique = uniqueness(z)
    if labels is None:
        return unique
    told = discriminability(z, labels)
    best = float(told.max())
    return np.sqrt(told / best * unique) if best > 0.0 else unique


def next_profit(fisher: Floats) -> Floats:
    """P2 = F / F_95, clipped at 1: squared gate gradients of the consumers, relative to the layer's 95 % quantile.

    >>> next_profit(np.array([0.0, 1.0, 2.0, 2.0])).tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    top = float(np.quantile(fisher, 0.95, method="closest_observation"))
    return np.clip(fisher / top, 0.0, 1.0) if top > 0.0 else np.zeros_like(fisher)


def effective_rank(z: Floats) -> float:
    """Exp of the entropy of the correlation matrix's normalised eigenvalues: the effective number of dimensions.

    >>> float(round(effective_rank(np.array([[0.0, 0, 1], [1, 1, 0], [2, 2, 1], [1, 1, 2]])), 2))
    1.89
    """
    values = np.clip(np.linalg.eigvalsh(correlation(z)), 0.0, None)
    share = values / values.sum()
    share = share[share > 0.0]
    return float(np.exp(-(share * np.log(share)).sum()))


@dataclass(eq=False)
class Combination:
    """The weight of the own-layer profit, learnt from probes: log Δloss ≈ c₀ + c₁·log P1 + c₂·log P2.

    Least squares with forgetting, non-negative c₁ and c₂; w = c₁ / (c₁ + c₂), kept in [0.1, 0.9] and ½ at the start.
    """

    forget: float = 0.95
    weight: float = 0.5
    moments: Floats = field(default_factory=lambda: np.zeros((3, 3)))
    target: Floats = field(default_factory=lambda: np.zeros(3))

    def learn(self, own: Floats, following: Floats, loss_rise: Floats) -> None:
        """Update the fit with measured loss rises of units and their two profits."""
        rows = np.stack([np.ones_like(own), np.log(own + DELTA), np.log(following + DELTA)], axis=1)
        wanted = np.log(np.clip(loss_rise, 0.0, None) + DELTA)
        self.moments = self.forget * self.moments + rows.T @ rows
        self.target = self.forget * self.target + rows.T @ wanted
        both = np.clip(np.linalg.lstsq(self.moments, self.target, rcond=1e-6)[0][1:], 0.0, None)
        if both.sum() > 0.0:
            self.weight = float(np.clip(both[0] / both.sum(), 0.1, 0.9))

    def score(self, own: Floats, following: Floats) -> Floats:
        """s = w·log(P1 + δ) + (1 − w)·log(P2 + δ)."""
        return self.weight * np.log(own + DELTA) + (1.0 - self.weight) * np.log(following + DELTA)


def candidates(score: Floats, matrix: Floats, kappa: float, redundant: float = 0.95) -> tuple[NDArray[np.bool_], Ints]:
    """Units to remove by an online threshold, and each unit's redundant better partner (−1 where it has none).

    A unit is a candidate if its score lies κ median absolute deviations below the group's median, or if it correlates
    above `redundant` with a unit of a higher score.

    >>> low, partner = candidates(np.array([0.0, 1, 1.1, -9]), np.eye(4), 2.0)
    >>> low.tolist(), partner.tolist()
    ([False, False, False, True], [-1, -1, -1, -1])
    """
    middle = np.median(score)
    deviation = np.median(np.abs(score - middle))
    low = score < middle - kappa * max(float(deviation), 1e-9)
    better = (np.abs(matrix) > redundant) & (score[None, :] > score[:, None])
    partner = np.where(better.any(1), np.where(better, np.abs(matrix), -1.0).argmax(1), -1)
    return low | (partner >= 0), partner.astype(np.int64)
