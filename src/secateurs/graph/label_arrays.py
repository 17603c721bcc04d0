"""All labelled dimensions of a network concatenated, so that NumPy handles them in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secateurs.types import Ints, Mask


def chosen(mask: Mask, of: Ints) -> Mask:
    """Return `mask[unit]` for every entry; entries that belong to no unit (negative) are always kept.

    >>> chosen(np.array([True, False]), np.array([0, 1, -2])).tolist()
    [True, False, True]
    """
    return (of < 0) | mask[np.maximum(of, 0)] if mask.size else np.ones(of.shape, dtype=bool)


def entry_of(table: Ints, index: Ints) -> Ints:
    """Return `table[index]`; negative indices are returned as they are.

    >>> entry_of(np.array([7]), np.array([0, -2])).tolist()
    [7, -2]
    """
    return np.where(index >= 0, table[np.maximum(index, 0)], index) if table.size else index


class Axes:
    """Axes as unit numbers (negative where fixed), concatenated into one array.

    >>> axes = Axes([np.array([0, 1, 2]), np.array([2, -1, 0])])
    >>> everyone, kept = np.ones(3, dtype=bool), np.array([True, True, False])
    >>> [None if index is None else index.tolist() for index in axes.survivors(everyone, kept)]
    [[0, 1], [1, 2]]
    """

    def __init__(self, axes: Sequence[Ints]) -> None:
        """Concatenate the axes."""
        self.count = len(axes)
        self.of = np.concatenate(axes) if axes else np.zeros(0, dtype=np.int64)
        self.owner = np.repeat(np.arange(self.count), [len(a) for a in axes])

    def _living(self, alive: Mask) -> tuple[Ints, Ints, Ints]:
        """Return unit, axis and position of every entry that is still present."""
        of, owner = self.of, self.owner
        if not alive.all():
            living = chosen(alive, of)
            of, owner = of[living], owner[living]
        starts = np.searchsorted(owner, np.arange(self.count))
        return of, owner, np.arange(of.size) - starts[owner]

    def survivors(self, alive: Mask, keep: Mask) -> list[Ints | None]:
        """Return, for each axis, the positions of its present entries that `keep` leaves, or None if it leaves all."""
        of, owner, place = self._living(alive)
        stays = chosen(keep, of)
        before = np.bincount(owner, minlength=self.count)
        after = np.bincount(owner[stays], minlength=self.count)
        pieces = np.split(place[stays], np.cumsum(after)[:-1]) if self.count else []
        return [
            None if was == now else piece
            for piece, was, now in zip(pieces, before.tolist(), after.tolist(), strict=True)
        ]

    def members(self, alive: Mask, group_of: Ints, order: Ints) -> list[dict[int, Ints]]:
        """Return, for each axis, group -> positions of each of its units among the present entries, [units, m].

        `order`: all units that are in a group, sorted by group and by their rank in it.
        """
        found: list[dict[int, Ints]] = [{} for _ in range(self.count)]
        if not order.size:
            return found
        of, owner, place = self._living(alive)
        ours = np.flatnonzero(of >= 0)
        ours = ours[group_of[of[ours]] >= 0]
        rank = np.empty(group_of.size, dtype=np.int64)
        rank[order] = np.arange(order.size)
        ours = ours[np.argsort(owner[ours] * max(order.size, 1) + rank[of[ours]], kind="stable")]
        group, owner, place = group_of[of[ours]], owner[ours], place[ours]
        if not ours.size:
            return found
        units = np.bincount(group_of[order[alive[order]]])
        edges = np.flatnonzero(np.diff(group) | np.diff(owner)) + 1
        first = np.concatenate([[0], edges])
        for piece, g, k in zip(np.split(place, edges), group[first].tolist(), owner[first].tolist(), strict=True):
            found[k][g] = piece.reshape(units[g], -1)
        return found
