"""Remove units in one order over the whole network until the budget is met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateurs.allocate.budget import RESOURCES, Budget
from secateurs.allocate.levels import Costed, Tied, levels
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


def meet(graph: Costed, budget: Budget, keys: Mapping[str, Floats] | None, allowed: list[Ints]) -> Ints:
    """Return the units to keep per group: as few steps in key order as meet the budget.

    keys: for each group, one number a step, from whole to floor, non-decreasing (of tied groups, those of the first);
    None makes all equal. The result meets every constraint, and without its last step breaks one; the units kept under
    a smaller budget are a subset of those kept under a larger one. Takes O(log steps) evaluations of the cost.
    """
    whole = np.array([group.units for group in graph.groups], np.int64)
    dense = Cost(*graph.costs.at(whole).tolist())
    _refuse_free(budget, dense)
    over = Limits.of(graph, budget).exceeded
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
        raise BudgetError(_unreachable(graph, budget, smallest) + _obstacle(graph))
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


@dataclass(frozen=True, eq=False)
class Limits:
    """The most that may remain of (macs, params, memory, filters) in a network, and what remains of them."""

    graph: Costed
    most: Ints
    counted: Ints
    """1 for groups whose units count as filters, 0 for those that are excluded."""

    @staticmethod
    def of(graph: Costed, budget: Budget) -> Limits:
        """Read a budget for a network."""
        whole = np.array([group.units for group in graph.groups], np.int64)
        targets = budget.targets(Cost(*graph.costs.at(whole).tolist()))
        excluded = budget.excluded(graph.groups)
        counted = np.array([group.name not in excluded for group in graph.groups], np.int64)
        return Limits(graph, np.append(targets, budget.most_filters(graph.groups)), counted)

    def remains(self, widths: Ints) -> Ints:
        """Return (macs, params, memory, filters) [..., 4] for units kept per group [..., G]."""
        return np.concatenate([self.graph.costs.at(widths), (widths @ self.counted)[..., None]], axis=-1)

    def exceeded(self, widths: Ints) -> NDArray[np.bool_]:
        """Return which of the four are exceeded."""
        return self.remains(widths) > self.most


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


_UNITS = {"macs": "MACs", "params": "parameters", "memory": "bytes", "filters": "filters"}


def _unreachable(graph: Costed, budget: Budget, smallest: Ints) -> str:
    """Return a message that names the constraint that cannot be met, and the smallest network possible."""
    limits = Limits.of(graph, budget)
    whole = limits.remains(np.array([group.units for group in graph.groups], np.int64))
    floors = [f"min_keep={budget.min_keep}"]
    floors += [f"min_keep_fraction={budget.min_keep_fraction}"] if budget.min_keep_fraction else []
    floors += [f"multiple_of={budget.multiple_of}"] if budget.multiple_of not in (None, 1) else []
    floors += [f"exclude={budget.exclude}"] if budget.exclude else []
    floors += [f"shares={budget.shares}"] if budget.shares else []
    facts = [
        f"{name}={getattr(budget, name)} asks for {_amount(target)} {_UNITS[name]}; the smallest network with "
        f"{', '.join(floors)} has {_amount(least)} ({100 * least / full:.1f} %)"
        for name, target, least, full in zip(
            _UNITS, limits.most.tolist(), limits.remains(smallest).tolist(), whole.tolist(), strict=True
        )
        if least > target
    ]
    return (
        f"{'; '.join(facts)}. What is protected or excluded, and the floors, cost that much. "
        "Ask for more to remain, or loosen the floors."
    )


def _obstacle(graph: Any) -> str:
    """Return the reason that protects most channels, if the graph has one."""
    found: str = getattr(getattr(graph, "whole", graph), "obstacle", "")
    return f" The largest reason: {found}." if found else ""


def _refuse_free(budget: Budget, dense: Cost) -> None:
    """Refuse a fraction of a cost that is 0 in the dense network, since any plan would meet it."""
    for name in RESOURCES:
        if getattr(budget, name) is not None and getattr(dense, name) == 0:
            msg = (
                f"{name}={getattr(budget, name)} asks for a part of nothing: on its example inputs the network costs 0 "
                f"{_UNITS[name]}. No operator that costs any was seen in its forward. "
                "Check that the example inputs reach its layers, or give another constraint."
            )
            raise BudgetError(msg)


def _amount(count: int) -> str:
    """Write a count briefly.

    >>> _amount(950), _amount(3_444_000), _amount(15_300_000_000)
    ('950', '3.44M', '15.3G')
    """
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
