"""Rounds: one removal target as a sequence of targets (OrthoReg)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from secateurs.errors import InputError


@dataclass(frozen=True)
class ShrinkingRounds:
    """n rounds, the early ones largest: round k removes r_k = p / (k·p + n·(1 − p)) of what is left.

    Source: OrthoReg's published code; Π(1 − r_k) = 1 − p.

    >>> [round(r, 4) for r in ShrinkingRounds(2).of(0.5)]
    [0.3333, 0.25]
    """

    n: int

    def of(self, target: float) -> tuple[float, ...]:
        """Fraction of what is left that each round removes, for `target` removed in all."""
        n = _rounds(self.n)
        return tuple(target / (k * target + n * (1.0 - target)) for k in range(1, n + 1))


@dataclass(frozen=True)
class EqualRounds:
    """n rounds that remove equal absolute amounts: r_k = p / (n − (k − 1)·p), the published order reversed.

    >>> [round(r, 4) for r in EqualRounds(2).of(0.5)]
    [0.25, 0.3333]
    """

    n: int

    def of(self, target: float) -> tuple[float, ...]:
        """Fraction of what is left that each round removes, for `target` removed in all."""
        n = _rounds(self.n)
        return tuple(target / (n - (k - 1) * target) for k in range(1, n + 1))


@dataclass(frozen=True)
class ExplicitRounds:
    """Cumulative shares c_1 < … < c_n = 1 of the target: after round k, c_k·p has been removed.

    >>> [round(r, 4) for r in ExplicitRounds((0.5, 1.0)).of(0.5)]
    [0.25, 0.3333]
    """

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip((0.0, *self.shares), self.shares, strict=False))
        if not self.shares or not rising or self.shares[-1] != 1.0:
            raise InputError(
                f"ExplicitRounds({self.shares}): cumulative shares of the target must rise from above 0 to exactly "
                f"1, "
                "for example (0.5, 1.0)."
            )

    @property
    def n(self) -> int:
        """Number of rounds."""
        return len(self.shares)

    def of(self, target: float) -> tuple[float, ...]:
        """Fraction of what is left that each round removes, for `target` removed in all."""
        done = (0.0, *(share * target for share in self.shares))
        return tuple((b - a) / (1.0 - a) for a, b in itertools.pairwise(done))


Rounds = ShrinkingRounds | EqualRounds | ExplicitRounds


def _rounds(n: int) -> int:
    if not isinstance(n, int) or n < 1:
        raise InputError(f"the number of pruning rounds is {n!r}; it must be a whole number of at least 1.")
    return n
