"""Score the network in its present state, and choose the units to remove for a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secateurs.allocate import Allocator, Budget
from secateurs.allocate.levels import Costed
from secateurs.allocate.subset import Part
from secateurs.criteria import Criterion, score
from secateurs.evidence import observe
from secateurs.graph import Graph
from secateurs.session.run import Run
from secateurs.session.scope import needed_budget, of_origin
from secateurs.types import Scope

Allocate = Callable[[Mapping[str, Tensor], Costed, Budget], Mapping[str, NDArray[np.int64]]]


def scores_now(run: Run, criterion: Criterion) -> dict[str, Tensor]:
    """Score every group by the present weights and the session's data; computed in the first process, sent to all."""

    def found() -> dict[str, Tensor]:
        evidence = observe(run.graph, run.model, criterion, data=run.data, loss=run.loss)
        return {name: values.cpu() for name, values in score(criterion, run.graph.groups, evidence).items()}

    return run.ranks.first(found)


def budget_so_far(run: Run, left: Callable[[float], float] | None) -> Budget:
    """Return the intermediate budget of a run, in absolute numbers.

    left: maps the share p that the final budget removes to the share that remains now; None is the final budget.
    """
    budget, dense, found = needed_budget(run), run.origin.cost(), dict[str, int]()
    for (name, full), target in zip(vars(dense).items(), run.targets.tolist(), strict=True):
        goal = min(target, full)
        if getattr(budget, name) is not None:
            found[name] = goal if left is None else max(2, int(left(1.0 - goal / full) * full))
    if left is None:
        return replace(budget, **found)
    # Fractions of filters refer to the groups in scope, which the allocator knows.
    filters = left(1.0 - budget.filters) if isinstance(budget.filters, float) else budget.filters
    shares = tuple((name, left(1.0 - s) if isinstance(s, float) else s) for name, s in budget.shares)
    return replace(budget, **found, filters=filters, shares=shares)


def surplus(
    run: Run, scores: Mapping[str, Tensor], allocate: Allocate | Allocator, budget: Budget, scope: Scope = "coupled"
) -> dict[str, NDArray[np.int64]]:
    """Return the units (present numbers) that an allocator removes from the present network to meet a budget."""
    living = {name: np.flatnonzero(alive) for name, alive in run.alive.items()}
    inside = list(living) if scope == "coupled" else [group.name for group in run.groups(scope=scope)]
    budget = of_origin(run, budget, inside)
    left: Graph = run.graph.shrink(living)
    of_living = {name: scores[name][units] for name, units in living.items() if name in scores}
    if scope == "coupled":
        keep = allocate(of_living, left, budget)
    else:
        names = {group.name for group in run.groups(scope=scope)}
        part = Part(left, tuple(group for group in left.groups if group.name in names))
        keep = allocate({name: of_living[name] for name in part.names}, part, replace(budget, exclude=()))
    return {name: np.setdiff1d(living[name], living[name][units]) for name, units in keep.items()}
