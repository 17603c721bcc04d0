"""Values made up for operators that need some, so that everything around them runs on the meta device.

A detector's last stage reads values: which boxes score high, which overlap. Its channels do not depend on them. So such
an operator alone runs on real tensors, filled with the same values in every recording. What depends neither on inputs
nor on weights (a mask of ones) is computed, not made up.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateurs.graph.operands import tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from secateurs.graph.recorder import Op

_MOST = 1 << 24
"""Largest number of values made up for one tensor."""

_LARGEST = 1 << 20
"""Most entries of a constant that is computed."""

_CPU = torch.device("cpu")

_CALLS = 300
"""Most operators of one forward that values are made up for: a loop that waits for a value may never end."""

_TRUE = 8
"""Number of true entries in a mask: lists of what a mask selects stay short."""

_COPY = torch.ops.aten._to_copy.default  # noqa: SLF001 (ATen's name): to the CPU, to be read there

_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten._unsafe_index.Tensor)  # noqa: SLF001

_READS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})


class TooManyError(RuntimeError):
    """Raised where a forward asks for too many values."""


def needs_values(func: Any, error: Exception) -> bool:
    """True if an operator failed on meta because it needs values: it says so, or has no kernel there."""
    return bool(_READS.intersection(func.tags)) or isinstance(error, NotImplementedError) or func.namespace != "aten"


class MadeUp:
    """Runs operators on made-up values; the same operators in the same order get the same values."""

    def __init__(self) -> None:
        """Nothing is made up yet."""
        self.count = 0
        self.operators: list[Any] = []
        self._values: dict[int, tuple[Tensor, Tensor]] = {}  # with the tensor, so that its identity stays its own
        self._known: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen = 0
        self.told: int | None = None
        """Number of the first operator whose made-up result Python code received, and may have branched on."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], ops: Sequence[Op]) -> Any:
        """Run an operator on real tensors; `ops`: those recorded before it."""
        self._compute_constants(ops)
        if self._knows((args, kwargs)):
            return func(*self._real(args), **{name: self._real(value) for name, value in kwargs.items()})
        self.count += 1
        if func not in self.operators:
            self.operators.append(func)
        selected = self._selected(func, args)
        if selected is not NotImplemented:
            return selected
        if self.count > _CALLS:
            message = f"the forward asked for values more than {_CALLS} times"
            raise TooManyError(message)
        args, kwargs = self._real(args), {name: self._real(value) for name, value in kwargs.items()}
        out = func(*args, **kwargs)
        if self.told is None and (func is _COPY or not isinstance(out, (Tensor, tuple, list))):
            self.told = len(ops)
        return out

    def _compute_constants(self, ops: Sequence[Op]) -> None:
        """Compute the results of operators that read neither inputs nor weights, and no random numbers.

        All other values are taken to be finite, so that a check for NaN and infinity is known too.
        """
        for op in islice(ops, self._seen, None):
            finite = _if_finite(op)
            if finite is not None:
                self._known[id(op.out)] = (op.out, finite)
            elif self._knows((op.args, op.kwargs)) and _certain(op):
                kwargs = {name: self._real(value) for name, value in op.kwargs.items()}
                kwargs |= {"device": _CPU} if "device" in kwargs else {}
                out = op.func(*self._real(op.args), **kwargs)
                for meta, real in zip(tensors(op.out), tensors(out), strict=True):
                    self._known[id(meta)] = (meta, real)
        self._seen = len(ops)

    def _knows(self, value: Any) -> bool:
        """True if all tensors of a nested value are real, or constants that were computed."""
        if isinstance(value, Tensor):
            return not value.is_meta or id(value) in self._known
        if isinstance(value, dict):
            return all(map(self._knows, value.values()))
        return not isinstance(value, (list, tuple)) or all(map(self._knows, value))

    def _real(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) in self._known:
                return self._known[id(value)][1]
            if not value.is_meta:  # of the model: an operator may write to it, so it gets a copy
                return self._known.setdefault(id(value), (value, value.detach().clone()))[1]
            if id(value) not in self._values:
                self._values[id(value)] = (value, _filled(value, len(self._values)))
            return self._values[id(value)][1]
        if type(value) in (list, tuple):
            return type(value)(self._real(v) for v in value)
        return value

    def _selected(self, func: Any, args: tuple[Any, ...]) -> Any:
        """Index a tensor by a mask: only the mask needs values. NotImplemented for any other call."""
        if (
            func not in _INDEXING
            or not args[0].is_meta
            or any(t is not None and t.dtype != torch.bool for t in args[1])
        ):
            return NotImplemented
        places = [None if t is None else self._real(t).nonzero(as_tuple=True) for t in args[1]]
        flat = [one for place in places for one in ([None] if place is None else [i.to("meta") for i in place])]
        return func(args[0], flat)


def _certain(op: Op) -> bool:
    """True if the results of an operator follow from its arguments, and are small."""
    name = op.func.overloadpacket.__name__
    random = torch.Tag.nondeterministic_seeded in op.func.tags
    return not random and "empty" not in name and all(t.numel() <= _LARGEST for t in tensors(op.out))


def _if_finite(op: Op) -> Tensor | None:
    """Return the result of a comparison with infinity or with itself, for finite values; None for other operators."""
    name = op.func.overloadpacket.__name__
    if name not in ("eq", "ne") or not isinstance(op.out, Tensor) or op.out.numel() > _LARGEST:
        return None
    itself, infinite = op.args[1] is op.args[0], op.args[1] == math.inf if isinstance(op.args[1], float) else False
    if not (itself or infinite):
        return None
    return torch.full(op.out.shape, itself == (name == "eq"), dtype=torch.bool)


def _filled(tensor: Tensor, number: int) -> Tensor:
    """Floats from 1 to 2, ones for integers, and masks with few true entries, evenly spread."""
    size = tensor.numel()
    if size > _MOST:
        message = f"{size} values would have to be made up for one tensor"
        raise TooManyError(message)
    if tensor.dtype == torch.bool:
        mask = torch.zeros(size, dtype=torch.bool)
        few = min(_TRUE, size)
        mask[torch.arange(few) * size // max(few, 1)] = True
        return mask.view(tensor.shape)
    if tensor.is_floating_point() or tensor.is_complex():
        draw = torch.Generator().manual_seed(number)
        return (torch.rand(tensor.shape, generator=draw) + 1).to(tensor.dtype)
    return torch.ones(tensor.shape, dtype=tensor.dtype)
