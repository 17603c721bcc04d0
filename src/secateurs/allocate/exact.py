"""Exact choice of the widths with the least loss within a budget, from the loss at every width of every group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from secateurs.allocate.budget import LIMITED, Budget
from secateurs.allocate.levels import Costed, Tied, levels
from secateurs.allocate.limits import Limits
from secateurs.allocate.normalise import AsIs
from secateurs.allocate.ranked import Ranked
from secateurs.allocate.steps import kept
from secateurs.types import Floats, Ints, Keep

if TYPE_CHECKING:
    from secateurs.allocate.choice import Function

REFINEMENTS = 4
"""Most further choices, each between the widths around the previous one."""


@final
@dataclass(frozen=True, eq=False)
class Losses:
    """The loss of a network as a sum over its groups, each a function of its width.

    orders: for each group, its units in order of removal. lost: for each group, the loss [units + 1] without 0, 1, ...,
    all of its units; it starts at 0 and is non-decreasing.
    """

    orders: Mapping[str, Ints]
    lost: Mapping[str, Floats]

    def of(self, name: str, counts: Ints) -> Floats:
        """Return the loss for units kept of one group.

        >>> losses = Losses({"conv": np.array([1, 0])}, {"conv": np.array([0.0, 0.5, 2.0])})
        >>> losses.of("conv", np.array([1, 2])).tolist()
        [0.5, 0.0]
        """
        curve = self.lost[name]
        return curve[len(curve) - 1 - counts]

    def total(self, graph: Costed, widths: Ints) -> float:
        """Return the sum over all groups, for units kept per group."""
        return sum(
            float(self.of(group.name, np.array([width]))[0])
            for group, width in zip(graph.groups, widths.tolist(), strict=True)
        )


def least_loss(graph: Costed, budget: Budget, losses: Losses) -> Keep:
    """Return the units to keep at the widths with the least total loss within the budget.

        minimise Σ_g lost_g(w_g)   subject to   cost(w) ≤ budget

    The cost is exact: a layer that reads one group and writes another depends on both. The integer program chooses
    between at most 32 widths of a group (fewer in networks of many groups), then between the widths around its choice,
    until no width lies between. If greedy removal by loss per saved cost has a lower loss, which is possible within the
    solver's tolerance of 0.1 %, its widths are returned.

    Raises BudgetError if the smallest widths exceed the budget.
    """
    from secateurs.allocate.choice import choose, most_levels, thinned  # SciPy's solver, which not every program needs

    greedy = least_loss_per_cost(graph, budget, losses)
    allowed = levels(graph, budget)
    best = _counts(graph, greedy)
    limits, over = within(graph, budget), Limits.of(graph, budget).exceeded
    if not limits:
        return greedy
    whole = np.array([group.units for group in graph.groups], np.int64)
    ties = [Tied.of(tie, graph).groups for tie in graph.ties]
    most = most_levels(len(allowed))
    offered = [thinned(counts, most) for counts in allowed]
    for _ in range(1 + REFINEMENTS):
        values = [-losses.of(group.name, counts) for group, counts in zip(graph.groups, offered, strict=True)]
        found = choose(values, offered, whole, limits, ties)
        if found is None:
            break
        if losses.total(graph, found.widths) < losses.total(graph, best) and not over(found.widths).any():
            best = found.widths
        finer = [_around(*at, most) for at in zip(allowed, offered, found.widths.tolist(), strict=True)]
        if all(np.array_equal(new, old) for new, old in zip(finer, offered, strict=True)):
            break
        offered = finer
    return kept(graph, losses.orders, best)


def least_loss_per_cost(graph: Costed, budget: Budget, losses: Losses) -> Keep:
    """Return the units to keep after greedy removal by loss per saved cost, until the budget is met.

    Losses are replaced by their convex hulls first, so that the loss per removed unit is non-decreasing.
    """
    scores = {
        name: torch.from_numpy(convex(losses.lost[name])[np.argsort(order)]) for name, order in losses.orders.items()
    }
    return kept(graph, losses.orders, _counts(graph, Ranked(AsIs(), per_cost=True)(scores, graph, budget)))


def within(graph: Costed, budget: Budget) -> list[tuple[Function, float]]:
    """Return the exact costs that a budget limits, each a function of widths, and the most of it."""
    limits = Limits.of(graph, budget)
    *summed, peak = limits.most.tolist()
    found: list[tuple[Function, float]] = [
        (partial(_remains, limits, place), float(most))
        for place, most in enumerate(summed)
        if getattr(budget, LIMITED[place]) is not None
    ]
    whole = graph.costs.moments(np.array([group.units for group in graph.groups], np.int64))
    crowded = np.flatnonzero(whole > peak).tolist()
    return found + [(partial(_alive, graph, moment), float(peak)) for moment in crowded]


def convex(losses: Floats) -> Floats:
    """Return the steps of the largest convex curve below cumulative losses [0, ..., units]: they never fall.

    >>> convex(np.array([0.0, 3.0, 4.0, 9.0])).tolist()  # through (0, 0), (2, 4), (3, 9)
    [2.0, 2.0, 5.0]
    """
    corners: list[int] = []
    for k in range(len(losses)):
        while len(corners) > 1:
            a, b = corners[-2:]
            if (losses[b] - losses[a]) * (k - a) < (losses[k] - losses[a]) * (b - a):
                break
            corners.pop()
        corners.append(k)
    return np.diff(np.interp(np.arange(len(losses)), corners, losses[corners]))


def _around(counts: Ints, offered: Ints, chosen: int, most: int) -> Ints:
    """Return widths between the offered neighbours of the chosen width, at most so many besides the chosen one.

    >>> _around(np.arange(1, 33), np.array([1, 11, 21, 32]), 21, 4).tolist()
    [11, 18, 21, 25, 32]
    """
    from secateurs.allocate.choice import thinned

    at = int(np.searchsorted(offered, chosen))
    low, high = offered[max(0, at - 1)], offered[min(len(offered) - 1, at + 1)]
    near = counts[(counts >= low) & (counts <= high)]
    return np.union1d(thinned(near, most), [chosen])


def _alive(graph: Costed, moment: int, widths: Ints) -> Floats:
    return graph.costs.moments(widths)[..., moment].astype(np.float64)


def _remains(limits: Limits, place: int, widths: Ints) -> Floats:
    return limits.remains(widths)[..., place].astype(np.float64)


def _counts(graph: Costed, keep: Keep) -> Ints:
    """Units kept per group."""
    return np.array([len(keep[group.name]) for group in graph.groups], np.int64)
