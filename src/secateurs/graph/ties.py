"""Count ties: groups whose widths must shrink in proportion, because the forward uses one width in place of another.

An attention that views `C // heads` channels, where C is the width of its input, works as long as the two widths agree;
which units are removed on either side does not matter. So a tie is about numbers: in every plan, each of its groups has
lost `step` units equally often.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from secateurs.graph.label_arrays import entry_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from secateurs.graph.grouping import Units
    from secateurs.graph.labels import Equal, Follow

    Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Bond:
    """Groups tied in count (by number), the units that each loses in one step, and the most steps possible."""

    groups: tuple[int, ...]
    step: tuple[int, ...]
    most: int
    because: str


class Conflict(NamedTuple):
    """Two numbers that would have to stay equal and cannot: the reason, the recording and the operator."""

    why: str
    turn: int
    op: int
    units: NDArray[np.int64]


def equalities(follows: Iterable[Follow], equals: Iterable[Equal]) -> Iterator[tuple[Any, Any, Any, str]]:
    """Yield (left labels, right labels, place, text) for numbers that must stay equal, from shapes or one attribute."""
    for e in equals:
        yield e.left, e.right, e.at, "a size in the forward"
    first: dict[tuple[str, str], Follow] = {}
    for f in follows:
        known = first.setdefault((f.module, f.attribute), f)
        if known is not f and known.labels is not f.labels:
            yield known.labels, f.labels, f.at, f"{f.module}.{f.attribute}"


def tie(units: Units) -> tuple[list[Bond], Conflict | None]:
    """The ties of a network, or the first number that cannot hold."""
    book = _Book(units)
    for left, right, at, what in equalities(units.follows, units.equals):
        if not book.enter(left, right, at, what):
            turn, index = at
            op = units.tapes[turn].ops[index]
            both = np.concatenate([units.units(left), units.units(right)])
            return [], Conflict(f"{what} would have to be two numbers at once, at {op.where}", turn, index, both)
    return book.bonds()


class _Book:
    """Sets of groups tied in count, as a forest (union-find): each group has a rate relative to its root."""

    def __init__(self, units: Units) -> None:
        self.units = units
        self.counts = units.counts.tolist()
        self.parent: dict[int, tuple[int, Fraction]] = {}
        self.at: dict[int, tuple[int, int]] = {}

    def enter(self, left: Any, right: Any, at: tuple[int, int], what: str) -> bool:
        """Tie two axes to equal numbers of entries; False if that is impossible."""
        one, other = (self.units.units(labels) for labels in (left, right))
        if np.array_equal(one, other):
            return True
        entries = self._entries(one), self._entries(other)
        if entries[0] is None or entries[1] is None:
            return np.array_equal(np.sort(one), np.sort(other))
        change = {g: entries[0].get(g, 0) - entries[1].get(g, 0) for g in entries[0].keys() | entries[1].keys()}
        change = {g: n for g, n in sorted(change.items()) if n}
        return self._holds(change) or self._bind(change, at)

    def _entries(self, of: Any) -> dict[int, int] | None:
        """Group -> entries of each of its units on an axis; None where they differ."""
        group = entry_of(self.units.group_of, of)
        each = np.bincount(of[group >= 0], minlength=self.units.group_of.size)
        found: dict[int, int] = {}
        for g in np.unique(group[group >= 0]).tolist():
            times = each[self.units.group_of == g]
            if (times != times[0]).any():
                return None
            found[g] = int(times[0])
        return found

    def _root(self, g: int) -> tuple[int, Fraction]:
        rate = Fraction(1)
        while g in self.parent:
            g, more = self.parent[g]
            rate *= more
        return g, rate

    def _holds(self, change: dict[int, int]) -> bool:
        """True if the ties found so far already make both sides lose the same."""
        total: dict[int, Fraction] = {}
        for g, times in change.items():
            root, rate = self._root(g)
            total[root] = total.get(root, Fraction(0)) + times * rate
        return not any(total.values())

    def _bind(self, change: dict[int, int], at: tuple[int, int]) -> bool:
        groups = list(change)
        if len(groups) == 2:
            m, n = change.values()
            if (m > 0) == (n > 0):
                return False
            rates = [Fraction(1), Fraction(abs(m), abs(n))]
        elif len(groups) > 2 and sum(n * self.counts[g] for g, n in change.items()) == 0:
            rates = [Fraction(self.counts[g], self.counts[groups[0]]) for g in groups]  # all shrink in proportion
        else:
            return False
        for g in groups:
            self.at.setdefault(g, at)
        return all(self._link(groups[0], g, rate) for g, rate in zip(groups[1:], rates[1:], strict=True))

    def _link(self, a: int, b: int, rate: Fraction) -> bool:
        """Group b loses `rate` units for every unit of group a."""
        (root_a, rate_a), (root_b, rate_b) = self._root(a), self._root(b)
        if root_a == root_b:
            return rate_b == rate * rate_a
        self.parent[root_b] = (root_a, rate * rate_a / rate_b)
        return True

    def bonds(self) -> tuple[list[Bond], Conflict | None]:
        members: dict[int, list[int]] = {}
        for g in range(len(self.counts)):
            if g in self.at:
                members.setdefault(self._root(g)[0], []).append(g)
        found: list[Bond] = []
        for groups in members.values():
            rates = [self._root(g)[1] for g in groups]
            scale = lcm(*(r.denominator for r in rates))
            whole = [int(r * scale) for r in rates]
            step = tuple(n // gcd(*whole) for n in whole)
            most = min((self.counts[g] - 1) // n for g, n in zip(groups, step, strict=True))
            at = min(self.at[g] for g in groups)
            where = self.units.tapes[at[0]].ops[at[1]].where
            if most < 1:
                of = np.flatnonzero(np.isin(self.units.group_of, groups))
                return [], Conflict(f"no group tied by the sizes at {where} could lose a unit", *at, of)
            found.append(Bond(tuple(groups), step, most, where))
        return found, None


def lost(units: Units, alive: Mask, keep: Mask) -> NDArray[np.int64]:
    """Number of present units that every group loses."""
    gone = units.group_of[alive & ~keep & (units.group_of >= 0)]
    return np.bincount(gone, minlength=units.counts.size)


def broken(units: Units, alive: Mask, keep: Mask) -> Bond | None:
    """The first tie that a plan breaks."""
    if not units.bonds:
        return None
    gone = lost(units, alive, keep)
    for bond in units.bonds:
        turns = {Fraction(int(gone[g]), n) for g, n in zip(bond.groups, bond.step, strict=True)}
        if len(turns) > 1 or next(iter(turns)).denominator > 1:
            return bond
    return None


def evened(units: Units, keep: Mask, draw: np.random.Generator) -> Mask:
    """Return the plan with ties restored: tied groups lose more units, or fewer where one would be empty."""
    if not units.bonds:
        return keep
    keep = keep.copy()
    gone = lost(units, np.ones_like(keep), keep)
    for bond in units.bonds:
        turns = max(-(-int(gone[g]) // n) for g, n in zip(bond.groups, bond.step, strict=True))
        # at a width of one, operators take other paths
        most = min((int(units.counts[g]) - 2) // n for g, n in zip(bond.groups, bond.step, strict=True))
        for g, n in zip(bond.groups, bond.step, strict=True):
            of = units.members[g]
            of = of[np.lexsort((draw.random(of.size), keep[of]))]  # units that are removed already come first
            keep[of] = True
            keep[of[: min(turns, max(most, 1)) * n]] = False
    return keep


def untied(bond: Bond, units: Units, alive: Mask, mask: Mask) -> str:
    """Return a message that names the tied groups and what each would have to lose."""
    gone = lost(units, alive, mask)
    facts = [f"{units.names[g]!r} loses {gone[g]}" for g in bond.groups[:4]]
    steps = ", ".join(f"{n} of {units.names[g]!r}" for g, n in list(zip(bond.groups, bond.step, strict=True))[:4])
    return (
        f"The plan breaks a tie in count: {', '.join(facts)}. The forward takes one's width for another's "
        f"({bond.because}), so they lose units in step: {steps}{' …' if len(bond.groups) > 4 else ''} at a time. "
        "Choose as many of each, or let an allocator choose (graph.ties lists all ties)."
    )
