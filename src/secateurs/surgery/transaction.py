"""Transactions: every write to a model is recorded, and undone if a later one fails."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import partial
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor, nn


@final
class Transaction:
    """A block of writes of which either all or none take effect.

    >>> weight = torch.nn.Parameter(torch.ones(4))
    >>> try:
    ...     with Transaction() as transaction:
    ...         transaction.swap(weight, torch.ones(2), None)
    ...         raise KeyboardInterrupt
    ... except KeyboardInterrupt:
    ...     weight.shape
    torch.Size([4])
    """

    def __init__(self) -> None:
        """Start with nothing to undo."""
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Transaction:
        """Open the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo all writes, last first, if the block raised."""
        if error is not None:
            for undo in reversed(self._undo):
                undo()
        self._undo.clear()

    def swap(self, tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
        """Set a parameter's or buffer's contents and gradient; it stays the same object, also for optimizers."""
        self._undo.append(partial(_assign, tensor, tensor.data, tensor.grad))
        _assign(tensor, data, grad)

    def put(self, mapping: MutableMapping[str, object], key: str, value: object) -> None:
        """Replace the value of an existing key."""
        self._undo.append(partial(mapping.__setitem__, key, mapping[key]))
        mapping[key] = value

    def drop(self, mapping: MutableMapping[Any, object], key: Any) -> None:
        """Remove an existing key."""
        self._undo.append(partial(mapping.__setitem__, key, mapping[key]))
        del mapping[key]

    def assign(self, module: nn.Module, attribute: str, value: object) -> None:
        """Replace the value of an existing attribute."""
        self._undo.append(partial(setattr, module, attribute, getattr(module, attribute)))
        setattr(module, attribute, value)

    def restate(self, module: nn.Module, state: object) -> None:
        """Set a module's extra state (`set_extra_state`)."""
        self._undo.append(partial(module.set_extra_state, module.get_extra_state()))
        module.set_extra_state(state)


def _assign(tensor: Tensor, data: Tensor, grad: Tensor | None) -> None:
    tensor.grad = None
    if tensor.requires_grad:
        # autograd caches the shape of a leaf while any old loss is alive, and resets it only when the type
        # changes: without this detour the next backward fails if the caller still has the last loss
        other = torch.float16 if tensor.dtype != torch.float16 else torch.float32
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data
    tensor.grad = grad
