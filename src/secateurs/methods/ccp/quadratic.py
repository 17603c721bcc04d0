"""Choose which of C coupled channels to remove: a 0-1 quadratic program, relaxed, rounded and polished.

    minimise  f(a) = a'S a - u'a    over  a in {0, 1}^C with sum(a) = m,        a_i = 1: channel i is removed

S is positive semidefinite; its off-diagonal makes it expensive to remove two channels that can replace each other.
Relaxed to 0 <= a <= 1 the problem is convex: accelerated projected gradient (FISTA, Beck and Teboulle 2009, with
O'Donoghue and Candès' restarts), projecting onto the capped simplex exactly by one sort. Rounding alone is weak;
swapping one removed against one kept channel while that lowers f finds the optimum of small problems nearly always.

Everything is float64 on the CPU: C x C matrices are small, and many short steps are quicker there.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


Solver = Literal["relax", "polish"]
"""relax: relax and round, as in Peng et al. 2019 (from memory of the paper, not verified). polish: then swap single
channels while that lowers the objective."""


def objective(s: Array, u: Array, a: Array) -> float:
    """Return f(a) = a'S a - u'a.

    >>> objective(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1.0, 0.0]), np.array([1.0, 1.0]))  # 6 - 1
    5.0
    """
    return float(a @ (s @ a) - u @ a)


def remove(s: Array, u: Array, count: int, *, solver: Solver = "polish") -> NDArray[np.bool_]:
    """Return which channels to remove, exactly `count` of them: bool [C].

    Channels 0 and 1 can replace each other (removing both costs 1 + 1 + 2 * 0.9), so one of them is removed, and
    channel 2:

    >>> s = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.5]])
    >>> remove(s, np.zeros(3), 2)
    array([False,  True,  True])
    """
    size = len(u)
    if count <= 0:
        return np.zeros(size, dtype=bool)
    if count >= size:
        return np.ones(size, dtype=bool)
    out = round_to(relax(s, u, count), count)
    return swap(s, u, out) if solver == "polish" else out


def relax(s: Array, u: Array, count: int, *, steps: int = 500, tolerance: float = 1e-7) -> Array:
    """Minimise f over 0 <= a <= 1, sum(a) = count, until a moves by less than `tolerance` a step.

    >>> relax(np.diag([1.0, 1.0, 2.0]), np.zeros(3), 2).round(3)  # equal slopes 2 a_i S_ii, the third is dearer
    array([0.8, 0.8, 0.4])
    """
    bound = max(_largest_eigenvalue(s), np.finfo(np.float64).tiny)
    a = np.full(len(u), count / len(u))
    ahead, pace = a, 1.0
    for _ in range(steps):
        slope = 2 * (s @ ahead) - u
        moved = project(ahead - slope / (2 * bound), count)
        step = moved - a
        # Restart where the momentum points uphill: the sequence then descends, and converges linearly.
        if (ahead - moved) @ step > 0:
            ahead, pace = a, 1.0
            slope = 2 * (s @ a) - u
            moved = project(a - slope / (2 * bound), count)
            step = moved - a
        next_pace = (1 + np.sqrt(1 + 4 * pace * pace)) / 2
        ahead, a, pace = moved + (pace - 1) / next_pace * step, moved, next_pace
        if np.abs(step).max() < tolerance:
            break
    return a


def _largest_eigenvalue(s: Array) -> float:
    """Return the largest eigenvalue of S, from above by a little: power iteration, never beyond the row-sum bound."""
    x = s @ np.diagonal(s)  # a start that belongs to the channels, not to their order
    ceiling = float(np.abs(s).sum(1).max())
    for _ in range(30):
        norm = float(np.linalg.norm(x))
        if norm == 0:
            return ceiling
        x = s @ (x / norm)
    return min(ceiling, 1.05 * float(np.linalg.norm(x)))


def project(v: Array, count: int) -> Array:
    """Project onto {0 <= a <= 1, sum(a) = count}: a = clip(v - t, 0, 1) with the t that gives the sum.

    The sum falls with t and is linear between the breakpoints v_i - 1, where entry i begins to fall, and v_i, where it
    is zero: one sort of them finds t exactly.

    >>> project(np.array([3.0, 0.5, 0.1]), 2).round(3)  # t = -0.2
    array([1. , 0.7, 0.3])
    """
    size = len(v)
    breaks = np.concatenate((v - 1, v))
    order = breaks.argsort()
    t = breaks[order]
    falling = np.where(order < size, 1.0, -1.0).cumsum()  # number of entries that fall after each breakpoint
    total = np.empty(2 * size)
    total[0] = size
    np.subtract(size, (falling[:-1] * np.diff(t)).cumsum(), out=total[1:])
    last = int(np.searchsorted(-total, -count, side="right")) - 1  # total[last] >= count >= total[last + 1]
    last = min(max(last, 0), len(t) - 2)
    drop = total[last] - total[last + 1]
    shift = t[last] if drop <= 0 else t[last] + (total[last] - count) / drop * (t[last + 1] - t[last])
    return np.clip(v - shift, 0, 1)


def round_to(a: Array, count: int) -> NDArray[np.bool_]:
    """Remove the `count` largest entries; of equal ones the later is removed.

    >>> round_to(np.array([0.5, 0.9, 0.5]), 2)
    array([False,  True,  True])
    """
    out = np.ones(len(a), dtype=bool)
    out[np.argsort(a, kind="stable")[: len(a) - count]] = False
    return out


def swap(s: Array, u: Array, removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Exchange one removed against one kept channel, the best pair first, while that lowers f.

    With h = 2 S a - u, keeping i and removing j instead changes f by  -h_i + S_ii + h_j + S_jj - 2 S_ij.
    """
    removed = removed.copy()
    diagonal = np.diagonal(s)
    h = 2 * (s @ removed) - u
    enough = 1e-12 * max(float(np.abs(diagonal).max()), float(np.abs(u).max()), np.finfo(np.float64).tiny)
    while True:
        out, kept = np.flatnonzero(removed), np.flatnonzero(~removed)
        change = -2 * s[np.ix_(out, kept)]
        change += (diagonal[out] - h[out])[:, None]
        change += diagonal[kept] + h[kept]
        best = int(change.argmin())
        if change.flat[best] >= -enough:
            return removed
        i, j = out[best // len(kept)], kept[best % len(kept)]
        removed[i], removed[j] = False, True
        h += 2 * (s[j] - s[i])


def descent(s: Array, u: Array) -> Array:
    """Return the increase of f as each channel is removed, cheapest first, made non-decreasing.

    Returned by channel. The sum over the m cheapest bounds the least f of m removals from above.

    >>> descent(np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.5]]), np.zeros(3))  # 1 goes once 0 is gone
    array([1. , 2.8, 1.5])
    """
    slope = np.diagonal(s) - u
    prices, highest = np.zeros(len(u)), -np.inf
    left = np.ones(len(u), dtype=bool)
    for _ in range(len(u)):
        cheapest = int(np.where(left, slope, np.inf).argmin())
        highest = max(highest, float(slope[cheapest]))
        prices[cheapest] = highest
        left[cheapest] = False
        slope = slope + 2 * s[cheapest]
    return prices
