"""Limits of a budget on exact costs, and the messages for those that cannot be met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateurs.allocate.budget import RESOURCES, UNBOUNDED, Budget
from secateurs.allocate.levels import Costed
from secateurs.errors import BudgetError
from secateurs.graph.groups import Cost
from secateurs.types import Ints


@dataclass(frozen=True, eq=False)
class Limits:
    """The most that may remain of (macs, params, memory, filters, peak_memory), and what remains of them."""

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
        peak = UNBOUNDED
        if budget.peak_memory is not None:
            peak = budget.most_peak(int(graph.costs.moments(whole).max(initial=0)))
        return Limits(graph, np.array([*targets, budget.most_filters(graph.groups), peak], np.int64), counted)

    def remains(self, widths: Ints) -> Ints:
        """Return (macs, params, memory, filters, peak_memory) [..., 5] for units kept per group [..., G].

        What is not limited at all is not counted: a peak of 0.
        """
        peak = np.zeros(widths.shape[:-1], np.int64)
        if self.most[-1] < UNBOUNDED:
            peak = self.graph.costs.moments(widths).max(-1, initial=0)
        filters = (widths @ self.counted)[..., None]
        return np.concatenate([self.graph.costs.at(widths), filters, peak[..., None]], axis=-1)

    def exceeded(self, widths: Ints) -> NDArray[np.bool_]:
        """Return which of the five are exceeded."""
        return self.remains(widths) > self.most


_UNITS = {"macs": "MACs", "params": "parameters", "memory": "bytes", "filters": "filters", "peak_memory": "bytes"}


def unreachable(graph: Costed, budget: Budget, smallest: Ints) -> str:
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
        f"Ask for more to remain, or loosen the floors.{_obstacle(graph)}"
    )


def _obstacle(graph: Any) -> str:
    """Return the reason that protects most channels, if the graph has one."""
    found: str = getattr(getattr(graph, "whole", graph), "obstacle", "")
    return f" The largest reason: {found}." if found else ""


def refuse_free(budget: Budget, dense: Cost) -> None:
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
