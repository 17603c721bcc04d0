"""Values made up for operators that need some, so that everything around them runs on the meta device.

A detector's last stage reads values: which boxes score high, which overlap. Its channels do not depend on them. So such
an operator alone runs on real tensors, filled with the same values in every recording.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MOST = 1 << 24
"""Largest number of values made up for one tensor."""

_CALLS = 1000
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
        self.told: int | None = None
        """Number of the first operator whose made-up result Python code received, and may have branched on."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], index: int) -> Any:
        """Run an operator, of this number in its recording, on real tensors."""
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
            self.told = index
        return out

    def _real(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_meta and id(value) not in self._values:
                self._values[id(value)] = (value, _filled(value, len(self._values)))
            return self._values[id(value)][1] if value.is_meta else value
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
