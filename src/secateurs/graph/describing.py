"""Integers that describe a width without being counted in the recorded forward: a check, another forward, a repr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from secateurs.graph.labels import Follow
from secateurs.graph.propagate import tensors
from secateurs.network import is_torchs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from secateurs.graph.grouping import Units
    from secateurs.graph.labels import Labels
    from secateurs.network import Network

Kind = tuple[type, str]
"""An attribute of a module class: all modules of the class are treated alike."""


class Seen(NamedTuple):
    """An axis at an operator of a module; `made`: the operator cut or regrouped it, so that it needed its size."""

    labels: Labels
    made: bool
    at: tuple[int, int]


def describe(
    units: Units, view: Network, numbers: Callable[[str, str], Any], dropped: Collection[Kind]
) -> tuple[list[Follow], list[str]]:
    """Return the integers that follow a width that they equal, and notes on those that could follow several.

    An integer of a user's module equals the size of axes at operators of this module. Sizes that an operator makes by
    cutting or regrouping come before sizes that only pass through. It follows if all of these axes keep equally many
    entries in every plan. `dropped`: kinds that failed a trial.
    """
    counted = {(f.module, f.attribute) for f in units.follows}
    wanted: dict[str, dict[int, list[str]]] = {}
    used: dict[Kind, list[str]] = {}
    for path, module in view.modules.items():
        for place, value in ({} if is_torchs(type(module)) else numbers(path, "")).items():
            if "[" in place:  # items of containers are windows, strides and lists of widths in no stated order
                continue
            if (type(module), place) in dropped:
                used.setdefault((type(module), place), []).append(path)
            elif (path, place) not in counted:
                wanted.setdefault(path, {}).setdefault(value, []).append(place)
    follows: list[Follow] = []
    vague: dict[Kind, list[str]] = {}
    widths: dict[int, Any] = {}
    for path, sizes in _seen(units, wanted).items():
        for size, axes in sizes.items():
            free = {w: axis for axis in axes if (w := _width(units, axis.labels, widths)) is not None}
            made = {w: axis for axis in axes if axis.made and (w := widths[id(axis.labels)]) is not None}
            found = made or free
            for place in wanted[path][size]:
                if len(found) == 1:
                    axis = next(iter(found.values()))
                    follows.append(Follow(path, place, axis.labels, axis.at))
                elif found:
                    vague.setdefault((type(view.modules[path]), place), []).append(path)
    return follows, [*_notes(used, _USED), *_notes(vague, _VAGUE)]


_USED = "the forward computes something else with it"
_VAGUE = "widths that shrink apart are as large, and the forward does not say which of them it means"


def _notes(kinds: dict[Kind, list[str]], reason: str) -> Iterator[str]:
    for (kind, place), paths in kinds.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        yield f"{kind.__name__}.{place} of {paths[0] or 'the model'}{more} keeps its value: {reason}"


def _seen(units: Units, wanted: dict[str, dict[int, list[str]]]) -> dict[str, dict[int, list[Seen]]]:
    """Axes at the operators of modules, by module and size, for the sizes wanted there; each axis once."""
    found: dict[str, dict[int, dict[tuple[int, bool], Seen]]] = {}
    if not wanted:
        return {}
    for turn, tape in enumerate(units.tapes):
        for index, op in enumerate(tape.ops):
            sizes = wanted.get(op.module)
            if sizes is None:
                continue
            read = [axis for t in tensors(op.args) if id(t) in units.labs for axis in units.labs[id(t)].axes]
            read = [units.settled(axis) for axis in read]
            known = {id(axis) for axis in read}
            written = [units.settled(axis) for axes in units.results[turn][index] for axis in axes]
            for axis in (*read, *written):
                if isinstance(axis, np.ndarray) and axis.size in sizes:
                    seen = Seen(axis, id(axis) not in known, (turn, index))
                    at = found.setdefault(op.module, {}).setdefault(axis.size, {})
                    at.setdefault((id(axis), seen.made), seen)
    return {path: {size: list(axes.values()) for size, axes in sizes.items()} for path, sizes in found.items()}


def _width(units: Units, labels: Labels, known: dict[int, Any]) -> Any:
    """A value for the way in which a width shrinks: equal values, equal widths in every plan; None if it never does."""
    if id(labels) not in known:
        known[id(labels)] = _shrinking(units, units.units(labels))
    return known[id(labels)]


def _shrinking(units: Units, of: Any) -> Any:
    unit, times = np.unique(of, return_counts=True)
    group = np.where(unit >= 0, units.group_of[np.maximum(unit, 0)], -1) if units.group_of.size else unit
    ours = group >= 0
    if not ours.any():
        return None
    tied = {g: (k, n) for k, bond in enumerate(units.bonds) for g, n in zip(bond.groups, bond.step, strict=True)}
    total: dict[tuple[str, int], int] = {}
    for g in np.unique(group[ours]).tolist():
        each = times[group == g]
        if each.size != units.counts[g] or (each != each[0]).any():
            return np.sort(of).tobytes()
        bond, step = tied.get(g, (None, 1))
        key = ("group", g) if bond is None else ("tie", bond)
        total[key] = total.get(key, 0) + int(each[0]) * step
    return frozenset(total.items())


def suspects(units: Units, view: Network, module: str) -> set[Kind]:
    """The kinds of described integers in a module, and in those around it."""
    around = {""}
    while module:
        around.add(module)
        module = module.rpartition(".")[0]
    return {(type(view.modules[f.module]), f.attribute) for f in units.described if f.module in around}


def without(units: Units, view: Network, kinds: Collection[Kind]) -> list[Follow]:
    """The described integers of other kinds."""
    return [f for f in units.described if (type(view.modules[f.module]), f.attribute) not in kinds]
