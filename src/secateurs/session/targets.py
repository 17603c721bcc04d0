"""How many units each group is to lose, from a budget or from explicit rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from secateurs.allocate import Uniform
from secateurs.allocate.part import Part
from secateurs.errors import BudgetError, InputError, near
from secateurs.graph import Group
from secateurs.session.run import Run
from secateurs.session.units import Rows

Rates = float | Mapping[str, float]
"""Removed share of every group, or of named ones."""


def removals(
    run: Run, groups: Sequence[Group], rates: Rates | None, *, rounding: Callable[[int, float], int]
) -> tuple[int, ...]:
    """Units that each group loses.

    With explicit rates (the papers' per-layer rates) these are rounding(units, rate), and the budget, if any, must
    hold afterwards. Otherwise the same share of every group goes, found by bisection on the exact cost.
    """
    if rates is None:
        return _by_budget(run, groups)
    found = tuple(rounding(group.units, rate) for group, rate in zip(groups, _rates(groups, rates), strict=True))
    widths = run.widths
    at = {group.name: i for i, group in enumerate(run.graph.groups)}
    for group, count in zip(groups, found, strict=True):
        widths[at[group.name]] -= count
    left = run.graph.costs.at(widths)
    if (left > run.targets).any():
        raise BudgetError(
            f"the removal rates leave {left[0]} MACs and {left[1]} parameters, and the budget asks for at most "
            f"{run.targets[0]} and {run.targets[1]}. The two contradict each other. Raise the rates, or leave them "
            f"out "
            "to have them found from the budget."
        )
    return found


def share_of_entries(run: Run, rows: Rows, rates: Rates | None) -> tuple[float, ...]:
    """Removed share of each tensor's columns or weights: explicit, or the one that leaves `params` of the budget."""
    names = rows.ledger.names
    if rates is not None:
        return _named_rates(names, rates)
    budget = run.budget
    if budget.params is None or budget.macs is not None or budget.memory is not None:
        raise BudgetError(
            "single weights and columns become zeros inside dense tensors, which saves no MACs and no memory. "
            "Give Budget(params=...) for the parameters that stay non-zero, or the method's remove=, "
            "or prune filters to have a smaller network."
        )
    entries = sum(place.size * place.others for place in rows.places)
    surplus = run.origin.cost().params - int(run.targets[1])
    if surplus >= entries:
        raise BudgetError(
            f"params={budget.params} asks for {surplus} zeros, and the prunable tensors have {entries} entries. "
            "What is excluded, norms and biases cost the rest. Ask for more to remain."
        )
    return (max(0.0, surplus / max(entries, 1)),) * len(names)


def _by_budget(run: Run, groups: Sequence[Group]) -> tuple[int, ...]:
    if not run.bound:
        raise BudgetError(
            "neither a budget nor removal rates are given, so nothing says how small the network is to be. "
            "Pass a Budget, or the method's remove=."
        )
    # Not exclude=outside: the name of a group is that of a module, which groups inside may touch as well.
    scores = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in groups}
    keep = Uniform()(scores, Part(run.graph, tuple(groups)), replace(run.budget, exclude=()))
    return tuple(group.units - len(keep[group.name]) for group in groups)


def _rates(groups: Sequence[Group], rates: Rates) -> tuple[float, ...]:
    return _named_rates([group.name for group in groups], rates)


def _named_rates(names: Sequence[str], rates: Rates) -> tuple[float, ...]:
    if isinstance(rates, Mapping):
        for name in rates:
            if name not in names:
                raise InputError(f"remove= names {name!r}, which is not prunable here: {near(name, names)}")
        found = tuple(rates.get(name, 0.0) for name in names)
    else:
        found = (rates,) * len(names)
    for rate in found:
        if not 0.0 <= rate < 1.0:
            raise InputError(f"remove={rate} is not a removed share. Give a number from 0 to below 1.")
    return found


def check_reach(run: Run, floors: Mapping[str, int]) -> None:
    """Refuse a budget below the network in which every group named in `floors` has only so many units."""
    widths = [floors.get(group.name, group.units) for group in run.graph.groups]
    left = run.graph.costs.at(np.array(widths, dtype=np.int64))
    if run.bound and (left > run.targets).any():
        raise BudgetError(
            f"this method leaves at least 2 units and 5 % of every group, which cost {left[0]} MACs, {left[1]} "
            f"parameters and {left[2]} bytes, and the budget asks for at most {run.targets[0]}, {run.targets[1]} and "
            f"{run.targets[2]}. Ask for more to remain, or use a method without that floor."
        )


class ScheduleError(BudgetError):
    """A schedule that cannot reach its budget in the steps given; `needed` says how many would do."""

    needed: int = 0


def too_short(method: str, needed: int, given: int, because: str) -> ScheduleError:
    """The error of a schedule that cannot reach its budget in the steps given."""
    error = ScheduleError(
        f"{method} needs {needed} optimizer steps and the run has {given}: {because}. It would end with the network "
        f"half pruned. Train for at least {needed} steps, or scale the schedule: {method}().fitted(steps_per_epoch, "
        "epochs)."
    )
    error.needed = needed
    return error
