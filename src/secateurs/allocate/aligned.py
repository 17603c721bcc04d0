"""Round widths to what the runtime is fast on if the budget names no multiple and can still be met."""

from __future__ import annotations

from dataclasses import replace

from secateurs.allocate.alignment import Alignment
from secateurs.allocate.budget import Budget
from secateurs.allocate.levels import Costed
from secateurs.allocate.steps import reachable


def aligned(graph: Costed, budget: Budget) -> tuple[Budget, str]:
    """Give a budget the grid of its device, or `Alignment()`, and a sentence that says so.

    A budget that names its own `multiple_of` stays as it is. So does one that the grid cannot meet, or where every
    group is narrower than the grid.
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
