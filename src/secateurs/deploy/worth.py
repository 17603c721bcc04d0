"""The value of the widths of a network for a budget of latency: from scores of units, or from measured losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import numpy as np
from torch import Tensor

from secateurs.allocate import Budget, Ranked, levels
from secateurs.allocate.choice import most_levels, thinned
from secateurs.allocate.exact import Losses, least_loss_per_cost
from secateurs.allocate.levels import Costs
from secateurs.allocate.steps import checked, removal_order
from secateurs.allocate.subset import Part
from secateurs.deploy.latency import elasticities, log_shares
from secateurs.graph import Graph
from secateurs.types import Floats, Ints, Keep

Select = Callable[[Budget], Keep]
"""A function from a budget of exact costs to the units to keep."""


@final
@dataclass(frozen=True, eq=False)
class Worth:
    """Candidate widths of every group, and the value of each.

    allowed: for each group, numbers of units to keep, ascending. values: the same shapes; only differences count.
    orders: for each group, its units in order of removal. levels: function from a budget to all allowed widths of each
    group. select: function from a budget of exact costs to the units to keep. by_value: prefer a higher value to more
    MACs, which is right for measured losses.
    """

    allowed: list[Ints]
    values: list[Floats]
    orders: Mapping[str, Ints]
    levels: Callable[[Budget], list[Ints]]
    select: Select
    by_value: bool

    def of(self, counts: Ints) -> float:
        """Return the value of a network, interpolated between candidate widths.

        >>> Worth([np.array([2, 4])], [np.array([-1.0, 0.0])], {}, list, dict, by_value=True).of(np.array([3]))
        -0.5
        """
        each = zip(counts.tolist(), self.allowed, self.values, strict=True)
        return sum(float(np.interp(count, allowed, values)) for count, allowed, values in each)


def of_scores(graph: Graph, scores: Mapping[str, Tensor], budget: Budget) -> Worth:
    """Return values from scores: `log_shares` of every group, weighted by the elasticity of the MACs."""
    steps = levels(graph, budget.exact)
    allowed = [thinned(counts, most_levels(len(steps))) for counts in steps]
    ranked = checked(scores, graph, steps)
    weights = elasticities(partial(macs_of, graph.costs), graph.widths)
    values = [
        weight * log_shares(ranked[group.name], counts) if group.name in ranked else np.zeros(len(counts))
        for group, counts, weight in zip(graph.groups, allowed, weights.tolist(), strict=True)
    ]
    orders = {name: removal_order(own) for name, own in ranked.items()}
    return Worth(allowed, values, orders, partial(levels, graph), partial(Ranked(), scores, graph), by_value=False)


def of_losses(graph: Graph, losses: Losses, budget: Budget) -> Worth:
    """Return values from losses; groups without losses stay whole."""
    part = Part(graph, tuple(group for group in graph.groups if group.name in losses.lost))

    def steps(limited: Budget) -> list[Ints]:
        own = dict(zip(part.names, levels(part, replace(limited, exclude=())), strict=True))
        return [own.get(group.name, np.array([group.units])) for group in graph.groups]

    def select(limited: Budget) -> Keep:
        return least_loss_per_cost(part, replace(limited, exclude=()), losses)

    most = most_levels(len(part.groups))
    allowed = [thinned(counts, most) for counts in steps(budget.exact)]
    values = [
        -losses.of(group.name, counts) if group.name in losses.lost else np.zeros(len(counts))
        for group, counts in zip(graph.groups, allowed, strict=True)
    ]
    return Worth(allowed, values, losses.orders, steps, select, by_value=True)


def macs_of(costs: Costs, widths: Ints) -> Floats:
    """Return the multiply-accumulates of widths [..., G]."""
    return costs.at(widths)[..., 0].astype(np.float64)
