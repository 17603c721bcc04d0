"""Uniform: every group keeps the same fraction of its units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from secateurs.allocate.budget import Budget
from secateurs.allocate.levels import Costed, levels
from secateurs.allocate.steps import checked, kept, meet, removal_order
from secateurs.types import Keep


@dataclass(frozen=True)
class Uniform:
    """Keep the same fraction of every group, and inside a group the units with the highest scores.

    As the fraction decreases, the groups lose units one at a time: a group of n units goes from c to c - 1 units at the
    fraction (c - 1/2) / n, so that the nearest whole number is kept. Bisection over these steps finds the first that
    meets the budget, to within one unit. Steps at the same fraction are taken in group order; of equal scores, the unit
    with the higher index is removed first.

    >>> import torch
    >>> from torch import nn
    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> graph = trace(net, torch.zeros(1, 4))
    >>> scores = {"0": torch.tensor([1.0, 2, 3, 4]).double(), "2": torch.ones(4).double()}
    >>> {name: kept.tolist() for name, kept in Uniform()(scores, graph, Budget(filters=4)).items()}  # half of each
    {'0': [2, 3], '2': [0, 1]}
    """

    def __call__(
        self, scores: Mapping[str, Tensor], graph: Costed, budget: Budget, *, floors: Mapping[str, int] | None = None
    ) -> Keep:
        """Return the units that stay in every group; at least floors[name] of those named, the best ones."""
        allowed = levels(graph, budget, floors=floors)
        orders = {name: removal_order(values) for name, values in checked(scores, graph, allowed).items()}
        return kept(graph, orders, meet(graph, budget, None, allowed))
