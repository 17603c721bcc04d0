"""Lifetimes of activations in a forward pass: from the operator that writes one to the last that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from secateurs.graph.recorder import tensors
from secateurs.types import Ints

if TYPE_CHECKING:
    from secateurs.graph.recorder import Op, Tape

aten = torch.ops.aten
_FREE = {aten._unsafe_view.default, aten.lift_fresh.default}  # noqa: SLF001


@dataclass(frozen=True, eq=False)
class Life:
    """An activation: the number of the operator that writes it, its place among the results, and its last reader."""

    born: int
    place: int
    tensor: Tensor
    last: int


def writes(op: Op) -> bool:
    """Return True if an operator allocates memory; views and in-place operators do not."""
    if op.func in _FREE:
        return False
    returns = op.func._schema.returns  # noqa: SLF001
    return not (len(returns) == 1 and returns[0].alias_info is not None)


def lives(tape: Tape) -> list[Life]:
    """Return the activations of a recording, in the order in which they are written.

    A view keeps its base alive; outputs of the model live to the end.
    """
    memory: dict[int, int] = {}  # of each tensor, the number of the activation that it lies in
    last: list[int] = []
    found: list[tuple[int, int, Tensor]] = []
    for index, op in enumerate(tape.ops):
        read = [*tape.reads[index], *tensors(tuple(op.kwargs.values()))]
        for t in read:
            if id(t) in memory:
                last[memory[id(t)]] = index
        for place, out in enumerate(tensors(op.out)):
            if writes(op):
                memory[id(out)] = len(found)
                found.append((index, place, out))
                last.append(index)
            elif read and id(read[0]) in memory:
                memory[id(out)] = memory[id(read[0])]
    for t in tape.outputs:
        if id(t) in memory:
            last[memory[id(t)]] = len(tape.ops)
    return [Life(*what, end) for what, end in zip(found, last, strict=True)]


@dataclass(frozen=True, eq=False)
class Alive:
    """Sets of activations that are alive together, at every moment just before one is freed; other moments have fewer.

    born: for each moment, the number of activations written until then; gone: the number already freed. leaving: the
    activations in the order in which they are freed.
    """

    born: Ints
    gone: Ints
    leaving: Ints

    @staticmethod
    def of(found: list[Life]) -> Alive:
        """Find the moments."""
        born = np.array([life.born for life in found], np.int64)
        last = np.array([life.last for life in found], np.int64)
        leaving = np.argsort(last, kind="stable")
        moments = np.unique(born[np.searchsorted(born, np.unique(last), "right") - 1]) if len(found) else born
        return Alive(np.searchsorted(born, moments, "right"), np.searchsorted(last[leaving], moments, "left"), leaving)

    def sums(self, sizes: Ints) -> Ints:
        """Add up the sizes [..., activations] of what is alive at each moment: [..., moments].

        The second activation is written while the first is alive, the third when it is gone:

        >>> Alive(np.array([2, 3]), np.array([0, 1]), np.array([0, 1, 2])).sums(np.array([5, 3, 1])).tolist()
        [8, 4]
        """
        before = np.zeros((*sizes.shape[:-1], 1), np.int64)
        written = np.concatenate([before, sizes.cumsum(-1)], -1)
        freed = np.concatenate([before, sizes[..., self.leaving].cumsum(-1)], -1)
        return written[..., self.born] - freed[..., self.gone]
