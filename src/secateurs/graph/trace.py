"""Trace: record, label, group, and try what was found on a shrunken twin until it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from secateurs.errors import InputError, TraceError, near
from secateurs.graph.graph import Facts, Graph
from secateurs.graph.grouping import gather
from secateurs.graph.labels import Choices
from secateurs.graph.propagate import Propagation, tensors
from secateurs.graph.prove import collect_results, disprove
from secateurs.graph.recording import failed_rules, record, same_path
from secateurs.graph.rules import table
from secateurs.graph.source import Source
from secateurs.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from secateurs.graph.grouping import Units
    from secateurs.graph.prove import Refuted
    from secateurs.graph.recorder import Tape
    from secateurs.graph.rules import Rules

_ROUNDS = 200
_BY_SIZE = ("cut", "split", "factory")
"""Choices whose wrong option can hold by chance, when two widths happen to agree."""
_SHARES = (0.45, 0.75, 0.6, 0.35, 0.85)


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
    if isinstance(protect, str):
        raise InputError(
            f"protect must be a list of module names, not the string {protect!r}: write protect=[{protect!r}]."
        )
    names = [n for n in view.modules if n]
    for wanted in protect:
        if wanted not in names:
            raise InputError(f"protect names no module {wanted!r}: {near(wanted, names)}.")
    return tuple(protect)


class _Finder:
    """Label, try, and correct until the shrunken twin holds."""

    def __init__(self, view: Network, source: Source, tapes: list[Tape], shielded: tuple[str, ...]) -> None:
        self.view = view
        self.source = source
        self.tapes = tapes
        self.shielded = shielded
        self.modules = view.modules
        found = view.tensors
        self.shapes = {n: tuple(t.shape) for n, t in found.items()}
        self.parameters = frozenset(n for n, t in found.items() if isinstance(t, nn.Parameter))
        self.choices: dict[Any, int] = {}
        self.banned: dict[Any, str] = {}
        self.lost: dict[tuple[str, int], str] = {}

    def find(self) -> Units:
        for attempt in range(_ROUNDS):
            units = self._collect()
            if not units.counts.size:
                return units
            verdict = self._try(units)
            if verdict is None:
                return units
            if attempt == 0 and self._recorded_anew():
                continue
            self._correct(units, verdict, last=attempt >= _ROUNDS - 2)
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

    def _try(self, units: Units) -> Refuted | None:
        """Uneven plans on the shrunken twin; more of them where a rule had a choice, since one can hold by chance."""
        alive = np.ones(units.group_of.size, dtype=bool)
        for seed in range(5 if any(key[-1] in _BY_SIZE for key in units.sites) else 1):
            verdict = disprove(units, self.source, self.view, alive, _uneven(units, seed))
            if verdict is not None:
                return verdict
        for keep in _lopsided(units):
            verdict = disprove(units, self.source, self.view, alive, keep)
            if verdict is not None:
                return verdict
        return None

    def _collect(self) -> Units:
        p = Propagation({}, choices=Choices(self.choices), banned=self.banned, attributes=self.view.attribute)
        results = []
        for tape in self.tapes:
            results.append(collect_results(p, tape))
            for output in tape.outputs:
                if id(output) in p.labs or id(output) in tape.origins:
                    p.guard_all(output, "it is an output of the model", located=False)
        for (name, dim), axis in list(p.params.items()):
            reason = self.lost.get((name, dim))
            if reason is None and any(name.startswith(f"{prefix}.") for prefix in self.shielded):
                reason = "the user protects it"
            if reason is not None:
                p.guard(axis, reason, located=False)
        return gather(p, self.tapes, results, self.shapes, dict(self.choices))

    def _correct(self, units: Units, verdict: Refuted, *, last: bool) -> None:
        """Move the guilty source line on to its next option, or protect what meets there."""
        tape = self.tapes[verdict.turn]
        index = min(verdict.index, len(tape.ops) - 1)
        while index >= 0 and not last:
            guilty = self._guilty(units, tape, index)
            if guilty.size and (
                self._advance(units, guilty, verdict.turn, index) or self._ban(tape, index, str(verdict))
            ):
                return
            index -= 1
        for key, axis in units.params.items():
            if isinstance(axis, np.ndarray):
                self.lost[key] = str(verdict)

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
        nearest: tuple[int, Any] | None = None
        groups = np.unique(units.group_of[guilty])
        for key, site in units.sites.items():
            if self.choices.get(key, 0) >= site.options - 1:
                continue
            before = [i for t, i in site.at if t == turn and i <= index]
            if not before or (nearest is not None and max(before) <= nearest[0]):
                continue
            touches = not site.labels or any(
                np.isin(units.group_of[of[of >= 0]], groups).any() for of in (units.units(a) for a in site.labels)
            )
            if touches:
                nearest = (max(before), key)
        if nearest is None:
            return False
        self.choices[nearest[1]] = self.choices.get(nearest[1], 0) + 1
        return True

    def _ban(self, tape: Tape, index: int, why: str) -> bool:
        key = tape.ops[index].key
        if key in self.banned:
            return False
        self.banned[key] = why
        return True


def _uneven(units: Units, seed: int) -> Any:
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
    return keep


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
                    yield keep
