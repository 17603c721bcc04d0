"""The entries of parameters that are never removed, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from secateurs.graph.groups import Protected
from secateurs.graph.label_arrays import chosen, entry_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from secateurs.graph.grouping import Reason, Units

_CONSTANT: Reason = ("it meets fixed entries (padding, constants)", None)


def told(reason: Reason) -> str:
    """Return a reason as a sentence, with operator, module and line."""
    text, op = reason
    return text if op is None else f"{text} at {op.where}"


def make_protected(units: Units, alive: NDArray[np.bool_]) -> tuple[Protected, ...]:
    """Every entry of a parameter that is never removed, with its reason."""
    found = [Protected(n, d, np.arange(s), f"{n} is never used in the forward pass") for n, d, s in units.unused]
    for (name, dim), axis in units.params.items():
        if axis is None:
            reason = units.fixed_because.get((name, dim), ("", None))
            if reason[0]:
                found.append(Protected(name, dim, np.arange(units.shapes[name][dim]), told(reason)))
        elif isinstance(axis, np.ndarray):
            of = units.units(axis)
            of = of[chosen(alive, of)]
            fixed = np.flatnonzero(entry_of(units.group_of, of) < 0)
            otherwise = units.fixed_because.get((name, dim), _CONSTANT)
            by_reason: dict[str, list[int]] = {}
            for k in fixed.tolist():
                by_reason.setdefault(told(units.why.get(int(of[k]), otherwise)), []).append(k)
            found += [Protected(name, dim, np.array(k), reason) for reason, k in by_reason.items()]
    return tuple(found)
