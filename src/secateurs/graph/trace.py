"""Trace: record, label, group, and try what was found on a shrunken twin until it holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from secateurs.errors import InputError, TraceError, expect, near
from secateurs.graph.graph import Facts, Graph
from secateurs.graph.grouping import gather
from secateurs.graph.integers import numbers
from secateurs.graph.label_arrays import entry_of
from secateurs.graph.labels import Choices, Taken
from secateurs.graph.propagate import Propagation, tensors
from secateurs.graph.prove import Refuted, collect_results, disprove
from secateurs.graph.recording import failed_rules, record, same_path
from secateurs.graph.rules import table
from secateurs.graph.source import Source
from secateurs.graph.trials import atoms, only, trials
from secateurs.network import Network

if TYPE_CHECKING:
    from secateurs.graph.grouping import Units
    from secateurs.graph.recorder import Tape
    from secateurs.graph.rules import Rules

_ROUNDS = 200
_PATIENCE = 150
"""From this round on, what fails is protected, and no further option is tried."""


def trace(
    model: nn.Module | Network, example_inputs: Any, *, protect: Iterable[str] = (), rules: Rules | None = None
) -> Graph:
    """Find every group of channels that must be removed together, and prove on a shrunken twin that removal is right.

    The model runs once on the meta device (or on real tensors where its code needs values), in eval mode; where its
    training forward differs (auxiliary heads), that is recorded too. The model itself is left exactly as it was.

    Args:
        model: any eager `nn.Module`.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        protect: names of modules (with all inside) that nothing changes: neither their outputs nor what they read.
        rules: operator -> rule, for operators of your own or of a library unknown here; see `secateurs.graph.rules`.

    Raises: ModelError, InputError before any work; TraceError if the model does not run on the example.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> graph = trace(net, torch.randn(1, 3, 8, 8))
    >>> graph.groups
    (Group('0', 8 units, 3 slices),)
    >>> graph.cost().params
    516
    """
    view = Network.of(model)
    shielded = _prefixes(view, protect)
    source, tapes, notes = record(view, example_inputs, table(rules))
    finder = _Finder(view, source, tapes, shielded)
    units = finder.find()
    notes += failed_rules(finder.tapes)
    facts = Facts(finder.shapes, finder.parameters, view.aliases, view.modules, tuple(notes))
    return Graph(units, source, facts)


def _prefixes(view: Network, protect: Iterable[str]) -> tuple[str, ...]:
    expect("protect", protect, Iterable, "Pass a list of module names.")
    if isinstance(protect, str):
        raise InputError(
            f"protect must be a list of module names, not the string {protect!r}: write protect=[{protect!r}]."
        )
    protect = tuple(protect)
    for name in protect:
        expect("protect", name, str, "Pass a list of module names.")
    names = [n for n in view.modules if n]
    for wanted in protect:
        if wanted not in names:
            raise InputError(f"protect names no module {wanted!r}: {near(wanted, names)}.")
    return protect


class _Finder:
    """Label, try, and correct until the shrunken twin holds."""

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

    def find(self) -> Units:
        return self._freed(self._settle())

    def _settle(self) -> Units:
        """Correct what the trials refute, until they hold."""
        for attempt in range(_ROUNDS):
            units = self._collect()
            if units.conflict is not None:
                why, turn, index, _ = units.conflict
                self._correct(units, Refuted(why, turn, index), None, attempt)
                continue
            if not units.counts.size:
                return units
            failed = next(((v, keep) for keep in trials(units) if (v := self._disprove(units, keep)) is not None), None)
            if failed is None:
                return units
            if attempt == 0 and self._recorded_anew():
                continue
            self._correct(units, *failed, attempt)
        raise TraceError(
            "The trial did not settle; please report this model."
        )  # the last correction protects everything

    def _recorded_anew(self) -> bool:
        """Whether the same forward now runs other operators: the first run filled something outside the model."""
        again = [self.source.tape(self.view, training=training) for training in self.source.passes]
        if any(tape.error is not None for tape in again) or same_path(self.tapes, again):
            return False
        self.tapes = again
        return True

    def _freed(self, units: Units) -> Units:
        """Try the further options of every choice that left all of its units protected, and keep what frees more."""
        for key, site in list(units.sites.items()):
            if key[-1] not in ("split", "cut") or not site.labels or self._reach(units, site.labels):
                continue
            saved = dict(self.refused), dict(self.banned), {k: list(v) for k, v in self.lost.items()}
            there = units
            while (further := next((m for m in there.sites[key].moments if m.left > 1), None)) is not None:
                self._refuse(key, further)
                there = self._collect()
                if there.conflict is None and self._reach(there, there.sites[key].labels):
                    found = self._settle()
                    if self._reach(found) > self._reach(units):
                        units = found
                        break
                    self.banned, self.lost = dict(saved[1]), {k: list(v) for k, v in saved[2].items()}
            else:
                self.refused, self.banned, self.lost = saved
        return units

    @staticmethod
    def _reach(units: Units, arrays: Iterable[Any] | None = None) -> int:
        """How many entries of some axes, or of all parameters, can be removed."""
        if arrays is None:
            arrays = [axis for axis in units.params.values() if isinstance(axis, np.ndarray)]
        return sum(int((entry_of(units.group_of, units.units(axis)) >= 0).sum()) for axis in arrays)

    def _disprove(self, units: Units, keep: Any) -> Refuted | None:
        return disprove(units, self.source, self.view, np.ones(units.group_of.size, dtype=bool), keep)

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

    def _correct(self, units: Units, verdict: Refuted, keep: Any, attempt: int) -> None:
        """Move the guilty source line on to its next option, or protect what meets there."""
        tape = self.tapes[verdict.turn]
        index = min(verdict.index, len(tape.ops) - 1)
        if attempt < _PATIENCE:
            guilty = self._guilty(units, tape, index)
            if not guilty.size and self._miscounted(units, verdict.turn, index):
                return
            if self._advance(units, guilty, verdict.turn, index) or (
                guilty.size and self._ban(tape, index, str(verdict))
            ):
                return
        guilty = np.flatnonzero(units.group_of >= 0)
        if units.conflict is not None:
            guilty = np.intersect1d(guilty, units.conflict.units)
        elif keep is not None and attempt < _ROUNDS - 2:
            guilty = np.flatnonzero(np.isin(units.group_of, self._narrowed(units, keep)))
            if attempt < _PATIENCE and self._advance(units, guilty, verdict.turn, index):
                return
        for key, axis in units.params.items():
            if isinstance(axis, np.ndarray):
                index = np.flatnonzero(np.isin(units.units(axis), guilty))
                if index.size:
                    self.lost.setdefault(key, []).append((index, str(verdict)))

    def _narrowed(self, units: Units, keep: Any) -> Any:
        """Of the groups that a refuted plan cuts, the ones without which it would hold: found by bisection."""
        parts = [groups for groups in atoms(units) if not keep[np.isin(units.group_of, groups)].all()]
        low, high = 0, len(parts)  # the first `low` hold, the first `high` do not
        while high - low > 1:
            middle = (low + high) // 2
            if self._disprove(units, only(units, keep, np.concatenate(parts[:middle]))) is None:
                low = middle
            else:
                high = middle
        return parts[high - 1]

    @staticmethod
    def _guilty(units: Units, tape: Tape, index: int) -> Any:
        """The removable units at an operator."""
        op = tape.ops[index]
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

    def _advance(self, units: Units, guilty: Any, turn: int, index: int) -> bool:
        """Take the next option of the nearest earlier choice about these units."""
        groups = np.unique(units.group_of[guilty])
        nearest: tuple[int, Any, Taken] | None = None
        for key, site in units.sites.items():
            for taken in site.moments:
                t, i = taken.at
                if t != turn or i > index or taken.left < 2 or (nearest is not None and i <= nearest[0]):
                    continue
                of = None if taken.labels is None else units.units(taken.labels)
                # the sizes at the operator itself may be those of other units
                if i == index or (guilty.size if of is None else np.isin(units.group_of[of[of >= 0]], groups).any()):
                    nearest = (i, key, taken)
        nearest = nearest or self._ahead(units, turn, index)
        if nearest is None:
            return False
        self._refuse(*nearest[1:])
        return True

    def _miscounted(self, units: Units, turn: int, index: int) -> bool:
        """An operator without units changes: refuse the nearest choice by which an integer of its module follows."""
        module = self.tapes[turn].ops[index].module
        following = {f.at for f in units.follows if f.module == module and f.at[0] == turn}
        found = [
            (taken.at[1] > index, abs(taken.at[1] - index), key, taken)
            for key, site in units.sites.items()
            for taken in site.moments
            if taken.at in following and taken.left > 1
        ]
        if not found:
            return False
        self._refuse(*min(found, key=lambda one: one[:2])[2:])
        return True

    def _refuse(self, key: Any, taken: Taken) -> None:
        self.refused[key] = (*self.refused.get(key, ()), taken.option)

    def _ahead(self, units: Units, turn: int, index: int) -> tuple[int, Any, Taken] | None:
        """The next choice in the module that fails: one that checks its sizes does so before it uses them."""
        ops = self.tapes[turn].ops
        later = [
            (taken.at[1], key, taken)
            for key, site in units.sites.items()
            for taken in site.moments
            if taken.left > 1 and taken.labels is not None and taken.at[0] == turn and taken.at[1] > index
        ]
        here = [found for found in later if ops[found[0]].module == ops[index].module]
        return min(here, key=lambda found: found[0]) if here else None

    def _ban(self, tape: Tape, index: int, why: str) -> bool:
        key = tape.ops[index].key
        if key in self.banned:
            return False
        self.banned[key] = why
        return True
