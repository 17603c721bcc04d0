"""Running scores of a group's units over the rounds of Adaptive Pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.types import Floats, Ints

_ARRAYS = ("own", "following", "running", "weight", "streak", "grace")


@dataclass(eq=False)
class Standing:
    """Per unit: last profits, running score, rounds in a row as a candidate, rounds of grace; per group: its events."""

    own: Floats
    following: Floats
    running: Floats
    weight: Floats
    streak: Ints
    grace: Ints
    pruned_at: int = -100
    grown_at: int = -100
    growths: int = 0
    saturated: int = 0

    @classmethod
    def fresh(cls, units: int) -> Standing:
        """Return the initial state of a group."""
        zeros, none = np.zeros(units), np.zeros(units, dtype=np.int64)
        scores = (zeros.copy(), zeros.copy(), zeros.copy(), zeros.copy())
        return cls(*scores, none.copy(), none.copy())

    def score(self, units: Ints, score: Floats, smooth: float) -> None:
        """S ← ρ·S + (1 − ρ)·s, corrected for its start at zero by keeping the sum of weights with it."""
        self.running[units] = smooth * self.running[units] + (1.0 - smooth) * score
        self.weight[units] = smooth * self.weight[units] + (1.0 - smooth)

    def value(self, units: Any) -> Any:
        """The running score."""
        return self.running[units] / np.maximum(self.weight[units], 1e-12)

    def relative(self, alive: Ints, unit: int) -> float:
        """Robust z-score of a unit: median absolute deviations above its group's median."""
        values = self.value(alive)
        middle = float(np.median(values))
        return (float(self.value(unit)) - middle) / max(float(np.median(np.abs(values - middle))), 1e-9)

    def mark(self, units: Ints, low: NDArray[np.bool_]) -> None:
        """Increase the streak of candidates, reset that of others, and reduce rounds of grace."""
        self.streak[units] = np.where(low, self.streak[units] + 1, 0)
        self.grace[units] = np.maximum(self.grace[units] - 1, 0)

    def may_grow(self, now: int) -> bool:
        """True if the last event of the group is at least four rounds ago."""
        return now - max(self.pruned_at, self.grown_at) > 4

    def parents(self, growth: float, random: np.random.Generator) -> list[int]:
        """Units to copy: round(γ·C), γ = growth·0.8^(growths so far), from the best quarter by exp of their score."""
        units = len(self.own)
        number = max(1, round(growth * 0.8**self.growths * units))
        values = self.value(np.arange(units))
        best = np.argsort(-values, kind="stable")[: max(number, -(-units // 4))]
        odds = np.exp(values[best] - values[best].max())
        return sorted(random.choice(best, size=number, replace=False, p=odds / odds.sum()).tolist())

    def take(self, index: Ints) -> Standing:
        """Return the state of these units, in this order."""
        return replace(self, **{name: getattr(self, name)[index] for name in _ARRAYS})

    def grown(self, parents: Sequence[int], now: int) -> Standing:
        """Return the state after copies were inserted right after their originals; copies have five rounds of grace."""
        order = np.sort(np.concatenate([np.arange(len(self.own)), np.asarray(parents, dtype=np.int64)]))
        found = self.take(order)
        copies = np.concatenate([[False], order[1:] == order[:-1]])
        found.grace[copies] = 5
        found.growths, found.grown_at, found.saturated = self.growths + 1, now, 0
        return found
