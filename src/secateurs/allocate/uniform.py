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

    Lowering one scalar, the fraction kept, makes the groups step down one at a time (a group of n units steps from c
    to c - 1 as the fraction passes (c - 1/2) / n: the nearest whole number is kept). Bisection over that sequence of
    steps finds the first that meets the budget, so it is met to within one unit and not merely to within one fraction.
    Groups whose steps coincide go in group order; of equal scores the higher unit index goes first.
    """

    def __call__(
        self, scores: Mapping[str, Tensor], graph: Costed, budget: Budget, *, floors: Mapping[str, int] | None = None
    ) -> Keep:
        """Return the units that stay in every group; at least floors[name] of those named, the best ones."""
        allowed = levels(graph, budget, floors=floors)
        orders = {name: removal_order(values) for name, values in checked(scores, graph, allowed).items()}
        return kept(graph, orders, meet(graph, budget, None, allowed))
