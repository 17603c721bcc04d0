"""The plans that a found graph is tried on: uneven ones, and lopsided ones where a dimension is cut."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.graph.ties import evened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from secateurs.graph.grouping import Units

_SHARES = (0.45, 0.75, 0.6, 0.35, 0.85)
_BY_SIZE = ("cut", "split", "factory")
"""Choices whose wrong option can hold by chance, when two widths happen to agree."""


def trials(units: Units) -> Iterator[NDArray[np.bool_]]:
    """Plans to try, each once; more of them where a rule had a choice, since a wrong option can hold by chance."""
    chance = any(key[-1] in _BY_SIZE for key in units.sites) or bool(units.bonds)
    seen: set[bytes] = set()
    for keep in chain((uneven(units, seed) for seed in range(5 if chance else 1)), _lopsided(units)):
        plan = np.packbits(keep).tobytes()
        if plan not in seen:  # a recurrent layer cuts the same units at every step
            seen.add(plan)
            yield keep


def uneven(units: Units, seed: int) -> Any:
    """A plan that keeps another share of every group than of its neighbours, at random places.

    Every further plan leaves other groups whole: two small pieces of one tensor must not always lose as much.
    """
    draw = np.random.default_rng(seed)
    keep = np.ones(units.group_of.size, dtype=bool)
    score = draw.random(units.group_of.size)
    for g, count in enumerate(units.counts.tolist()):
        if seed and (g % 2 == seed % 2 if seed <= 2 else draw.random() < 0.5):
            continue
        of = np.flatnonzero(units.group_of == g)
        share = _SHARES[(g + seed) % len(_SHARES)] + draw.uniform(-0.04, 0.04)
        stay = int(np.clip(round(count * share), min(2, count - 1), count - 1))
        keep[of[np.argsort(score[of])[stay:]]] = False
    return evened(units, keep, draw)


def _lopsided(units: Units) -> Iterator[Any]:
    """For every place that cuts a dimension: plans that take one unit, then nearly all, from one half of it only."""
    for key, choice in units.sites.items():
        if key[-1] != "cut" or not choice.labels:
            continue
        for half in np.array_split(units.units(choice.labels[0]), 2):
            free = np.unique(half[(half >= 0) & (units.group_of[half] >= 0)])
            _, first = np.unique(units.group_of[free], return_index=True)
            for gone in (free[:1], np.delete(free, first)):
                if gone.size:
                    keep = np.ones(units.group_of.size, dtype=bool)
                    keep[gone] = False
                    yield evened(units, keep, np.random.default_rng(0))


def atoms(units: Units) -> list[NDArray[np.int64]]:
    """Groups that lose units together: each alone, or with those that it is tied to in count."""
    tied = {g for bond in units.bonds for g in bond.groups}
    alone = [(g,) for g in range(units.counts.size) if g not in tied]
    return [np.array(groups) for groups in [*alone, *(bond.groups for bond in units.bonds)]]


def only(units: Units, keep: Any, groups: Any) -> Any:
    """The plan, of these groups alone: the others stay whole."""
    return keep | ~np.isin(units.group_of, groups)
