"""Choices made group by group, made to hold the ties in count between groups."""

from __future__ import annotations

import numpy as np

from secateurs.allocate.levels import Costed
from secateurs.types import Keep, Picked


def agreed(graph: Costed, keep: Picked) -> Keep:
    """Let tied groups lose only as many units as all of them would: of what else would go, the first units stay.

    A method that decides for each layer on its own knows nothing of ties; an allocator does, and needs no such help.
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
