"""Proof by labels: run a shrunken twin and compare the result of every operator with the recorded one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateurs.graph.following import follow_patches
from secateurs.graph.integers import numbers
from secateurs.graph.label_arrays import chosen
from secateurs.graph.labels import ANY, Choices, Fresh, Lab
from secateurs.graph.propagate import Misaligned, Propagation, tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from secateurs.graph.grouping import Units
    from secateurs.graph.recorder import Op, Tape
    from secateurs.graph.source import Source
    from secateurs.network import Network
    from secateurs.types import Mask


@dataclass(frozen=True)
class Disproof:
    """A trial that failed, and why: at operator `index` of recording `turn`; `another_path`: other operators ran."""

    why: str
    turn: int
    index: int
    another_path: bool = False


def surviving(units: Units, alive: Mask, keep: Mask) -> dict[tuple[str, int], NDArray[np.int64]]:
    """Return (tensor, dim) -> positions of the present entries that `keep` leaves, for dimensions that lose any."""
    survivors = units.axes.survivors(alive, keep)
    return {key: index for key, k in units.labelled if (index := survivors[k]) is not None}


def disprove(units: Units, source: Source, view: Network, alive: Mask, keep: Mask) -> Disproof | None:
    """Try the plan `keep` (units) on a copy of a model of which `alive` units remain; None if it holds."""
    kept = surviving(units, alive, keep)
    try:
        patches = follow_patches(units, view, keep, kept)
    except Misaligned as error:
        return Disproof(str(error), 0, 0)
    for turn, training in enumerate(source.passes):
        shrunk = source.tape(view, training=training, kept=kept, attributes=patches)
        reference = Reference(units.tapes[turn], units.results[turn], units.picked)
        if source.real:
            reference = _silent_twin(units, source, view, turn, alive, kept)
        found = _compare(units, turn, reference, shrunk, keep)
        if found is not None:
            return found
    return None


class Reference(NamedTuple):
    """The reference of a comparison: a recording, the axes of its results, and the options that rules took."""

    tape: Tape
    results: Any
    picked: dict[Any, Any]


def _silent_twin(units: Units, source: Source, view: Network, turn: int, alive: Mask, kept: Any) -> Reference:
    """Record the masked model as the reference: on real tensors, values decide which operators run."""
    gone = {}
    for (name, dim), index in kept.items():
        of = units.units(units.params[name, dim])
        size = int(chosen(alive, of).sum())
        gone[name, dim] = np.setdiff1d(np.arange(size), index)
    tape = source.tape(view, training=source.passes[turn], silent=gone)
    params = _living(units, alive)
    p = Propagation(
        params,
        choices=Choices(units.refused, before=units.sites),
        banned={},
        attributes=numbers(view),
        turn=turn - 1,
    )
    results = collect_results(p, tape)
    last = max((i for i, op in enumerate(tape.ops) if _carries(units, p, op, results[i])), default=-1)
    del tape.ops[last + 1 :]
    return Reference(tape, results, p.choices.picked)


def _living(units: Units, alive: Mask) -> dict[tuple[str, int], Any]:
    """Return the labels of every parameter without removed units; equal axes stay one object."""
    if alive.all():
        return dict(units.params)
    known: dict[int, Any] = {}
    for axis in units.params.values():
        if isinstance(axis, np.ndarray) and id(axis) not in known:
            of = units.units(axis)
            known[id(axis)] = axis[chosen(alive, of)]
    return {key: known.get(id(axis), axis) for key, axis in units.params.items()}


def _carries(units: Units, p: Propagation, op: Op, outs: Any) -> bool:
    """True if removable units pass through an operator; operators after the last such one may depend on values."""
    axes = [a for out in outs for a in out]
    axes += [a for t in tensors(op.args) if id(t) in p.labs for a in p.labs[id(t)].axes]
    for axis in axes:
        labels = p.settle(axis)
        if isinstance(labels, np.ndarray) and labels.size and labels.max() < units.unit_of.size:
            of = units.units(labels)
            if (units.group_of[of[of >= 0]] >= 0).any():
                return True
    return False


def collect_results(p: Propagation, tape: Tape) -> list[tuple[tuple[Any, ...], ...]]:
    """Run the rules over a tape and return the axes of every result, as they were at that moment."""
    results: list[tuple[tuple[Any, ...], ...]] = []
    labs = p.labs

    def note(_: int, op: Op) -> None:
        out = op.out
        if isinstance(out, Tensor):
            lab = labs.get(id(out))
            results.append((lab.axes if lab is not None else (None,) * out.dim(),))
        else:
            results.append(tuple((labs[id(t)].axes if id(t) in labs else (None,) * t.dim()) for t in tensors(out)))

    p.run(tape, watch=note)
    return results


def _compare(units: Units, turn: int, against: Reference, shrunk: Tape, keep: Mask) -> Disproof | None:
    expected = _expectation(units, keep)
    reference, results, picked = against
    count = min(len(reference.ops), len(shrunk.ops))
    together = next((i for i in range(count) if reference.ops[i].func is not shrunk.ops[i].func), count)
    params = {key: expected(axis) for key, axis in units.params.items()}

    def hints(index: int) -> Any:
        return [tuple(expected(axis) for axis in axes) for axes in results[index]]

    shrunk.broken = reference.broken
    p = Propagation(
        params,
        choices=Choices(picked=picked),
        banned={},
        attributes=lambda _path, _name: {},
        hints=hints,
        whole=reference.ops,
        turn=turn - 1,
    )

    def watch(i: int, op: Op) -> None:
        _same_constants(p, reference.ops[i], op)
        for k, t in enumerate(tensors(op.out)):
            _hold(p, t, reference.ops[i], k, results[i][k], expected)

    try:
        p.run(_prefix(shrunk, together), watch=watch)
    except Misaligned as error:
        return Disproof(str(error), turn, p.index)
    except Exception as error:  # noqa: BLE001 (a rule that meets what it never met while collecting)
        return Disproof(f"the shrunken network has other shapes ({error}) at {p.op.where}", turn, p.index)
    return _parted(reference, shrunk, (together, count), turn)


def _parted(reference: Tape, shrunk: Tape, alike: tuple[int, int], turn: int) -> Disproof | None:
    """Return the failure if the shrunken network ran other operators; alike: (equal operators, operators compared)."""
    together, count = alike
    if together < count:
        where = reference.ops[together].where
        return Disproof(f"the forward takes another path at {where}", turn, together, another_path=True)
    if shrunk.error is not None:
        # An operator may fail before it is dispatched: it is the one that came next when the whole network ran.
        failed = len(shrunk.ops) - 1 if shrunk.ops and shrunk.ops[-1].out is None else len(shrunk.ops)
        failed = min(failed, len(reference.ops) - 1)
        return Disproof(
            f"the forward fails on a narrower network ({_brief(shrunk.error)}) at {reference.ops[failed].where}",
            turn,
            failed,
        )
    if len(reference.ops) != len(shrunk.ops) and not shrunk.real:
        why = "the forward runs another number of operators on a narrower network"
        return Disproof(why, turn, count - 1, another_path=True)
    return None


def _prefix(tape: Tape, count: int) -> Tape:
    del tape.ops[count:]
    return tape


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__


def _expectation(units: Units, keep: Mask) -> Callable[[Any], Any]:
    """Return a function from a recorded axis to its units without the removed ones."""
    known: dict[int, Any] = {}

    def expected(axis: Any) -> Any:
        if type(axis) is Fresh:
            axis = units.params.get((axis.name, axis.dim))
        if not isinstance(axis, np.ndarray):
            return axis
        found = known.get(id(axis))
        if found is None:
            of = units.units(axis)
            found = known[id(axis)] = of[chosen(keep, of)]
        return found

    return expected


def _hold(p: Propagation, tensor: Tensor, op: Op, k: int, axes: Any, expected: Callable[[Any], Any]) -> None:
    """Check that a result of the shrunken run is the recorded one without the removed units."""
    got = p.labs.get(id(tensor))
    if got is None:
        return
    shape = tensor.shape
    original = None
    if len(shape) != len(axes) or len(got.axes) != len(axes):
        p.fail("a tensor has another number of dimensions")
    held: list[Any] = []
    for d, axis in enumerate(axes):
        want = expected(axis)
        have = p.settle(got.axes[d])
        if isinstance(want, np.ndarray):
            if (
                have is not want
                and have is not ANY
                and not (isinstance(have, np.ndarray) and np.array_equal(have, want))
            ):
                p.fail("units end up at other places")
            if shape[d] != want.size:
                p.fail("a dimension has another size than its units")
        elif want is None and not p.tape.real:
            original = original if original is not None else _shape(op, k)
            if original is not None and shape[d] != original[d]:
                p.fail("a dimension of fixed size changes with the width")
        held.append(want)
    p.labs[id(tensor)] = Lab(tuple(held), zero=got.zero)


def _shape(op: Op, k: int) -> Any:
    found = list(tensors(op.out))
    return found[k].shape if k < len(found) else None


_VALUES = frozenset({"scalar_tensor", "full", "full_like", "new_full", "fill_"})


def _same_constants(p: Propagation, was: Op, now: Op) -> None:
    """Check that no number in point-wise arithmetic depends on a width."""
    func = now.func
    if torch.Tag.pointwise in func.tags or func.overloadpacket.__name__ in _VALUES:
        for a, b in zip((*was.args, *was.kwargs.values()), (*now.args, *now.kwargs.values()), strict=False):
            if isinstance(a, (int, float)) and isinstance(b, (int, float)) and a != b:
                p.fail(f"a constant changes with the width ({a:g} becomes {b:g})")
    elif (
        not p.tape.real
        and isinstance(now.out, Tensor)
        and not now.out.is_meta
        and isinstance(was.out, Tensor)
        and not was.out.is_meta
    ):
        same = now.out.shape != was.out.shape or now.out.numel() > 4096 or bool(torch.equal(now.out, was.out))
        if not same:
            p.fail("a constant tensor changes with the width")
