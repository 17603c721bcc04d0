"""Round widths to multiples at which runtimes are fast, if the budget names none and can still be met."""

from __future__ import annotations

from dataclasses import replace

from secateurs.allocate.alignment import Alignment
from secateurs.allocate.budget import Budget
from secateurs.allocate.levels import Costed
from secateurs.allocate.steps import reachable


def aligned(graph: Costed, budget: Budget) -> tuple[Budget, str]:
    """Return the budget with the width multiples of its device, or of `Alignment()`, and a sentence about it.

    A budget with its own `multiple_of` is returned unchanged, with an empty sentence; so is one that cannot be met on
    these multiples, and one for groups that are all narrower than the smallest multiple.
    """
    grid = Alignment() if budget.device is None else budget.device.grid
    excluded = budget.excluded(graph.groups)
    narrow = all(grid.of(group.units) == 1 for group in graph.groups if group.name not in excluded)
    if budget.multiple_of is not None or narrow:
        return budget, ""
    rounded = replace(budget, multiple_of=grid)
    if not reachable(graph, rounded.exact):
        return budget, f"widths are not rounded: {grid} do not reach this budget."
    return rounded, f"widths are {grid}, which runtimes are fast on; multiple_of=1 turns this off."
