"""Test plans for a labelling: other shares for every group, and, where a dimension is sliced, from one half only."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from secateurs.graph.recorder import tensors
from secateurs.graph.ties import evened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from secateurs.graph.grouping import Units
    from secateurs.graph.labels import Choice

_SHARES = (0.45, 0.75, 0.6, 0.35, 0.85)
_BY_SIZE = ("cut", "split", "factory")
"""Kinds of choices whose wrong option can pass a trial by chance, when two widths are equal."""


def trials(units: Units) -> Iterator[NDArray[np.bool_]]:
    """Yield distinct plans to try; more where a rule had a choice, since a wrong option can pass by chance."""
    chance = bool(units.bonds) or any(_by_chance(units, key[-1], site) for key, site in units.sites.items())
    seen: set[bytes] = set()
    for keep in chain((uneven(units, seed) for seed in range(5 if chance else 1)), _lopsided(units)):
        plan = np.packbits(keep).tobytes()
        if plan not in seen:  # a recurrent layer slices the same units at every step
            seen.add(plan)
            yield keep


def _by_chance(units: Units, kind: str, site: Choice) -> bool:
    """True if removable units are at stake in a choice whose wrong option can pass a trial."""
    if kind == "factory":
        return any(
            not units.widths.isdisjoint(t.shape)
            for turn, index in (taken.at for taken in site.moments)
            for t in tensors(units.tapes[turn].ops[index].out)
        )
    return kind in _BY_SIZE and any(units.removable(labels) for labels in site.labels)


def uneven(units: Units, seed: int) -> Any:
    """Return a plan that keeps another share of each group than of its neighbours, at random positions.

    Each seed leaves other groups whole, so that two small pieces of one tensor do not always lose equally many units.
    """
    draw = np.random.default_rng(seed)
    keep = np.ones(units.group_of.size, dtype=bool)
    score = draw.random(units.group_of.size)
    for g, count in enumerate(units.counts.tolist()):
        if seed and (g % 2 == seed % 2 if seed <= 2 else draw.random() < 0.5):
            continue
        of = units.members[g]
        share = _SHARES[(g + seed) % len(_SHARES)] + draw.uniform(-0.04, 0.04)
        stay = int(np.clip(round(count * share), min(2, count - 1), count - 1))
        keep[of[np.argsort(score[of])[stay:]]] = False
    return evened(units, keep, draw)


def _lopsided(units: Units) -> Iterator[Any]:
    """Yield plans that remove one unit, then nearly all, from only one half of each sliced dimension."""
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
    """Return the sets of groups that can lose units alone: one group, or groups tied in count."""
    tied = {g for bond in units.bonds for g in bond.groups}
    alone = [(g,) for g in range(units.counts.size) if g not in tied]
    return [np.array(groups) for groups in [*alone, *(bond.groups for bond in units.bonds)]]


def only(units: Units, keep: Any, groups: Any) -> Any:
    """Return the plan restricted to these groups; the others stay whole."""
    return keep | ~np.isin(units.group_of, groups)
