"""Exact choice of one width for every group, by mixed-integer programming (HiGHS through SciPy)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from secateurs.types import Floats, Ints

Function = Callable[[Ints], Floats]
"""A cost of widths: [..., G] -> [...]."""

LEVELS = (8, 32, 240)
"""Numbers of candidate widths: least and most for one group, and most for all groups together."""

SECONDS = 60.0
"""Time limit of the solver; after it, the best choice so far is taken, and its gap reported."""


@final
@dataclass(frozen=True, eq=False)
class Choice:
    """A choice of widths (units to keep per group) with its value; gap: relative distance to the best one."""

    widths: Ints
    value: float
    gap: float


@final
@dataclass(frozen=True, eq=False)
class Pairwise:
    """A cost expanded as constant + Σ terms of one group + Σ terms of two groups.

    The expansion is exact when at most two groups differ from the whole network, and for sums of terms that depend on
    at most two groups each, such as the cost of a convolution.
    """

    constant: float
    single: list[Floats]
    double: Mapping[tuple[int, int], Floats]

    @staticmethod
    def of(function: Function, levels: Sequence[Ints], whole: Ints) -> Pairwise:
        """Expand a function of the widths around the whole network."""
        groups = range(len(levels))
        constant = float(function(whole))
        single = [function(_with(whole, {g: levels[g]})) - constant for g in groups]
        corners = list(combinations(groups, 2))
        low = np.stack([_with(whole, {g: levels[g][:1], h: levels[h][:1]})[0] for g, h in corners] or [whole])
        mixed = function(low) - constant
        double: dict[tuple[int, int], Floats] = {}
        for (g, h), both in zip(corners, mixed.tolist(), strict=False):
            if abs(both - single[g][0] - single[h][0]) > 1e-9 * abs(constant):
                rows, columns = np.meshgrid(levels[g], levels[h], indexing="ij")
                table = function(_with(whole, {g: rows.ravel(), h: columns.ravel()})).reshape(rows.shape) - constant
                double[g, h] = table - single[g][:, None] - single[h][None, :]
        return Pairwise(constant, single, double)


def choose(
    values: Sequence[Floats],
    levels: Sequence[Ints],
    whole: Ints,
    limits: Sequence[tuple[Function, float]],
    ties: Sequence[Sequence[int]] = (),
) -> Choice | None:
    """Choose one level of every group with the largest sum of values, within every limit; None if there is none.

    ties: groups (numbers, of equally many levels) that take the same level.

    Binary variables x[g, l] select one level per group. For every two groups that a cost couples, y[l, m] in [0, 1] has
    the marginals x; at integer x it equals their product (the tight linearisation of McCormick 1976).
    """
    costs = [(Pairwise.of(function, levels, whole), limit) for function, limit in limits]
    pairs = sorted({pair for cost, _ in costs for pair in cost.double})
    starts = np.concatenate([[0], np.cumsum([len(counts) for counts in levels])]).astype(np.int64)
    sizes = [len(levels[g]) * len(levels[h]) for g, h in pairs]
    after = starts[-1] + np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    count = int(after[-1])
    binary = np.zeros(count)
    binary[: starts[-1]] = 1
    objective = np.zeros(count)
    objective[: starts[-1]] = -np.concatenate(values)
    constraints = [_marginals(levels, pairs, starts, after, count), *_same(ties, levels, starts, count)]
    for cost, limit in costs:
        row = np.zeros(count)
        row[: starts[-1]] = np.concatenate(cost.single)
        for place, pair in enumerate(pairs):
            if pair in cost.double:
                row[after[place] : after[place + 1]] = cost.double[pair].ravel()
        scale = max(abs(cost.constant), 1e-30)
        constraints.append(LinearConstraint(row[None, :] / scale, -np.inf, (limit - cost.constant) / scale))
    found = milp(
        objective,
        integrality=binary,
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"time_limit": SECONDS, "mip_rel_gap": 1e-3},
    )
    if found.x is None:
        return None
    picked = [int(np.argmax(found.x[starts[g] : starts[g + 1]])) for g in range(len(levels))]
    widths = np.array([counts[k] for counts, k in zip(levels, picked, strict=True)], np.int64)
    value = float(sum(v[k] for v, k in zip(values, picked, strict=True)))
    return Choice(widths, value, float(found.mip_gap or 0.0))


def most_levels(groups: int) -> int:
    """Return the number of candidate widths per group: fewer in a network of many groups.

    >>> most_levels(5), most_levels(24), most_levels(200)
    (32, 10, 8)
    """
    least, most, all_groups = LEVELS
    return max(least, min(most, all_groups // max(groups, 1)))


def thinned(counts: Ints, most: int) -> Ints:
    """Select at most `most` of the levels, evenly spaced, with the first and the last.

    >>> thinned(np.arange(8, 136, 8), 8).tolist()
    [8, 24, 40, 56, 80, 96, 112, 128]
    """
    if len(counts) <= most:
        return counts
    return counts[np.unique(np.linspace(0, len(counts) - 1, most).round().astype(np.int64))]


def _with(whole: Ints, changed: Mapping[int, Ints]) -> Ints:
    """Return rows of widths, with those of some groups replaced."""
    rows = len(next(iter(changed.values())))
    widths = np.tile(whole, (rows, 1))
    for g, counts in changed.items():
        widths[:, g] = counts
    return widths


def _marginals(
    levels: Sequence[Ints], pairs: Sequence[tuple[int, int]], starts: Ints, after: Ints, count: int
) -> LinearConstraint:
    """Constrain every group to one level, and the marginals of every pair to the levels of its groups."""
    rows: list[int] = []
    columns: list[int] = []
    entries: list[float] = []
    right: list[float] = []

    def add(variables: Ints, *, equal: int | None) -> None:
        row = len(right)
        rows.extend([row] * len(variables))
        columns.extend(variables.tolist())
        entries.extend([1.0] * len(variables))
        if equal is not None:
            rows.append(row)
            columns.append(equal)
            entries.append(-1.0)
        right.append(1.0 if equal is None else 0.0)

    for g in range(len(levels)):
        add(np.arange(starts[g], starts[g + 1]), equal=None)
    for place, (g, h) in enumerate(pairs):
        table = np.arange(after[place], after[place + 1]).reshape(len(levels[g]), len(levels[h]))
        for k, line in enumerate(table):
            add(line, equal=int(starts[g]) + k)
        for k, line in enumerate(table.T):
            add(line, equal=int(starts[h]) + k)
    matrix = coo_array((entries, (rows, columns)), shape=(len(right), count)).tocsr()
    # SciPy annotates bounds as numbers, and takes arrays.
    bound: Any = np.array(right)
    return LinearConstraint(matrix, bound, bound)


def _same(ties: Sequence[Sequence[int]], levels: Sequence[Ints], starts: Ints, count: int) -> list[LinearConstraint]:
    """Constrain tied groups to the same level."""
    pairs = [(tied[0], other, k) for tied in ties for other in tied[1:] for k in range(len(levels[other]))]
    if not pairs:
        return []
    rows = np.arange(len(pairs))
    first, second = (np.array([starts[pair[side]] + pair[2] for pair in pairs]) for side in (0, 1))
    entries = np.concatenate([np.ones(len(pairs)), -np.ones(len(pairs))])
    places = (np.concatenate([rows, rows]), np.concatenate([first, second]))
    return [LinearConstraint(coo_array((entries, places), shape=(len(pairs), count)).tocsr(), 0, 0)]
