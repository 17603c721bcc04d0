"""The rounds of OrthoReg: one removal target as a sequence of targets."""

from __future__ import annotations

import math


def left_after(done: int, rounds: int, target: float) -> float:
    """Return the share left after `done` of n `rounds`, which remove the share p (`target`) in all, early ones most.

    Round k removes r_k = p / (k·p + n·(1 − p)) of the remaining units; Π(1 − r_k) = 1 − p. Source: OrthoReg's published
    code.

    >>> [round(left_after(k, 2, 0.5), 4) for k in (0, 1, 2)]
    [1.0, 0.6667, 0.5]
    """
    fractions = (target / (k * target + rounds * (1.0 - target)) for k in range(1, done + 1))
    return math.prod((1.0 - fraction for fraction in fractions), start=1.0)
