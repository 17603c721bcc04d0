"""Plans that also insert units: copies of present units, with the weights that read them divided among the copies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from secateurs.errors import InputError, PlanError
from secateurs.graph import Graph, Group
from secateurs.graph.integers import held
from secateurs.surgery.plan import Indices, Plan, Setting
from secateurs.types import Ints

Shares = Mapping[str, Sequence[float]]
"""Group -> for each unit of the result, the factor on the weights that read it; 1 for a unit without copies."""


def plan_with_copies(graph: Graph, sources: Mapping[str, Sequence[int]], shares: Shares | None = None) -> Plan:
    """Make a plan from the origin of every unit of the result, ascending.

    sources: group -> unit numbers. A unit listed k times occurs k times in a row, with equal filters; one that is not
    listed is removed; a group that is not named stays. shares: factors of the weights that read each unit; by default
    those of `grow`. Raises InputError for units that do not exist or are out of order, and for groups whose units
    cannot be copied.

    >>> import torch
    >>> from secateurs.graph import trace
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> plan = plan_with_copies(trace(net, torch.zeros(1, 2)), {"0": [0, 2, 2]})
    >>> plan.keep["0"], plan.tensors["2.weight"][1], plan.shares["2.weight"][1]
    ((0, 2, 2), (0, 2, 2), (1.0, 0.4, 0.6))
    """
    whole = Plan.identity(graph)
    keep = {**whole.keep, **{name: _checked(graph.group(name), units) for name, units in sources.items()}}
    unique = {name: tuple(sorted(set(units))) for name, units in keep.items()}
    plan, given = Plan.from_keep(graph, unique), shares or {}
    if unique == keep and all(share == 1.0 for found in given.values() for share in found):
        return plan
    own = {name: _shares(name, units, given.get(name)) for name, units in keep.items()}
    axes: dict[str, dict[int, Axis]] = {}
    for group in graph.groups:
        changed = keep[group.name] != whole.keep[group.name]
        for piece in group.slices if changed else ():
            size = whole.signature[piece.tensor][piece.dim]
            axis = axes.setdefault(piece.tensor, {}).setdefault(piece.dim, Axis(size))
            families = _families(group.units, keep[group.name], own[group.name])
            for unit, family in enumerate(families):
                axis.put(np.sort(piece.index[unit]), family if piece.role == "in" else [1.0] * len(family))
    scaled = {t: {d: a.shares() for d, a in dims.items() if a.shared} for t, dims in axes.items()}
    return Plan(
        keep=keep,
        units=plan.units,
        tensors={tensor: {d: axis.sources() for d, axis in sorted(dims.items())} for tensor, dims in axes.items()},
        aliases=plan.aliases,
        attributes=_attributes(graph, keep, unique),
        signature=plan.signature,
        directions=plan.directions,
        graph=graph,
        shares={tensor: dims for tensor, dims in scaled.items() if dims},
    )


def default_shares(copies: int) -> list[float]:
    """Return the shares of a unit and its copies, 2 : 3 : …: unequal, so that gradients of copies differ.

    >>> default_shares(1)
    [0.4, 0.6]
    """
    weights = np.arange(2, copies + 3)
    return (weights / weights.sum()).tolist() if copies else [1.0]


def unit_shares(graph: Graph, plan: Plan, name: str) -> tuple[float, ...]:
    """Return the share of every kept unit of a group."""
    for piece in graph.group(name).slices:
        found = plan.shares.get(plan.aliases.get(piece.tensor, piece.tensor), {}).get(piece.dim)
        if piece.role == "in" and found is not None:
            kept = plan.dims(piece.tensor)[piece.dim]
            at: dict[int, list[float]] = {}
            for source, share in zip(kept, found, strict=True):
                at.setdefault(source, []).append(share)
            turn = dict.fromkeys(range(len(piece.index)), 0)
            result: list[float] = []
            for unit in plan.keep[name]:
                result.append(at[int(piece.index[unit][0])][turn[unit]])
                turn[unit] += 1
            return tuple(result)
    return (1.0,) * len(plan.keep[name])


def insert(kept: Ints, shares: Sequence[float], parents: Sequence[int]) -> tuple[Ints, list[float]]:
    """Return each unit's origin and share after copies of `parents` (present numbers) were inserted right behind them.

    >>> insert(np.array([0, 4]), [1.0, 1.0], [1])
    (array([0, 4, 4]), [1.0, 0.4, 0.6])
    """
    counts = np.ones(len(kept), dtype=np.int64)
    np.add.at(counts, np.asarray(parents, dtype=np.int64), 1)
    split = [share * part for share, n in zip(shares, counts.tolist(), strict=True) for part in default_shares(n - 1)]
    return np.repeat(kept, counts), split


class Axis:
    """One dimension of one tensor: for every position, the entries of the result that replace it."""

    def __init__(self, size: int) -> None:
        self.after: list[list[tuple[int, float]]] = [[(i, 1.0)] for i in range(size)]
        self.shared = False

    def put(self, positions: Ints, shares: Sequence[float]) -> None:
        """Replace a unit's positions by one copy per share, each run of positions as a whole.

        Without shares the unit is removed.
        """
        self.shared |= any(share != 1.0 for share in shares)
        for run in np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1):
            for position in run.tolist():
                self.after[position] = [(position, share) for share in shares[:1]]
            self.after[int(run[-1])] += [(i, share) for share in shares[1:] for i in run.tolist()]

    def sources(self) -> Indices:
        """The position that each entry of the result comes from."""
        return tuple(i for entries in self.after for i, _ in entries)

    def shares(self) -> tuple[float, ...]:
        """The factor of each entry of the result."""
        return tuple(share for entries in self.after for _, share in entries)


def refuse_copies(group: Group) -> None:
    """Refuse a group whose units cannot be copied without changing outputs."""
    reasons = (
        (not group.exact, f"it is inexact: {'; '.join(group.inexact_because)} would count a copy twice"),
        (all(s.role != "in" for s in group.slices), "no weight reads its units, so none can be shared with a copy"),
        (group.units < 2, "it has a single unit, so the layout of its positions cannot be told"),
    )
    for wrong, reason in reasons:
        if wrong:
            message = f"group {group.name!r} cannot grow: {reason}. The outputs would change. Grow other groups."
            raise InputError(message)


def _checked(group: Group, units: Sequence[int]) -> Indices:
    found = tuple(int(u) for u in units)
    inside = found and found[0] >= 0 and found[-1] < group.units
    if not inside or any(a > b for a, b in pairwise(found)):
        message = (
            f"the units {found[:8]} … of group {group.name!r} are none, out of range, or do not ascend. Name at least "
            f"one, from 0 to {group.units - 1}, in order; one that is named twice is copied."
        )
        raise InputError(message)
    if len(set(found)) < len(found):
        refuse_copies(group)
    return found


def _shares(name: str, units: Indices, given: Sequence[float] | None) -> list[float]:
    """The share of each unit of the result: those given, or those of `grow`."""
    if given is None:
        counts = np.unique(np.asarray(units), return_counts=True)[1].tolist()
        return [share for n in counts for share in default_shares(n - 1)]
    found = [float(share) for share in given]
    if len(found) != len(units) or not all(math.isfinite(share) and 0 < share <= 1 for share in found):
        message = (
            f"the shares of group {name!r} are {found[:4]}…; give one in (0, 1] for each of its {len(units)} units."
        )
        raise InputError(message)
    return found


def _families(count: int, units: Indices, shares: Sequence[float]) -> list[list[float]]:
    """Return, for each unit of the group, the shares of itself and its copies in the result; empty if it is removed."""
    families: list[list[float]] = [[] for _ in range(count)]
    for unit, share in zip(units, shares, strict=True):
        families[unit].append(share)
    return families


def _attributes(graph: Graph, keep: Mapping[str, Indices], unique: Mapping[str, Indices]) -> dict[str, Setting]:
    """Return new attribute values: they are linear in the widths, so that a plan with one unit less gives the slope."""
    everything = {group.name: np.arange(group.units) for group in graph.groups}
    left = {name: np.asarray(units, dtype=np.int64) for name, units in unique.items()}
    whole, grown = graph.attributes(everything), dict(graph.attributes(left))
    for name, units in keep.items():
        added = len(units) - len(unique[name])
        if added:
            for place, less in graph.attributes({**everything, name: everything[name][:-1]}).items():
                base = whole[place] if place in whole else held(graph.modules[place[0]], place[1])  # left out as it is
                grown[place] = _extrapolated(grown.get(place, base), base, less, added)
    return {f"{path}:{name}": value for (path, name), value in grown.items()}


def _extrapolated(grown: Setting, base: Setting, less: Setting, added: int) -> Setting:
    if isinstance(grown, tuple) and isinstance(base, tuple) and isinstance(less, tuple):
        return tuple(g + (b - n) * added for g, b, n in zip(grown, base, less, strict=True))
    if isinstance(grown, int) and isinstance(base, int) and isinstance(less, int):
        return grown + (base - less) * added
    message = f"an attribute is {base!r} now and {less!r} with one unit less. It cannot be grown. Report the model."
    raise PlanError(message)
