"""Remove units in one order over the whole network until the budget is met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.allocate.budget import Budget
from secateurs.allocate.levels import Costed, Costs, Tied, levels
from secateurs.allocate.limits import Limits, refuse_free, unreachable
from secateurs.errors import BudgetError, InputError, near
from secateurs.graph.groups import Cost, Group
from secateurs.types import Floats, Ints, Keep


@dataclass(frozen=True, eq=False)
class Steps:
    """All reductions between levels: step i takes group `group[i]` from `above[i]` units to `below[i]`.

    Steps are listed group by group, each from its highest level, `top[group]`, to its lowest. Tied groups step
    together: only the first of them (the leader) is listed; `followers` has (group, leader, units lost per unit of it).
    """

    top: Ints
    group: Ints
    above: Ints
    below: Ints
    followers: tuple[tuple[int, int, Fraction], ...] = ()

    @staticmethod
    def of(allowed: list[Ints], ties: Iterable[Tied] = ()) -> Steps:
        """List the steps between the levels of each group.

        >>> steps = Steps.of([np.array([1, 2, 4]), np.array([3])])
        >>> steps.group.tolist(), steps.above.tolist(), steps.below.tolist()
        ([0, 0], [4, 2], [2, 1])
        >>> steps = Steps.of([np.array([1, 2]), np.array([2, 4])], [Tied((0, 1), (1, 2), partial=False)])
        >>> steps.group.tolist(), steps.widths(np.array([0])).tolist()
        ([0], [1, 2])
        """
        top = np.array([counts[-1] for counts in allowed], np.int64)
        followers = tuple(
            (g, tied.groups[0], Fraction(n, tied.step[0]))
            for tied in ties
            for g, n in zip(tied.groups[1:], tied.step[1:], strict=True)
        )
        led = {g for g, _, _ in followers}
        own = [counts[-1:] if g in led else counts for g, counts in enumerate(allowed)]
        group = np.repeat(np.arange(len(own)), [len(counts) - 1 for counts in own])
        empty = [np.zeros(0, np.int64)]
        above = np.concatenate([counts[:0:-1] for counts in own] or empty)
        below = np.concatenate([counts[-2::-1] if len(counts) > 1 else counts[:0] for counts in own] or empty)
        return Steps(top, group.astype(np.int64), above, below, followers)

    def widths(self, taken: Ints) -> Ints:
        """Return the units kept per group after some steps (each group's from the top)."""
        lowest = self.top.copy()
        # A group's steps are taken in order, so the last one taken leaves the least.
        np.minimum.at(lowest, self.group[taken], self.below[taken])
        for g, leader, more in self.followers:
            lowest[g] = self.top[g] - (self.top[leader] - lowest[leader]) * more.numerator // more.denominator
        return lowest

    def order(self, keys: Floats, units: Ints) -> Ints:
        """Sort the steps by key; among equal keys, the one of the group with the largest remaining share comes first.

        With equal scores, all groups then shrink evenly. Remaining ties are in group order. Keys must be
        non-decreasing within a group.
        """
        share = (self.above + self.below) / (2 * units[self.group])
        return np.lexsort((self.group, -share, keys))

    def under_peak(self, costs: Costs, order: Ints, most: int) -> NDArray[np.bool_]:
        """Return a mask of the steps, in the given order, that keep the peak of activation memory below `most` bytes.

        While the peak exceeds the limit, the moment of the peak is brought below it by the fewest steps, in the given
        order, among the groups with activations alive at that moment; removing other units would not lower it. Takes
        O(log steps) evaluations for each moment above the limit. The smallest widths must meet the limit.
        """
        taken = np.zeros(len(order), dtype=bool)
        whole = costs.moments(self.top)
        least = {int(g): costs.moments(self.widths(order[self.group[order] == g])) for g in np.unique(self.group)}
        while (alive := costs.moments(self.widths(order[taken]))).max(initial=0) > most:
            worst = int(alive.argmax())
            matter = [g for g, lowest in least.items() if lowest[worst] < whole[worst]]
            places = np.flatnonzero(np.isin(self.group[order], matter) & ~taken)
            low, high = 0, len(places)
            while high - low > 1:
                middle = (low + high) // 2
                tried = self.widths(np.concatenate([order[taken], order[places[:middle]]]))
                low, high = (middle, high) if costs.moments(tried)[worst] > most else (low, middle)
            taken[places[:high]] = True
        return taken


def meet(graph: Costed, budget: Budget, keys: Mapping[str, Floats] | None, allowed: list[Ints]) -> Ints:
    """Return the units to keep per group: as few steps in key order as meet the budget.

    keys: for each group, one number a step, from whole to floor, non-decreasing (of tied groups, those of the first);
    None makes all equal. The result meets every constraint, and without its last step breaks one; the units kept under
    a smaller budget are a subset of those kept under a larger one. Takes O(log steps) evaluations of the cost. Steps
    that a limit on peak memory needs come first (`Steps.under_peak`).
    """
    whole = np.array([group.units for group in graph.groups], np.int64)
    dense = Cost(*graph.costs.at(whole).tolist())
    refuse_free(budget, dense)
    limits = Limits.of(graph, budget)
    over = limits.exceeded
    # With rounded widths, the highest level may lie below the whole; that alone must not remove units.
    top = np.array([counts[-1] for counts in allowed], np.int64) if budget.shares else whole
    if not over(top).any():
        return top
    steps = Steps.of(allowed, [Tied.of(tie, graph) for tie in graph.ties])
    flat = np.zeros(len(steps.group))
    if keys:
        led = {g for g, _, _ in steps.followers}
        flat = np.concatenate(
            [keys[group.name] for g, group in enumerate(graph.groups) if group.name in keys and g not in led]
        )
    order = steps.order(flat, whole)
    low, high = -1, len(order)  # the smallest network is `high`; after `low` steps the budget is broken
    smallest = steps.widths(order)
    if over(smallest).any():
        raise BudgetError(unreachable(graph, budget, smallest))
    if budget.peak_memory is not None:
        first = steps.under_peak(graph.costs, order, int(limits.most[-1]))
        order, low = np.concatenate([order[first], order[~first]]), int(first.sum()) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if over(steps.widths(order[:middle])).any():
            low = middle
        else:
            high = middle
    return steps.widths(order[:high])


def reachable(graph: Costed, budget: Budget) -> bool:
    """True if the smallest widths that the levels of a budget allow meet its constraints."""
    whole = np.array([group.units for group in graph.groups], np.int64)
    lowest = np.array([counts[0] for counts in levels(graph, budget)], np.int64)
    over = Limits.of(graph, budget).exceeded
    return not over(whole).any() or not over(lowest).any()


def removal_order(scores: Floats) -> Ints:
    """Return the units in order of removal: lowest score first; of equal scores, the higher index first.

    >>> removal_order(np.array([0.5, 0.1, 0.5, 0.9])).tolist()
    [1, 2, 0, 3]
    """
    return np.lexsort((-np.arange(len(scores)), scores))


def kept(graph: Costed, orders: Mapping[str, Ints], widths: Ints) -> Keep:
    """Return the units that stay: the last so many of each group's removal order, ascending."""
    chosen = zip(graph.groups, widths.tolist(), strict=True)
    return {
        group.name: np.arange(width, dtype=np.int64)
        if width == group.units
        else np.sort(orders[group.name][group.units - width :])
        for group, width in chosen
    }


def checked(scores: Mapping[str, Tensor], graph: Costed, allowed: list[Ints]) -> dict[str, Floats]:
    """Return scores as float64 arrays; every group that may lose a unit needs a finite one for each."""
    groups: dict[str, Group] = {group.name: group for group in graph.groups}
    for name in scores:
        if name not in groups:
            msg = f"there are scores for {name!r}, which is no group of the graph: {near(name, groups)}"
            raise InputError(msg)
    for group, counts in zip(graph.groups, allowed, strict=True):
        if len(counts) > 1 and group.name not in scores:
            msg = f"group {group.name!r} has no scores. It may lose units. Score it, or exclude it from the budget."
            raise InputError(msg)
    return {name: _finite(name, values, groups[name].units) for name, values in scores.items()}


def _finite(name: str, values: Tensor, units: int) -> Floats:
    array = torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()
    if array.shape != (units,):
        msg = f"the scores of group {name!r} have shape {array.shape}. It has {units} units. Give one score a unit."
        raise InputError(msg)
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        msg = (
            f"group {name!r}, unit {bad[0]} has the score {array[bad[0]]} ({bad.size} of {units} are not finite). "
            "No order follows from it. Check the weights and the data that it was computed from."
        )
        raise InputError(msg)
    return array
