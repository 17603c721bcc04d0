"""The engine: carry labels along a tape (a recorded forward), operator by operator, by the rules of the tape's table.

The same rules run in two modes. *Collecting* unites labels that meet. *Checking* (`hints` are given) runs on the tape
of a shrunken twin, a copy of the network without some units whose parameters carry unit numbers, and compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from secateurs.graph.labels import ANY, FIXED, Equal, Follow, Fresh, Lab, Space, agree, mix
from secateurs.graph.recorder import tensors
from secateurs.network import is_torchs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from secateurs.graph.labels import Choices, Labels
    from secateurs.graph.recorder import Op, Tape


class Misaligned(Exception):  # noqa: N818 (caught inside the proof, no error)
    """Raised while checking: the shrunken twin differs from the whole network with the removed units deleted."""


class Propagation:
    """The state of one pass of labels over one or more tapes."""

    def __init__(
        self,
        params: dict[tuple[str, int], Any],
        *,
        choices: Choices,
        banned: Mapping[Any, str],
        attributes: Callable[[str, str], Any],
        hints: Callable[[int], tuple[Any, ...]] | None = None,
        whole: Sequence[Op] = (),
        turn: int = -1,
    ) -> None:
        """`params`: (tensor, dim) -> labels, filled while collecting, given while checking.

        `choices`: decides among options; `banned`: (operator key, module class) -> why its labels are protected;
        `attributes`: (module path, name) -> the module's value, or None.
        `hints`: if given, compare instead of collect: operator -> the axes that its results should have; `whole`: the
        operators of the whole network; `turn`: index of the last recording already processed (-1: none).
        """
        self.params = params
        self.choices = choices
        self.banned = banned
        self.attribute = attributes
        self.check = hints is not None
        self.hints = hints
        self.whole = whole
        self.turn = turn
        self.space = Space()
        self.labs: dict[int, Lab] = {}
        self.parents: dict[int, tuple[Op, Tensor]] = {}
        self.guarded: list[tuple[Labels, str, Op | None]] = []
        self.left_out: list[tuple[Labels, Op]] = []
        self.inexact_at: list[tuple[Labels, Op]] = []
        self.follows: list[Follow] = []
        self.equals: list[Equal] = []
        self.roles: dict[tuple[str, int], str] = {}
        self.adopted: dict[tuple[str, int], Op] = {}
        self.fixed_because: dict[tuple[str, int], tuple[str, Op | None]] = {}
        self.tape: Tape
        self.op: Op
        self.index = self.entered = 0
        self._plain: dict[int, tuple[Labels, bool]] = {}

    # --- running ---

    def run(self, tape: Tape, *, watch: Callable[[int, Op], None] | None = None) -> None:
        """Apply the rule of every operator of a tape, in order."""
        self.tape = tape
        self.turn += 1
        inside = None
        for self.index, self.op in enumerate(tape.ops):
            if self.op.module != inside:
                inside, self.entered = self.op.module, self.index
            if self.op.out is None and tape.error is not None and self.index == len(tape.ops) - 1:
                break
            self._apply_rule(tape)
            self._apply_ban()
            if watch is not None:
                watch(self.index, self.op)

    def _apply_rule(self, tape: Tape) -> None:
        """Apply the current operator's rule; if that fails, only the units at this operator are protected."""
        if self.index not in tape.broken:
            try:
                tape.rules[self.op.func](self, self.op)
            except Misaligned:
                raise
            except Exception as error:
                if self.check:
                    raise
                tape.broken[self.index] = f"its rule fails ({type(error).__name__}: {error})"
            else:
                return
        for tensor in (*tensors(self.op.args), *tensors(tuple(self.op.kwargs.values()))):
            self.guard_all(tensor, tape.broken[self.index])
        for tensor in tensors(self.op.out):
            self.set(tensor, (None,) * tensor.dim())

    def _apply_ban(self) -> None:
        reason = self.banned and self.banned.get((*self.op.key, self.attribute(self.op.module, "__class__")))
        if reason:
            for tensor in (*tensors(self.op.args), *tensors(self.op.out)):
                self.guard_all(tensor, str(reason), located=False)

    def get(self, tensor: Tensor) -> Lab:
        """The labels of a tensor; parameters and buffers are known by name, anything new is fixed."""
        lab = self.labs.get(id(tensor))
        if lab is not None:
            for a in lab.axes:
                if type(a) is Fresh:
                    lab.axes = tuple(self.settle(a) for a in lab.axes)
                    break
            return lab
        name = self.tape.origins.get(id(tensor))
        if name is None:
            axes: tuple[Any, ...] = (None,) * tensor.dim()
        else:
            params = self.params
            axes = tuple(
                [
                    params[name, d] if (name, d) in params else Fresh(name, d, n) if n > 1 else None
                    for d, n in enumerate(tensor.shape)
                ]
            )
        lab = self.labs[id(tensor)] = Lab(axes)
        return lab

    def settle(self, axis: Any) -> Any:
        """Return the labels that a `Fresh` axis has taken since, or the axis itself."""
        return self.params.get((axis.name, axis.dim), axis) if type(axis) is Fresh else axis

    def set(self, tensor: Tensor, axes: tuple[Any, ...], *, zero: bool = True) -> None:
        """Give a result its labels."""
        self.labs[id(tensor)] = Lab(axes, zero=zero)

    # --- operations on labels ---

    def adopt(self, axis: Fresh, labels: Any, role: str = "other") -> None:
        """Give a parameter's dimension the labels of the first axis that it is joined with."""
        key = (axis.name, axis.dim)
        self.params[key] = labels
        self.roles.setdefault(key, role)
        self.adopted.setdefault(key, self.op)
        if labels is None:
            self.fixed_because.setdefault(key, ("it meets a dimension of fixed size", self.op))
        elif isinstance(labels, np.ndarray) and not self.plain(labels):
            self.fixed_because.setdefault(key, ("it meets fixed entries (padding, constants)", self.op))

    def fresh(self, axis: Any, role: str = "other") -> Any:
        """Return the labels of an axis that passes on unchanged; a new parameter dimension gets labels of its own."""
        if type(axis) is not Fresh:
            return axis
        known = self.params.get((axis.name, axis.dim), axis)
        if known is axis:
            known = self.space.fresh(axis.size) if axis.size > 1 else None
            self.adopt(axis, known, role)
        return known

    def meet(self, a: Any, b: Any, role: str = "other") -> Any:
        """Join two axes of equal size element by element: kept or removed together. Returns the labels."""
        if type(a) is Fresh:
            a = self.settle(a)
        if type(b) is Fresh:
            b = self.settle(b)
        if a is b:
            return self.fresh(a)
        if b is ANY or type(a) is Fresh:
            a, b = b, a
        if a is ANY:
            return self.fresh(b)
        if type(b) is Fresh:
            a = self.fresh(a)
            self.adopt(b, a, role)
            return a
        if self.check:
            return self._compare(a, b)
        if a is None or b is None:
            self.guard(b if a is None else a, "the units meet a dimension of fixed size")
            return None
        return self._unite(a, b)

    def _unite(self, a: Labels, b: Labels) -> Labels:
        if self.plain(a) and self.plain(b):
            self.space.join(a, b, self.op)
            return a
        reason = "the units meet fixed entries (padding, constants)"
        self.guard(b[(a == FIXED) & (b >= 0)], reason)
        self.guard(a[(b == FIXED) & (a >= 0)], reason)
        self.space.join(a, b, self.op)
        return mix(a, b)

    def _compare(self, a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None  # while collecting, this protected the other side's units
        if a.shape != b.shape or not agree(a, b):
            self.fail("units of one kind meet units of another")
        return a if self.plain(a) else mix(a, b)

    def plain(self, labels: Labels) -> bool:
        """True if every entry is a real label (remembered by identity)."""
        known = self._plain.get(id(labels))
        if known is None or known[0] is not labels:
            known = self._plain[id(labels)] = (labels, bool(labels.size == 0 or labels.min() >= 0))
        return known[1]

    def merge(self, rows: Labels) -> Labels:
        """Join rows of equal length position by position; returns the common row of labels."""
        first = rows[0]
        if not self.check:
            for row in rows[1:]:
                first = self._unite(first, row)
            return first
        if bool((rows == first).all()):
            return first
        for row in rows[1:]:
            if not agree(first, row):
                self.fail("blocks keep different positions")
            first = mix(first, row)
        return first

    def guard(self, labels: Any, reason: str, *, located: bool = True) -> None:
        """Protect these units; to a `located` reason the current operator, module and line are added."""
        if labels is None:
            return
        if type(labels) is Fresh:
            labels = self.settle(labels)
            if type(labels) is Fresh:
                self.params[labels.name, labels.dim] = None
                self.fixed_because.setdefault((labels.name, labels.dim), (reason, self.op if located else None))
                return
        if isinstance(labels, np.ndarray) and not self.check and labels.size:
            self.guarded.append((labels, reason, self.op if located else None))

    def guard_all(self, tensor: Tensor, reason: str, *, located: bool = True) -> None:
        """Protect every unit that has entries in this tensor."""
        for axis in self.get(tensor).axes:
            self.guard(axis, reason, located=located)

    def inexact(self, labels: Any) -> None:
        """Mark these units inexact: the current operator averages, compares or normalises over them."""
        labels = self.settle(labels)
        if isinstance(labels, np.ndarray) and not self.check:
            self.inexact_at.append((labels, self.op))

    def choose(self, kind: str, labels: Any, options: list[Any]) -> Any:
        """Return the option that a rule takes at this source line: the next one after each trial that fails."""
        place = (*self.op.key, self.index - self.entered if self.in_torch else 0, kind)
        return self.choices.take((self.turn, self.index, kind), place, labels, options)

    @property
    def in_torch(self) -> bool:
        """True if this is a module of torch's own: one line of the user's runs all of it."""
        kind = self.attribute(self.op.module, "__class__")
        return isinstance(kind, type) and is_torchs(kind)

    def hint(self, k: int = 0) -> Any:
        """Checking: the axes that result `k` of the current operator should have."""
        assert self.hints is not None  # noqa: S101 (only asked while checking)
        return self.hints(self.index)[k]

    def original(self, op: Op) -> Op:
        """Checking: the current operator as the whole network ran it; collecting, the operator itself."""
        return self.whole[self.index] if self.check else op

    def follow(self, attribute: str, labels: Labels) -> None:
        """Record that the current module's attribute counts how many of these labels are kept."""
        self.follows.append(Follow(self.op.module, attribute, labels, (self.turn, self.index)))

    def equal(self, left: Labels, right: Labels) -> None:
        """Record that two axes must keep equal numbers of entries: the code uses the size of one for the other."""
        self.equals.append(Equal(left, right, (self.turn, self.index)))

    def fail(self, why: str) -> None:
        """Report a difference found while checking."""
        raise Misaligned(f"{why} at {self.op.where}")

    # --- results ---

    def alias(self, view: Tensor, base: Tensor) -> None:
        """Remember that a result is a view, so that writing into it updates the base."""
        if view is not base:
            self.parents[id(view)] = (self.op, base)
