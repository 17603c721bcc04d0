"""The units of a method (coupled filters, im2col columns, single weights), and the number of them to remove."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateurs.allocate import Budget, Uniform
from secateurs.allocate.subset import Part
from secateurs.errors import BudgetError, InputError, ScheduleError, near
from secateurs.graph import Group
from secateurs.graph.groups import Role
from secateurs.session.flat_units import Ledger, Rows
from secateurs.session.run import Run
from secateurs.session.schedule import count, count_up
from secateurs.types import Scope

Unit = Literal["filter", "column", "weight"]

Rates = float | Mapping[str, float]
"""`remove=`: the share of its units that every group loses, or that each named group loses (the others lose none).

A name may be a pattern, as of files: "layer1.*.conv1"; of several matching ones, the first is used."""

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a run as one flat vector, with their penalised and measured weights, and numbers to remove.

    unit: "filter", "column" or "weight". rows: entries of tensors that a penalty changes, by unit. measured: entries
    whose norm is the unit's size (mostly the same). counts: number of units that each group loses.
    """

    unit: Unit
    rows: Rows
    measured: Rows
    counts: tuple[int, ...]

    @property
    def ledger(self) -> Ledger:
        """Position of each group's units in a flat vector."""
        return self.measured.ledger

    def relocate(self) -> None:
        """Move to the model's present device."""
        self.measured.relocate()
        self.rows.relocate()

    def picked(self, chosen: Tensor) -> dict[str, NDArray[np.int64]]:
        """Return the numbers of the chosen units, by group; chosen: [units] of booleans."""
        return {name: np.flatnonzero(part.cpu().numpy()) for name, part in self.ledger.split(chosen).items()}

    def remove(self, run: Run, picked: Mapping[str, NDArray[np.int64]], note: str) -> None:
        """Remove units: filters from the network; columns and weights by masks that keep them at zero."""
        if self.unit == "filter":
            run.remove(picked, note)
            return
        masks = {}
        for place in self.measured.places:
            mask = torch.ones(place.size, dtype=torch.bool)
            mask[torch.from_numpy(np.asarray(picked.get(place.tensor, ()), dtype=np.int64))] = False
            masks[place.tensor] = mask.view(place.shape).to(self.measured.device)
        run.hold(masks)
        zeros = sum(len(units) for units in picked.values())
        run.note("zeroed", f"{zeros} {self.unit}s in {len(masks)} tensors ({note}); zeros alone do not run faster")


def find_units(
    run: Run, unit: Unit, scope: Scope, rates: Rates | None, *, up: bool, roles: Sequence[Role] = ("out",)
) -> Units:
    """Find the units and the numbers to remove; `up` rounds a group's share up (GReg, IncReg), else down (SFP).

    roles: penalised entries of a coupled filter; its size is always that of its producing filters.
    """
    rounding = count_up if up else count
    if unit == "filter":
        groups = run.groups(scope=scope)
        measured = run.rows(groups)
        counts = removals(run, groups, rates, rounding=rounding)
        rows = measured if tuple(roles) == ("out",) else run.rows(groups, roles=roles)
        return Units(unit, rows, measured, counts)
    names = layers(run)
    rows = Rows.inside(names, run.parameters, columns=unit == "column")
    shares = share_of_entries(run, rows, rates)
    rounding = rounding if rates is not None else count_up  # a budget has to be met exactly
    counts = tuple(rounding(n, s) for n, s in zip(rows.ledger.sizes, shares, strict=True))
    return Units(unit, rows, rows, counts)


def layers(run: Run) -> tuple[str, ...]:
    """Return the weights of convolutions and linear layers that the budget does not exclude, each once."""
    seen: dict[int, str] = {}
    excluded = () if run.budget is None else run.budget.exclude
    for path, module in run.model.named_modules():
        weight = getattr(module, "weight", None)
        out = any(path == name or path.startswith(f"{name}.") for name in excluded)
        if isinstance(module, _LAYERS) and isinstance(weight, nn.Parameter) and not out:
            seen.setdefault(id(weight), f"{path}.weight" if path else "weight")
    return tuple(seen.values())


def silent_units(run: Run) -> dict[str, NDArray[np.int64]]:
    """Return the units that all layers read with zero weights, and so can be removed; one of each group stays."""
    tensors, found = run.parameters, dict[str, NDArray[np.int64]]()
    for group in run.groups():
        read = [piece for piece in group.slices if piece.role == "in" and piece.tensor in tensors]
        quiet = run.alive[group.name].copy() if read else np.zeros(group.units, dtype=bool)
        for piece in read:
            weight = tensors[piece.tensor].detach()
            used = weight.transpose(0, piece.dim).flatten(1).ne(0).any(dim=1).cpu().numpy()
            quiet &= ~used[piece.index].any(axis=1)
        if quiet.sum() == run.alive[group.name].sum():
            quiet[np.flatnonzero(quiet)[:1]] = False
        found[group.name] = np.flatnonzero(quiet)
    return found


def removals(
    run: Run, groups: Sequence[Group], rates: Rates | None, *, rounding: Callable[[int, float], int]
) -> tuple[int, ...]:
    """Return the number of units that each group loses.

    With explicit rates (the papers' per-layer rates) it is rounding(units, rate), and the budget, if any, must be met.
    Otherwise the same share of every group is removed, found by bisection on the exact cost.
    """
    if rates is None:
        return _by_budget(run, groups)
    found = tuple(rounding(group.units, rate) for group, rate in zip(groups, _rates(groups, rates), strict=True))
    widths = run.widths
    at = {group.name: i for i, group in enumerate(run.graph.groups)}
    for group, lost in zip(groups, found, strict=True):
        widths[at[group.name]] -= lost
    left = run.graph.costs.at(widths)
    if (left > run.targets).any():
        raise BudgetError(
            f"the removal rates leave {left[0]} MACs and {left[1]} parameters, and the budget asks for at most "
            f"{run.targets[0]} and {run.targets[1]}. The two contradict each other. Raise the rates, or leave them out "
            "to have them found from the budget."
        )
    return found


def share_of_entries(run: Run, rows: Rows, rates: Rates | None) -> tuple[float, ...]:
    """Return the removed share of each tensor's columns or weights: explicit, or for the budget's `params`."""
    names = rows.ledger.names
    if rates is not None:
        return named_rates(names, rates)
    budget = run.budget
    if budget is None or budget.params is None or budget.macs is not None or budget.memory is not None:
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


def of_origin(run: Run, budget: Budget, names: Sequence[str]) -> Budget:
    """Return the budget with fractions of filters as numbers, of these groups in the first network."""
    if budget.filters is None and not budget.shares:
        return budget
    out = budget.excluded(run.origin.groups)
    groups = [group for group in run.origin.groups if group.name in set(names) - out]
    free = replace(budget, exclude=())
    filters = None if budget.filters is None else max(2, free.most_filters(groups))
    return replace(budget, filters=filters, shares=tuple(free.shared(groups).items()))


def refuse_filters(budget: Budget | None, method: object) -> None:
    """Refuse a budget of filters for a method that compares costs only."""
    if budget is not None and (budget.filters is not None or budget.shares):
        raise BudgetError(
            f"{type(method).__name__} removes by cost and meets no share of filters. Give macs=, params= or memory=."
        )


def _by_budget(run: Run, groups: Sequence[Group]) -> tuple[int, ...]:
    budget = of_origin(run, needed_budget(run), [group.name for group in groups])
    # Not exclude=outside: a group has the name of a module, which other groups may change as well.
    scores = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in groups}
    keep = Uniform()(scores, Part(run.graph, tuple(groups)), replace(budget, exclude=()))
    return tuple(group.units - len(keep[group.name]) for group in groups)


def needed_budget(run: Run) -> Budget:
    """Return the run's budget; BudgetError if there is none and the method needs one."""
    if run.budget is None:
        raise BudgetError(
            "neither a budget nor removal rates are given, so nothing says how small the network is to be. "
            "Pass a Budget, or the method's remove=."
        )
    return run.budget


def _rates(groups: Sequence[Group], rates: Rates) -> tuple[float, ...]:
    return named_rates([group.name for group in groups], rates)


def named_rates(names: Sequence[str], rates: Rates) -> tuple[float, ...]:
    """Return the removed share of each group or layer; 0 for those that a mapping does not name.

    >>> named_rates(["layer1.0.conv1", "layer1.1.conv1", "head"], {"layer1.*.conv1": 0.5})
    (0.5, 0.5, 0.0)
    """
    if isinstance(rates, Mapping):
        for pattern in rates:
            if not fnmatch.filter(names, pattern):
                raise InputError(f"remove= names {pattern!r}, which is not prunable here: {near(pattern, names)}")
        found = tuple(next((rate for p, rate in rates.items() if fnmatch.fnmatchcase(n, p)), 0.0) for n in names)
    else:
        found = (rates,) * len(names)
    for rate in found:
        if not 0.0 <= rate < 1.0:
            raise InputError(f"remove={rate} is not a removed share. Give a number from 0 to below 1.")
    return found


def check_reach(run: Run, floors: Mapping[str, int]) -> None:
    """Refuse a budget smaller than the network with only `floors` units in each named group."""
    widths = [floors.get(group.name, group.units) for group in run.graph.groups]
    left = run.graph.costs.at(np.array(widths, dtype=np.int64))
    if (left > run.targets).any():
        raise BudgetError(
            f"this method leaves at least 2 units and 5 % of every group, which cost {left[0]} MACs, {left[1]} "
            f"parameters and {left[2]} bytes, and the budget asks for at most {run.targets[0]}, {run.targets[1]} and "
            f"{run.targets[2]}. Ask for more to remain, or use a method without that floor."
        )


def too_short(method: str, needed: int, given: int, because: str) -> ScheduleError:
    """Return the error of a schedule that cannot reach its budget in the given steps."""
    error = ScheduleError(
        f"{method} needs {needed} optimizer steps and the run has {given}: {because}. It would end with the network "
        f"half pruned. Train for at least {needed} steps, or let it be fitted to the run: without strict=True, or by "
        f"{method}().fitted(steps_per_epoch, epochs)."
    )
    error.needed = needed
    return error
