"""What the widths of a network are worth, where they are chosen by time: by scores of units, or by measured losses."""

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
"""The units to keep within exact costs."""


@final
@dataclass(frozen=True, eq=False)
class Worth:
    """The widths that groups may take, and what each is worth.

    allowed: of each group, units that may stay, ascending. values: the same shape; only differences count. orders: of
    each group, its units from the first to go to the last. levels: all widths that a budget allows, of each group.
    select: the units to keep by exact costs alone. by_value: whether a network of more value is better although it has
    fewer MACs: so it is where values are measured losses.
    """

    allowed: list[Ints]
    values: list[Floats]
    orders: Mapping[str, Ints]
    levels: Callable[[Budget], list[Ints]]
    select: Select
    by_value: bool

    def of(self, counts: Ints) -> float:
        """Return the value of a network; widths that are not offered count as those between which they lie.

        >>> Worth([np.array([2, 4])], [np.array([-1.0, 0.0])], {}, list, dict, by_value=True).of(np.array([3]))
        -0.5
        """
        each = zip(counts.tolist(), self.allowed, self.values, strict=True)
        return sum(float(np.interp(count, allowed, values)) for count, allowed, values in each)


def of_scores(graph: Graph, scores: Mapping[str, Tensor], budget: Budget) -> Worth:
    """Value widths by the share of its group's score that stays: `log_shares`, weighted by what a group costs."""
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
    """Value widths by what they were measured to lose; groups that were not measured stay whole."""
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
