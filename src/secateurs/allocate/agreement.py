"""Adjust choices made group by group so that groups tied in count lose equally many units."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from secateurs.allocate.levels import Costed
from secateurs.graph.groups import Tie
from secateurs.types import Keep, Picked


def agreed(graph: Costed, keep: Picked) -> Keep:
    """Reduce the removals of tied groups to a number that all of them can lose; the first of the other units are kept.

    Methods that decide for each layer separately ignore ties; allocators respect them, and need no adjustment.
    """
    found = {name: np.asarray(units, dtype=np.int64) for name, units in keep.items()}
    units = {group.name: group.units for group in graph.groups}
    for tie in graph.ties:
        steps = zip(tie.groups, tie.step, strict=True)
        turns = min((units[name] - len(found.get(name, range(units[name])))) // step for name, step in steps)
        for name, lost in tie.lost(turns).items():
            kept = found.get(name, np.arange(units[name]))
            gone = np.setdiff1d(np.arange(units[name]), kept)
            found[name] = np.union1d(kept, gone[: gone.size - lost])
    return found


def parties(ties: Iterable[Tie], names: Collection[str]) -> list[dict[str, int]]:
    """Return sets of groups that lose units together: group -> units that it loses in one step.

    A group that is tied to a group outside `names` is in no set, since it cannot lose a unit.

    >>> parties([Tie(("a", "b"), (1, 4), ""), Tie(("c", "x"), (1, 1), "")], ["a", "b", "c", "d"])
    [{'a': 1, 'b': 4}, {'d': 1}]
    """
    bound = {name: tie for tie in ties for name in tie.groups}
    found: list[dict[str, int]] = []
    for name in names:
        tie = bound.get(name, Tie((name,), (1,), ""))
        if all(other in names for other in tie.groups) and not any(name in party for party in found):
            found.append(tie.lost(1))
    return found


def in_step(ties: Iterable[Tie], picked: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """Cut an order of removal to the number of units that tied groups can lose together.

    >>> in_step([Tie(("a", "b"), (1, 2), "")], {"a": [5, 3], "b": [0, 7, 2], "c": [1]})
    {'a': [5], 'b': [0, 7], 'c': [1]}
    """
    found = {name: [int(u) for u in units] for name, units in picked.items()}
    for tie in ties:
        each = list(zip(tie.groups, tie.step, strict=True))
        steps = min(len(found.get(name, ())) // count for name, count in each)
        found |= {name: found[name][: steps * count] for name, count in each if name in found}
    return {name: units for name, units in found.items() if units}
