"""Turn labels that met into units, and units with one footprint into groups and slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.graph.groups import Group, Slice
from secateurs.graph.label_arrays import Axes, entry_of
from secateurs.graph.labels import Fresh
from secateurs.graph.ties import Bond, Conflict, tie

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from secateurs.graph.labels import Equal, Labels
    from secateurs.graph.propagate import Follow, Propagation
    from secateurs.graph.recorder import Op, Tape
    from secateurs.types import Ints

    Reason = tuple[str, Op | None]


@dataclass
class Units:
    """Result of one labelling pass: units, their groups, and the labels of every result of every operator.

    `unit_of[label]`; `group_of[unit]` is -1 for a protected unit; `rank_of[unit]` its number in its group.
    """

    tapes: list[Tape]
    results: list[list[tuple[tuple[Any, ...], ...]]]
    params: dict[tuple[str, int], Any]
    roles: dict[tuple[str, int], str]
    picked: dict[tuple[int, int, str], Any]
    follows: list[Follow]
    unit_of: Ints
    group_of: Ints
    rank_of: Ints
    counts: Ints
    names: list[str]
    inexact: list[tuple[str, ...]]
    why: dict[int, Reason]
    shapes: dict[str, tuple[int, ...]]
    refused: dict[Any, tuple[Any, ...]]
    sites: dict[Any, Any] = field(default_factory=dict)
    labs: dict[int, Any] = field(default_factory=dict)
    unused: list[tuple[str, int, int]] = field(default_factory=list)
    fixed_because: dict[tuple[str, int], Reason] = field(default_factory=dict)
    equals: list[Equal] = field(default_factory=list)
    joins: list[tuple[Labels, Labels, Op]] = field(default_factory=list)
    """Labels that met, and where."""
    adopted: dict[tuple[str, int], Op] = field(default_factory=dict)
    """Operator at which a dimension of a parameter took its labels."""
    guarded: list[tuple[Labels, str, Op | None]] = field(default_factory=list)
    """Labels that are never removed, why, and where."""
    bonds: list[Bond] = field(default_factory=list)
    conflict: Conflict | None = None
    described: list[Follow] = field(default_factory=list)
    """Integers of modules that equal a width and follow it, although the recorded forward does not count by them."""
    notes: list[str] = field(default_factory=list)
    _units: dict[int, tuple[Labels, Ints]] = field(default_factory=dict)

    @cached_property
    def order(self) -> Ints:
        """All units that are in a group, sorted by group and by their number in it."""
        grouped = np.flatnonzero(self.group_of >= 0)
        return grouped[np.lexsort((self.rank_of[grouped], self.group_of[grouped]))]

    @cached_property
    def members(self) -> list[Ints]:
        """The units of every group, in order."""
        return np.split(self.order, np.cumsum(self.counts)[:-1]) if self.counts.size else []

    @cached_property
    def labelled(self) -> list[tuple[tuple[str, int], int]]:
        """(tensor, dim) of every labelled dimension of a parameter or buffer, and its number among `axes`."""
        return self._labelled[0]

    @cached_property
    def axes(self) -> Axes:
        """The distinct axes of parameters and buffers."""
        return self._labelled[1]

    @cached_property
    def _labelled(self) -> tuple[list[tuple[tuple[str, int], int]], Axes]:
        number: dict[int, int] = {}
        distinct: list[Ints] = []
        found: list[tuple[tuple[str, int], int]] = []
        for key, axis in self.params.items():
            if isinstance(axis, np.ndarray):
                if id(axis) not in number:
                    number[id(axis)] = len(distinct)
                    distinct.append(self.units(axis))
                found.append((key, number[id(axis)]))
        return found, Axes(distinct)

    def settled(self, axis: Any) -> Any:
        """The labels that a dimension of a parameter took, or the axis itself."""
        return self.params.get((axis.name, axis.dim)) if type(axis) is Fresh else axis

    def removable(self, labels: Labels) -> int:
        """Number of entries whose units can be removed."""
        return int((entry_of(self.group_of, self.units(labels)) >= 0).sum())

    @cached_property
    def widths(self) -> set[int]:
        """Sizes of the axes that have removable units."""
        return {axis.size for axis in _arrays(self) if self.removable(axis)}

    def remember(self, labels: Labels, of: Ints) -> None:
        """Cache the units of a label array, by its identity."""
        self._units[id(labels)] = (labels, of)

    def units(self, labels: Labels) -> Ints:
        """The unit of every entry (-1 fixed, -2 anything), cached by identity."""
        known = self._units.get(id(labels))
        if known is None or known[0] is not labels:
            known = self._units[id(labels)] = (labels, entry_of(self.unit_of, labels))
        return known[1]


def gather(
    p: Propagation,
    tapes: list[Tape],
    results: list[list[tuple[tuple[Any, ...], ...]]],
    shapes: dict[str, tuple[int, ...]],
    refused: dict[Any, tuple[Any, ...]],
) -> Units:
    """Turn the labels of a collecting pass into units and groups."""
    unit_of = p.space.components()
    total = int(unit_of.max()) + 1 if unit_of.size else 0
    why = _guarded(p, unit_of)
    if p.left_out:
        _protect_unread(p, tapes, results, unit_of, why)
    free = np.ones(total, dtype=bool)
    free[list(why)] = False
    unused = [(n, d, s) for n, shape in shapes.items() for d, s in enumerate(shape) if s > 1 and (n, d) not in p.params]
    units = Units(
        tapes, results, p.params, p.roles, p.choices.picked, p.follows, unit_of, np.full(total, -1), np.full(total, -1),
        np.zeros(0, dtype=np.int64), [], [], why, shapes, refused, p.choices.sites, p.labs, unused, p.fixed_because,
        p.equals, p.space.joins, p.adopted, p.guarded,
    )  # fmt: skip
    _group(units, free)
    _mark_inexact(units, p.inexact_at)
    units.bonds, units.conflict = tie(units)
    return units


def _guarded(p: Propagation, unit_of: Ints) -> dict[int, Reason]:
    """Unit -> the first reason for which it is never removed."""
    known = np.zeros(int(unit_of.max()) + 1 if unit_of.size else 0, dtype=bool)
    seen: set[int] = set()
    why: dict[int, Reason] = {}
    for labels, reason, op in p.guarded:
        if id(labels) not in seen:
            seen.add(id(labels))
            of = unit_of[labels[labels >= 0]]
            of = of[~known[of]]
            known[of] = True
            why.update(dict.fromkeys(np.unique(of).tolist(), (reason, op)))
    return why


def _protect_unread(
    p: Propagation,
    tapes: list[Tape],
    results: list[list[tuple[tuple[Any, ...], ...]]],
    unit_of: Ints,
    why: dict[int, Reason],
) -> None:
    """Protect entries that were sliced off and reach no result that depends on the input: other inputs may use them.

    A table of positions longer than the example, for one.
    """
    read = np.zeros(unit_of.size, dtype=bool)
    for tape, found in zip(tapes, results, strict=True):
        seen: dict[int, Labels] = {}
        for index, outs in enumerate(found):
            if index not in tape.constant:
                axes = (p.settle(axis) for axes in outs for axis in axes)
                seen |= {id(axis): axis for axis in axes if isinstance(axis, np.ndarray)}
        for axis in seen.values():
            read[unit_of[axis[axis >= 0]]] = True
    for labels, op in p.left_out:
        for unit in np.unique(unit_of[labels[labels >= 0]]).tolist():
            if not read[unit]:
                why.setdefault(unit, ("the example does not read it, another input may: it is left out", op))


def _arrays(units: Units) -> list[Labels]:
    """Every distinct label array that a parameter or a result carries."""
    seen: dict[int, Labels] = {}
    for axis in units.params.values():
        if isinstance(axis, np.ndarray):
            seen[id(axis)] = axis
    for tape in units.results:
        for outs in tape:
            for axes in outs:
                for axis in axes:
                    if isinstance(axis, np.ndarray) and id(axis) not in seen:
                        seen[id(axis)] = axis
    return list(seen.values())


def _group(units: Units, free: NDArray[np.bool_]) -> None:
    """Units with one footprint form a group: the same tensors and dimensions, the same activations, as many entries."""
    total = free.size
    draw = np.random.default_rng(0)
    held_by = [id(axis) for axis in units.params.values() if isinstance(axis, np.ndarray)]
    owners: dict[int, int] = {}
    for owner, mark in zip(held_by, draw.integers(1, 2**63, size=len(held_by)).tolist(), strict=True):
        owners[owner] = owners.get(owner, 0) ^ mark
    arrays = _arrays(units)
    every = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)
    every = entry_of(units.unit_of, every)
    sizes = [a.size for a in arrays]
    for labels, of in zip(arrays, np.split(every, np.cumsum(sizes)[:-1]), strict=False):
        units.remember(labels, of)
    weights = draw.integers(1, 2**63, size=len(arrays), dtype=np.uint64)
    weights = np.array([owners.get(id(a), w) for a, w in zip(arrays, weights.tolist(), strict=True)], dtype=np.uint64)
    real = every >= 0
    mark = np.zeros(total, dtype=np.uint64)
    np.add.at(mark, every[real], np.repeat(weights, sizes)[real])
    held = np.zeros(total, dtype=bool)
    held[every[real & np.repeat(np.array([id(a) in owners for a in arrays], dtype=bool), sizes)]] = True
    ours = np.flatnonzero(free & held)
    _, first, inverse, counts = np.unique(mark[ours], return_index=True, return_inverse=True, return_counts=True)
    alone = counts < 2
    for k in np.flatnonzero(alone).tolist():
        units.why.setdefault(
            int(ours[first[k]]), ("it is the only unit of its kind: the tensor would be empty without it", None)
        )
    order = np.argsort(first, kind="stable")
    order = order[~alone[order]]
    place = np.full(counts.size, -1)
    place[order] = np.arange(order.size)
    units.group_of[ours] = place[inverse]
    ranked = np.argsort(inverse, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]) if counts.size else np.zeros(0, dtype=np.int64)
    rank = np.empty(ours.size, dtype=np.int64)
    rank[ranked] = np.arange(ours.size) - np.repeat(starts, counts)
    units.rank_of[ours] = rank
    units.counts = counts[order].astype(np.int64)


def _mark_inexact(units: Units, found: list[tuple[Labels, Op]]) -> None:
    reasons: list[dict[str, None]] = [{} for _ in units.counts]
    for labels, op in found:
        of = units.units(labels)
        for g in np.unique(units.group_of[of[of >= 0]]).tolist():
            if g >= 0:
                reasons[g][op.where] = None
    units.inexact = [tuple(r) for r in reasons]


def make_groups(units: Units, alive: NDArray[np.bool_]) -> tuple[Group, ...]:
    """The groups of a network of which only the units `alive` remain."""
    slices: list[list[Slice]] = [[] for _ in units.counts]
    members = units.axes.members(alive, units.group_of, units.order)
    for (name, dim), k in units.labelled:
        role: Any = units.roles.get((name, dim), "other")
        for g, index in members[k].items():
            slices[g].append(Slice(name, dim, index, role))
    counts = np.bincount(units.group_of[alive & (units.group_of >= 0)], minlength=units.counts.size)
    if not units.names:
        units.names = _names(slices)
    return tuple(
        Group(units.names[g], int(counts[g]), tuple(slices[g]), not units.inexact[g], units.inexact[g])
        for g in range(units.counts.size)
    )


def _names(slices: list[list[Slice]]) -> list[str]:
    """A group is named after the module that writes its units."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for found in slices:
        first = next((s for s in found if s.role == "out"), found[0])
        module, _, leaf = first.tensor.replace(".parametrizations.", ".").rpartition(".")
        module = module.rpartition(".")[0] if ".parametrizations." in first.tensor else module
        name = module or leaf
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names
