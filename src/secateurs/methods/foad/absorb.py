"""Greedy absorption: for every kept unit, the most similar remaining units are removed.

Shapes: C units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def absorb(
    similarity_CC: Array, *, neighbors: int = 1, threshold: float = 0.0, duplicates: float | None = 1e-6
) -> tuple[list[int], list[tuple[int, float]]]:
    """Remove units that are similar to kept ones; return the kept units, and the removed ones with their similarity.

    In index order, every unit not yet removed is kept, and its `neighbors` most similar remaining units are examined
    (kept ones included; of equal ones the lower index first): each that is not kept and has a similarity of at least
    `threshold` is removed. A kept neighbour counts as examined, so that the number of removed units depends on the
    data. With `duplicates`, every remaining unit with a similarity of at least 1 - duplicates is removed first; these
    count as examined. Unit 0 is always kept, and the result depends on the order of the units.

    Shi et al. 2024, published code; the duplicate rule is in an older build of it. `duplicates=None` is the code as
    published, where equal units (such as inactive ones) fill each other's places and stay.

    >>> s = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]])
    >>> absorb(s)
    ([0, 2], [(1, 0.9)])
    """
    count = len(similarity_CC)
    living = np.ones(count, dtype=bool)
    is_kept = np.zeros(count, dtype=bool)
    removed: list[tuple[int, float]] = []
    for unit in range(count):
        if not living[unit]:
            continue
        is_kept[unit] = True
        scores = np.where(living, similarity_CC[unit], 0.0)
        scores[unit] = 0.0
        order = np.argsort(-scores, kind="stable") if neighbors > 1 else np.array([scores.argmax()])
        same = living & ~is_kept & (scores >= 1 - duplicates) if duplicates is not None else np.zeros(count, dtype=bool)
        taken = np.flatnonzero(same)
        ranks = order[len(taken) : neighbors]
        more = [j for j in ranks if living[j] and not is_kept[j] and not same[j] and scores[j] >= threshold]
        for j in (*taken.tolist(), *more):
            living[j] = False
            removed.append((int(j), float(scores[j])))
    return np.flatnonzero(is_kept).tolist(), removed


def absorption_levels(
    similarity_CC: Array, *, neighbors: int = 1, threshold: float = 0.0, duplicates: float | None = 1e-6
) -> Array:
    """Order all units for any budget: the level at which each is absorbed, [C]; larger stays longer.

    `absorb` is repeated on its own survivors until one unit is left. A unit removed in round r = 0, 1, ... has its
    level in (r, r + 1]: the most similar of the round is removed first, duplicates at level 0. The kept sets are
    nested, and the units with a level above 1 are those that `absorb` keeps. If a round removes nothing because of
    `threshold`, it continues without the threshold.

    >>> s = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.1], [0.1, 0.1, 1.0]])
    >>> absorption_levels(s)
    array([3., 1., 2.])
    """
    levels = np.zeros(len(similarity_CC))
    alive = np.arange(len(similarity_CC))
    start = 0
    while len(alive) > 1:
        part = similarity_CC[np.ix_(alive, alive)]
        kept, removed = absorb(part, neighbors=neighbors, threshold=threshold, duplicates=duplicates)
        if not removed:
            threshold, start = 0.0, max(start, 1)
            continue
        free = 1 - duplicates if duplicates is not None else np.inf
        order = sorted(range(len(removed)), key=lambda k: (-removed[k][1], removed[k][0]))
        for rank, k in enumerate(order, start=1):
            unit, score = removed[k]
            levels[alive[unit]] = 0.0 if score >= free else start + rank / len(order)
        alive, start = alive[kept], start + 1
    levels[alive] = max(start, 1) + 1
    return levels
