"""Levels: the numbers of units that a group may keep, from floors, exclusions and multiples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import nn

from secateurs.allocate.budget import Budget
from secateurs.errors import BudgetError
from secateurs.graph.groups import Group, Tie
from secateurs.types import Ints


class Costs(Protocol):
    """Cost as a function of widths."""

    def at(self, widths: Ints, /) -> Ints:
        """Return (macs, params, memory) [..., 3] for units kept per group [..., G]."""
        ...

    def moments(self, widths: Ints, /) -> Ints:
        """Return the bytes of activations alive [..., moments], at each moment before some are freed."""
        ...


class Costed(Protocol):
    """The attributes of a graph that allocators read."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The prunable groups."""
        ...

    @property
    def ties(self) -> tuple[Tie, ...]:
        """Groups that must lose units in a fixed proportion."""
        ...

    @property
    def costs(self) -> Costs:
        """Exact cost of any widths."""
        ...

    @property
    def signature(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape."""
        ...

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The modules of the network, by path."""
        ...


@dataclass(frozen=True)
class Tied:
    """A tie by the numbers of its groups; `partial` if some of them cannot lose units."""

    groups: tuple[int, ...]
    step: tuple[int, ...]
    partial: bool

    @staticmethod
    def of(tie: Tie, graph: Costed) -> Tied:
        """Find the groups."""
        at = {group.name: g for g, group in enumerate(graph.groups)}
        pairs = [(at[name], n) for name, n in zip(tie.groups, tie.step, strict=True) if name in at]
        return Tied(tuple(g for g, _ in pairs), tuple(n for _, n in pairs), len(pairs) < len(tie.groups))

    def agree(self, allowed: list[Ints], units: list[int]) -> None:
        """Keep only the levels that all groups allow after equal numbers of steps."""
        turns: Ints | None = None
        for g, n in zip(self.groups, self.step, strict=True):
            lost = units[g] - allowed[g]
            mine = lost[lost % n == 0] // n
            turns = mine if turns is None else np.intersect1d(turns, mine)
        if turns is not None:
            turns = np.sort(turns)[::-1]
            for g, n in zip(self.groups, self.step, strict=True):
                allowed[g] = units[g] - turns * n


@dataclass(eq=False)
class _Dim:
    """One tensor dimension that groups write: its size, and how many positions a unit of each group owns in it."""

    size: int
    positions: dict[int, int]


def levels(graph: Costed, budget: Budget, *, floors: Mapping[str, int] | None = None) -> list[Ints]:
    """Return, for every group, the numbers of units that it may keep, ascending; the last is the most it may keep.

    Without `multiple_of` these are floor, ..., all; for an excluded group, all. With `multiple_of=k` (an `Alignment`
    has a k of its own for each group), a kept number c is allowed if every dimension with role `out` that the group
    writes gets a width divisible by k: with m positions a unit and P entries that always stay (protected, excluded), P
    + m * c is divisible. A group alone in its dimensions may also stay whole. If several groups share one dimension (a
    split after a fused projection), each rounds its own part, and P counts for the first. A group without an allowed
    number stays whole and is part of P for the others. Dimensions that only read (the input of a later layer, perhaps
    of several groups) are sums of such widths. Tied groups have equally many levels: those that all of them allow after
    equal numbers of steps; if one is excluded, all stay whole. A group with a share in the budget has one level: the
    largest allowed number within that share.

    floors: group name -> least number of units that stay, where that is more than the budget's own floor. Raises
    RecipeError if a name in `exclude` or `shares` matches no group, BudgetError if a share allows no number.

    >>> import torch
    >>> from torch import nn
    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> graph = trace(net, torch.zeros(1, 4))
    >>> [allowed.tolist() for allowed in levels(graph, Budget(macs=0.5, multiple_of=2))]
    [[2, 4], [2, 4]]
    """
    own = budget.floors(graph)
    least = [max(n, min(g.units, (floors or {}).get(g.name, 0))) for n, g in zip(own, graph.groups, strict=True)]
    multiples = budget.multiples(graph)
    units = [group.units for group in graph.groups]
    ties = [Tied.of(tie, graph) for tie in graph.ties]
    excluded = budget.excluded(graph.groups)
    fixed = {g for g, group in enumerate(graph.groups) if group.name in excluded}
    shared = budget.shared(graph.groups)
    dims: list[list[_Dim]] = [[] for _ in graph.groups]
    for dim in _written(graph):
        for g in dim.positions:
            dims[g].append(dim)
    while True:
        for tied in ties:
            fixed |= set(tied.groups) if fixed & set(tied.groups) or tied.partial else set()
        found = [
            np.array([n], np.int64) if g in fixed else _allowed(g, least[g], multiples[g], dims[g], units, fixed)
            for g, n in enumerate(units)
        ]
        for g, group in enumerate(graph.groups):
            if group.name in shared:
                found[g] = found[g][found[g] <= shared[group.name]][-1:]
        for tied in ties:
            tied.agree(found, units)
        stuck = {g for g, counts in enumerate(found) if not counts.size}
        if not stuck:
            return found
        refused = [group.name for g, group in enumerate(graph.groups) if g in stuck and group.name in shared]
        if refused:
            stuck_at = next(g for g, group in enumerate(graph.groups) if group.name == refused[0])
            msg = (
                f"the share of group {refused[0]!r} leaves {shared[refused[0]]} of its {units[stuck_at]} units, and "
                "what is excluded, tied to it, its floor or the multiples allow no such number. Leave out one of them."
            )
            raise BudgetError(msg)
        # Keeping one group whole changes the sums of the others, so this is done one at a time.
        fixed.add(min(stuck))


def _written(graph: Costed) -> list[_Dim]:
    """Every tensor dimension that some group writes."""
    signature = graph.signature
    dims: dict[tuple[str, int], _Dim] = {}
    for g, group in enumerate(graph.groups):
        for s in group.slices:
            if s.role != "out":
                continue
            shape = signature[s.tensor]
            dim = dims.setdefault((s.tensor, s.dim % len(shape)), _Dim(shape[s.dim], defaultdict(int)))
            dim.positions[g] += s.index.shape[1]
    return list(dims.values())


def _allowed(g: int, least: int, k: int, dims: list[_Dim], all_units: list[int], fixed: set[int]) -> Ints:
    """The numbers of units that a group may keep, given the dimensions that it writes; empty if there is none."""
    units = all_units[g]
    counts = np.arange(least, units + 1, dtype=np.int64)
    if k == 1:
        return counts
    mine = dims or [_Dim(units, {g: 1})]
    fits, alone = np.ones(len(counts), bool), True
    for dim in mine:
        free = sorted(other for other in dim.positions if other not in fixed)
        rest = dim.size - sum(dim.positions[other] * all_units[other] for other in free) if g == free[0] else 0
        fits &= (rest + dim.positions[g] * counts) % k == 0
        alone &= len(free) == 1
    return counts[fits | (alone & (counts == units))]
