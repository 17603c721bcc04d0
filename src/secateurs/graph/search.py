"""The search for units: label, try plans on a shrunken copy (a twin), and correct until every trial holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from secateurs.errors import TraceError
from secateurs.graph.blame import Blamed, ahead, before, miscounted, units_at
from secateurs.graph.describing import describe, suspects, without
from secateurs.graph.grouping import gather
from secateurs.graph.integers import numbers
from secateurs.graph.labels import Choices
from secateurs.graph.propagate import Propagation
from secateurs.graph.prove import Disproof, collect_results, disprove
from secateurs.graph.prove_numeric import agrees
from secateurs.graph.recording import same_path
from secateurs.graph.trials import atoms, only, trials

if TYPE_CHECKING:
    from secateurs.graph.describing import Kind
    from secateurs.graph.grouping import Units
    from secateurs.graph.recorder import Op, Tape
    from secateurs.graph.source import Source
    from secateurs.network import Network

_ROUNDS = 200
_PATIENCE = 150
"""From this round on, units at a failing operator are protected, and no further option is tried."""

_TRIES = 6
"""Number of options tried again for a choice that left all of its units protected."""


class Finder:
    """Label a network, try plans on shrunken copies, and correct the labels until every trial holds."""

    def __init__(self, view: Network, source: Source, tapes: list[Tape], shielded: tuple[str, ...]) -> None:
        self.view = view
        self.source = source
        self.tapes = tapes
        self.shielded = shielded
        self.numbers = numbers(view)
        found = view.tensors
        self.shapes = {n: tuple(t.shape) for n, t in found.items()}
        self.parameters = frozenset(n for n, t in found.items() if isinstance(t, nn.Parameter))
        self.refused: dict[Any, tuple[Any, ...]] = {}
        self.banned: dict[Any, str] = {}
        self.lost: dict[tuple[str, int], list[tuple[Any, str]]] = {}
        self.dropped: set[Kind] = set()
        self.acquitted: set[Any] = set()

    def find(self) -> Units:
        """Return the units of the network, for which every trial holds."""
        return self._freed(self._settle())

    def may_branch(self) -> bool:
        """True if Python code received a made-up value, and units that could be removed are read after that."""
        told = [(turn, tape.made_up.told) for turn, tape in enumerate(self.tapes) if tape.made_up.told is not None]
        if not told:
            return False
        units = self._collect()
        return any(
            units_at(units, turn, index).size
            for turn, first in told
            for index in range(first + 1, len(self.tapes[turn].ops))
        )

    def _settle(self) -> Units:
        """Correct the labelling after each failed trial, until all trials hold."""
        for attempt in range(_ROUNDS):
            units = self._collect()
            if units.conflict is not None:
                why, turn, index, _ = units.conflict
                self._correct(units, Disproof(why, turn, index), None, attempt)
                continue
            if not units.counts.size:
                return units
            units.described, units.notes = describe(units, self.view, self.numbers, self.dropped)
            failed = next(((v, keep) for keep in trials(units) if (v := self._disprove(units, keep)) is not None), None)
            if failed is None:
                return units
            if attempt == 0 and self._recorded_anew():
                continue
            self._correct(units, *failed, attempt)
        raise TraceError(
            "The trial did not settle; please report this model."
        )  # the last correction protects all units

    def _recorded_anew(self) -> bool:
        """True if the same forward now runs other operators, because the first run filled a cache outside the model."""
        again = [self.source.tape(self.view, training=training) for training in self.source.passes]
        if any(tape.error is not None for tape in again) or same_path(self.tapes, again):
            return False
        self.tapes = again
        return True

    def _freed(self, units: Units) -> Units:
        """Try again every choice that left all of its units protected, and keep options that protect fewer."""
        for key, site in list(units.sites.items()):
            if key[-1] not in ("split", "cut") or not site.labels or self._reach(units, site.labels):
                continue
            before = self._state()
            tried = self.refused.pop(key, ())
            if not tried or key[-1] == "split":
                if not site.moments[0].others:
                    self.refused = before[0]
                    continue
                self.refused[key] = (*tried, *site.moments[0].alike)
            for _ in range(_TRIES):
                there = self._collect()
                if there.conflict is None and self._reach(there, there.sites[key].labels):
                    found = self._settle()
                    if self._reach(found) > self._reach(units):
                        units, before = found, self._state()
                        break
                    self.banned, self.lost = dict(before[1]), {k: list(v) for k, v in before[2].items()}
                    there = found
                further = next((m for m in there.sites[key].moments if m.others), None)
                if further is None:
                    break
                self.refused[key] = (*self.refused.get(key, ()), *further.alike)
            self.refused, self.banned, self.lost = before
        return units

    def _state(self) -> tuple[dict[Any, Any], dict[Any, str], dict[Any, list[Any]]]:
        return dict(self.refused), dict(self.banned), {k: list(v) for k, v in self.lost.items()}

    @staticmethod
    def _reach(units: Units, arrays: Iterable[Any] | None = None) -> int:
        """Number of removable entries of some axes, or of all parameters."""
        if arrays is None:
            arrays = [axis for axis in units.params.values() if isinstance(axis, np.ndarray)]
        return sum(map(units.removable, arrays))

    def _disprove(self, units: Units, keep: Any) -> Disproof | None:
        whole = np.ones(units.group_of.size, dtype=bool)
        failed = disprove(units, self.source, self.view, whole, keep)
        if failed is None or not failed.another_path:
            return failed
        # Where one unit of a group is left, operators may take another path, which only the numeric proof can check.
        narrow = [groups for groups in atoms(units) if self._of_one(units, groups, keep)]
        if not narrow or any(units.inexact[g] for groups in narrow for g in groups):
            return failed
        groups = np.concatenate(narrow)
        rest = keep | np.isin(units.group_of, groups)
        holds = disprove(units, self.source, self.view, whole, rest) is None
        return None if holds and agrees(units, self.source, self.view, whole, only(units, keep, groups)) else failed

    @staticmethod
    def _of_one(units: Units, groups: Any, keep: Any) -> bool:
        left = np.bincount(units.group_of[keep & (units.group_of >= 0)], minlength=units.counts.size)
        return bool((left[groups] == 1).any())

    def _collect(self) -> Units:
        p = Propagation({}, choices=Choices(self.refused), banned=self.banned, attributes=self.numbers)
        results = []
        for tape in self.tapes:
            results.append(collect_results(p, tape))
            for output in tape.outputs:
                if id(output) in p.labs or id(output) in tape.origins:
                    p.guard_all(output, "it is an output of the model", located=False)
        for (name, dim), axis in list(p.params.items()):
            if isinstance(axis, np.ndarray):
                for index, reason in self.lost.get((name, dim), ()):
                    p.guard(axis[index], reason, located=False)
            if any(name.startswith(f"{prefix}.") for prefix in self.shielded):
                p.guard(axis, "the user protects it", located=False)
        return gather(p, self.tapes, results, self.shapes, dict(self.refused))

    def _correct(self, units: Units, failed: Disproof, keep: Any, attempt: int) -> None:
        """Advance the choice that explains the failure to its next option, or protect the units there."""
        tape = self.tapes[failed.turn]
        index = min(failed.index, len(tape.ops) - 1)
        if keep is not None and self._misdescribed(units, failed, keep, tape.ops[index]):
            return
        if attempt < _PATIENCE:
            guilty = units_at(units, failed.turn, index)
            found = miscounted(units, failed.turn, index) if not guilty.size else None
            found = found or before(units, guilty, failed.turn, index) or ahead(units, failed.turn, index)
            if self._refuse(found) or (guilty.size and self._ban(tape, index, failed.why)):
                return
        guilty = np.flatnonzero(units.group_of >= 0)
        if units.conflict is not None:
            guilty = np.intersect1d(guilty, units.conflict.units)
        elif keep is not None and attempt < _ROUNDS - 2:
            guilty = np.flatnonzero(np.isin(units.group_of, self._narrowed(units, keep)))
            if attempt < _PATIENCE and self._refuse(before(units, guilty, failed.turn, index)):
                return
        for key, axis in units.params.items():
            if isinstance(axis, np.ndarray):
                index = np.flatnonzero(np.isin(units.units(axis), guilty))
                if index.size:
                    self.lost.setdefault(key, []).append((index, failed.why))

    def _misdescribed(self, units: Units, failed: Disproof, keep: Any, op: Op) -> bool:
        """Drop the described integers without which the trial comes further; False if it does not."""
        kinds = suspects(units, self.view, op.module)
        if not kinds or op.key in self.acquitted:
            return False
        all_of_them = units.described

        def further(kinds: set[Kind]) -> bool:
            units.described = without(units, self.view, kinds)
            again = self._disprove(units, keep)
            units.described = all_of_them
            return again is None or (again.turn, again.index) > (failed.turn, failed.index)

        if not further(kinds):
            self.acquitted.add(op.key)
            return False
        alone = {kind for kind in kinds if further({kind})} if len(kinds) > 1 else kinds
        self.dropped |= alone or kinds
        return True

    def _narrowed(self, units: Units, keep: Any) -> Any:
        """Return the plan cut down to the groups that make it fail, found by bisection."""
        parts = [groups for groups in atoms(units) if not keep[np.isin(units.group_of, groups)].all()]
        low, high = 0, len(parts)  # the first `low` hold, the first `high` do not
        while high - low > 1:
            middle = (low + high) // 2
            if self._disprove(units, only(units, keep, np.concatenate(parts[:middle]))) is None:
                low = middle
            else:
                high = middle
        return parts[high - 1]

    def _refuse(self, found: Blamed | None) -> bool:
        """Exclude the option taken at that choice, if there is one."""
        if found is not None:
            self.refused[found.place] = (*self.refused.get(found.place, ()), found.taken.option)
        return found is not None

    def _ban(self, tape: Tape, index: int, why: str) -> bool:
        key = (*tape.ops[index].key, self.numbers(tape.ops[index].module, "__class__"))
        if key in self.banned:
            return False
        self.banned[key] = why
        return True
