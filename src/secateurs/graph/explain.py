"""Explain: which other channels go with some channels, operator by operator; or what keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.errors import InputError, expect
from secateurs.graph.asked import asked_of
from secateurs.graph.explanation import Explanation, InStep, Kept, Piece, Place, Step
from secateurs.graph.graph import Graph
from secateurs.graph.label_arrays import chosen
from secateurs.graph.meetings import Meetings
from secateurs.graph.protections import told
from secateurs.graph.ties import lost

if TYPE_CHECKING:
    from secateurs.graph.grouping import Units
    from secateurs.graph.recorder import Op
    from secateurs.types import Ints, Mask

Asked = str | Mapping[str, int | Iterable[int]]
"""A name, for all of its channels, or names with the channels that would be removed."""


def explain(graph: Graph, what: Asked) -> Explanation:
    """Say which other channels go if exactly these are removed, step by step, or what keeps them from being removed.

    Nothing is run and nothing is changed: the answer is read off the graph. The steps follow the labels: each names the
    operator, the module and the line of your code at which the entries of one tensor are bound to those before them.

    Args:
        graph: what `trace` returned, or what a plan left of it (`graph.shrink`).
        what: the name of a module (its output channels are meant), of a tensor, or of a group, for all of its channels;
            or names with indices: `{"layer1.0.conv1": [3, 5]}`.

    Raises: InputError for a name that is neither, and for an index outside of it.

    >>> import torch
    >>> from torch import nn
    >>> from secateurs import trace
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = trace(net, torch.zeros(1, 3, 8, 8))
    >>> answer = explain(graph, {"0": [3, 5]})  # print(answer) gives each step with its operator and line
    >>> [(step.place.operator, str(step.pieces[0])) for step in answer.steps]
    [('aten.convolution.default', '0.bias dim 0: 3, 5'), ('aten.convolution.default', '2.weight dim 1: 3, 5')]
    >>> print(explain(graph, "2"))
    Never removed: 2.weight dim 0: 0-3
         because it is an output of the model
    """
    expect("graph", graph, Graph, "Pass what secateurs.trace returned.")
    if isinstance(what, str):
        what = {what: ()}
    expect("what", what, Mapping, "Pass a name, or a dict of name -> channels.")
    if not what:
        raise InputError("Nothing is asked about: name a module, a tensor or a group.")
    pieces = [piece for name, index in what.items() for piece in asked_of(graph, name, index)]
    return _Answer(graph, pieces).explanation()


class _Answer:
    """One question, as it is answered."""

    def __init__(self, graph: Graph, asked: list[Piece]) -> None:
        self.graph = graph
        self.units, self.alive = graph.inside
        self.asked = asked
        self.axes = living_axes(self.units, self.alive)
        self.order = {id(op): k for k, op in enumerate(op for tape in self.units.tapes for op in tape.ops)}

    def explanation(self) -> Explanation:
        going: list[Ints] = []
        kept: list[Kept] = []
        for piece in self.asked:
            labels = self.axes.get((piece.tensor, piece.dim))
            if labels is None:
                kept.append(Kept(piece, self._fixed(piece)))
                continue
            mine = labels[list(piece.index)]
            free = self._removable(mine)
            going.append(mine[free])
            kept += self._protected(piece, mine, ~free)
        labels = np.unique(np.concatenate(going)) if going else np.zeros(0, dtype=np.int64)
        if not labels.size:
            return Explanation(tuple(self.asked), kept=tuple(kept))
        mask = np.zeros(self.units.group_of.size, dtype=bool)
        mask[self.units.unit_of[labels]] = True
        return Explanation(
            tuple(self.asked),
            tuple(self._steps(labels, mask)),
            self._lost(mask),
            self._numbers(mask),
            tuple(self._tied(mask)),
            tuple(kept),
        )

    def _removable(self, labels: Ints) -> Mask:
        real = labels >= 0
        free = np.zeros(labels.size, dtype=bool)
        free[real] = self.units.group_of[self.units.unit_of[labels[real]]] >= 0
        return free

    # --- what goes ---

    def _steps(self, labels: Ints, mask: Mask) -> list[Step]:
        """First what the asked channels themselves reach, then, from meeting to meeting, what these reach."""
        asked = {(p.tensor, p.dim): set(p.index) for p in self.asked}
        meetings = Meetings(self.units, mask)
        steps = self._carried(labels, asked)
        for wave in meetings.waves(labels):
            own = self._pieces(wave.labels, asked)
            made = [key for key in own if self.units.roles.get(key) == "out"] or list(own)[:1]
            steps.append(Step(place_of(wave.op), tuple(own[key] for key in made), meets=True))
            steps += self._carried(wave.labels, asked, without=set(made))
        return [step for step in steps if step.pieces or step.meets]

    def _carried(
        self, labels: Ints, asked: Mapping[tuple[str, int], set[int]], without: Iterable[tuple[str, int]] = ()
    ) -> list[Step]:
        """The entries with these labels, operator by operator in the order of the forward."""
        found: dict[int, tuple[Op, list[Piece]]] = {}
        for key, piece in self._pieces(labels, asked).items():
            if key not in set(without):
                op = self.units.adopted[key]
                found.setdefault(id(op), (op, []))[1].append(piece)
        ordered = sorted(found.values(), key=lambda pair: self.order.get(id(pair[0]), 0))
        return [Step(place_of(op), tuple(pieces)) for op, pieces in ordered]

    def _pieces(self, labels: Ints, asked: Mapping[tuple[str, int], set[int]]) -> dict[tuple[str, int], Piece]:
        """Find the entries with these labels, without those asked about."""
        found: dict[tuple[str, int], Piece] = {}
        known: dict[int, Ints] = {}
        for key, axis in self.axes.items():
            if id(axis) not in known:
                known[id(axis)] = np.flatnonzero(np.isin(axis, labels))
            index = [i for i in known[id(axis)].tolist() if i not in asked.get(key, ())]
            if index:
                found[key] = Piece(*key, tuple(index))
        return found

    def _lost(self, mask: Mask) -> dict[str, tuple[int, ...]]:
        """Of each group: the numbers of the living units that go."""
        order = self.units.order[self.alive[self.units.order]]
        found: dict[str, list[int]] = {}
        group, rank = -1, 0
        for unit in order.tolist():
            now = int(self.units.group_of[unit])
            group, rank = (now, rank + 1) if now == group else (now, 0)
            if mask[unit]:
                found.setdefault(self.units.names[now], []).append(rank)
        return {name: tuple(of) for name, of in found.items()}

    def _numbers(self, mask: Mask) -> tuple[str, ...]:
        """Attributes that count units which go."""
        found: dict[str, None] = {}
        for follow in self.units.follows:
            of = self.units.units(follow.labels)
            if mask[of[of >= 0]].any():
                found[f"{follow.module}.{follow.attribute}"] = None
        return tuple(found)

    def _tied(self, mask: Mask) -> Iterator[InStep]:
        """Groups that lose units in step, and how many."""
        gone = lost(self.units, self.alive, ~mask)
        for bond in self.units.bonds:
            steps = list(zip(bond.groups, bond.step, strict=True))
            turns = max(-(-int(gone[g]) // n) for g, n in steps)
            more = {self.units.names[g]: left for g, n in steps if (left := turns * n - int(gone[g]))}
            if more:
                yield InStep(more, bond.because)

    # --- what stays ---

    def _fixed(self, piece: Piece) -> str:
        """Return the reason that protects a whole dimension."""
        key = (piece.tensor, piece.dim)
        if key not in self.units.params:
            return f"{piece.tensor} is never used in the forward pass"
        return told(self.units.fixed_because.get(key, ("it meets a dimension of fixed size", None)))

    def _protected(self, piece: Piece, labels: Ints, held: Mask) -> list[Kept]:
        """Split the protected entries of a piece by reason, with the path to the operator that protects them."""
        by_reason: dict[str, list[int]] = {}
        otherwise = self.units.fixed_because.get((piece.tensor, piece.dim), ("it meets fixed entries", None))
        for k in np.flatnonzero(held).tolist():
            unit = int(self.units.unit_of[labels[k]]) if labels[k] >= 0 else -1
            by_reason.setdefault(told(self.units.why.get(unit, otherwise)), []).append(k)
        return [
            Kept(
                Piece(piece.tensor, piece.dim, tuple(piece.index[k] for k in places)),
                reason,
                self._way(labels[places], reason),
            )
            for reason, places in by_reason.items()
        ]

    def _way(self, labels: Ints, reason: str) -> tuple[Step, ...]:
        """From meeting to meeting, to the first labels that were protected for this reason."""
        start = labels[labels >= 0][:1]
        guards = [found for found, why, op in self.units.guarded if told((why, op)) == reason]
        if not start.size or not guards:
            return ()
        mask = np.zeros(self.units.group_of.size, dtype=bool)
        mask[self.units.unit_of[start]] = True
        way = Meetings(self.units, mask).way(start, np.concatenate(guards))
        return tuple(
            Step(place_of(wave.op), tuple(list(self._pieces(wave.labels, {}).values())[:2]), meets=True) for wave in way
        )


def living_axes(units: Units, alive: Mask) -> dict[tuple[str, int], Any]:
    """(tensor, dim) -> the labels of its living entries; equal axes are one object."""
    known: dict[int, Any] = {}
    found: dict[tuple[str, int], Any] = {}
    for key, _ in units.labelled:
        axis = units.params[key]
        if id(axis) not in known:
            known[id(axis)] = axis[chosen(alive, units.units(axis))]
        found[key] = known[id(axis)]
    return found


def place_of(op: Op) -> Place:
    """An operator's place, for people and for files."""
    source = f"{Path(op.code.co_filename).name}:{op.line}" if op.code else ""
    return Place(str(op.func), op.module, source)
