"""Find the choice of a rule to revise after a trial failed: the one that explains the failing operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from secateurs.graph.propagate import tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from secateurs.graph.grouping import Units
    from secateurs.graph.labels import Taken


class Blamed(NamedTuple):
    """A choice to revise: the index of its operator, its source line, and the moment at which it was taken."""

    at: int
    place: Any
    taken: Taken


def units_at(units: Units, turn: int, index: int) -> NDArray[np.int64]:
    """The removable units at an operator."""
    op = units.tapes[turn].ops[index]
    found = []
    for t in (*tensors(op.args), *tensors(op.out)):
        lab = units.labs.get(id(t))
        for axis in lab.axes if lab is not None else ():
            labels = units.params.get((axis.name, axis.dim)) if hasattr(axis, "dim") else axis
            if isinstance(labels, np.ndarray):
                of = units.units(labels)
                found.append(of[of >= 0])
    of = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    return of[units.group_of[of] >= 0]


def before(units: Units, guilty: NDArray[np.int64], turn: int, index: int) -> Blamed | None:
    """Return the nearest choice before an operator that concerns these units and has another option left."""
    groups = np.unique(units.group_of[guilty])
    nearest: Blamed | None = None
    for place, site in units.sites.items():
        for taken in site.moments:
            t, i = taken.at
            if t != turn or i > index or taken.left < 2 or (nearest is not None and i <= nearest.at):
                continue
            of = None if taken.labels is None else units.units(taken.labels)
            # the sizes at the operator itself may be those of other units
            if i == index or (guilty.size if of is None else np.isin(units.group_of[of[of >= 0]], groups).any()):
                nearest = Blamed(i, place, taken)
    return nearest


def ahead(units: Units, turn: int, index: int) -> Blamed | None:
    """Return the next later choice in the module that failed: code that checks sizes does so before it uses them."""
    ops = units.tapes[turn].ops
    later = [
        Blamed(taken.at[1], place, taken)
        for place, site in units.sites.items()
        for taken in site.moments
        if taken.left > 1 and taken.labels is not None and taken.at[0] == turn and taken.at[1] > index
    ]
    here = [found for found in later if ops[found.at].module == ops[index].module]
    return min(here, key=lambda found: found.at) if here else None


def miscounted(units: Units, turn: int, index: int) -> Blamed | None:
    """Return the nearest choice that ties an integer of the module, for an operator without units that changed."""
    module = units.tapes[turn].ops[index].module
    following = {f.at for f in units.follows if f.module == module and f.at[0] == turn}
    found = [
        Blamed(taken.at[1], place, taken)
        for place, site in units.sites.items()
        for taken in site.moments
        if taken.at in following and taken.left > 1
    ]
    return min(found, key=lambda one: (one.at > index, abs(one.at - index))) if found else None
