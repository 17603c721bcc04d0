"""Meetings: from which labels to which others one comes, where they met in the forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from secateurs.graph.grouping import Units
    from secateurs.graph.labels import Labels
    from secateurs.graph.recorder import Op
    from secateurs.types import Ints, Mask


class Wave(NamedTuple):
    """Labels that are reached at an operator, and the ones from which."""

    op: Op
    labels: Ints
    before: Ints


class Meetings:
    """All meetings of the labels of some units."""

    def __init__(self, units: Units, mask: Mask) -> None:
        """Only meetings of labels whose unit is in `mask` count."""
        self.size = units.unit_of.size
        self.joins: dict[int, tuple[Op, list[tuple[Labels, Labels]]]] = {}
        for left, right, op in units.joins:
            ours = np.flatnonzero((left >= 0) & (right >= 0))
            ours = ours[mask[units.unit_of[left[ours]]]]
            if ours.size:
                self.joins.setdefault(id(op), (op, []))[1].append((left[ours], right[ours]))

    def waves(self, start: Ints) -> Iterator[Wave]:
        """Yield the labels that are reached, nearest first and each once; what one operator joins comes together."""
        seen = np.zeros(self.size, dtype=bool)
        seen[start] = True
        growing = True
        while growing:
            growing = False
            known = seen.copy()
            for op, pairs in self.joins.values():
                new, before = self._spread(pairs, known)
                fresh = ~seen[new]
                if fresh.any():
                    seen[new] = growing = True
                    yield Wave(op, new[fresh], before[fresh])

    def _spread(self, pairs: list[tuple[Labels, Labels]], known: Mask) -> tuple[Ints, Ints]:
        """All labels that one operator binds to known ones, each once, and from which each was reached."""
        known = known.copy()
        none = np.zeros(0, dtype=np.int64)
        found: list[tuple[Ints, Ints]] = [(none, none)]
        growing = True
        while growing:
            growing = False
            for left, right in pairs:
                new, before = self._beyond(left, right, known)
                if new.size:
                    labels, first = np.unique(new, return_index=True)
                    known[labels] = growing = True
                    found.append((labels, before[first]))
        return np.concatenate([new for new, _ in found]), np.concatenate([before for _, before in found])

    @staticmethod
    def _beyond(left: Labels, right: Labels, known: Mask) -> tuple[Ints, Ints]:
        """The far sides of a meeting of which the near ones are known."""
        forth, back = known[left] & ~known[right], known[right] & ~known[left]
        return np.concatenate([right[forth], left[back]]), np.concatenate([left[forth], right[back]])

    def way(self, start: Ints, ends: Ints) -> list[Wave]:
        """The meetings on the shortest way from some labels to the first of `ends`; empty where they are there."""
        goal = np.zeros(self.size, dtype=bool)
        goal[ends[ends >= 0]] = True
        if goal[start].any():
            return []
        came: dict[int, tuple[Wave, int]] = {}
        for wave in self.waves(start):
            came.update({int(n): (wave, int(b)) for n, b in zip(wave.labels, wave.before, strict=True)})
            reached = wave.labels[goal[wave.labels]]
            if reached.size:
                return _back(came, int(reached[0]))
        return []


def _back(came: dict[int, tuple[Wave, int]], label: int) -> list[Wave]:
    way: list[Wave] = []
    while label in came:
        wave, before = came[label]
        way.append(Wave(wave.op, np.array([label]), np.array([before])))
        label = before
    return way[::-1]
