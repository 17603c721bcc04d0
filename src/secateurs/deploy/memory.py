"""Activation memory of one forward pass: bytes written, and the most bytes alive at once."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from secateurs.running.nested import as_call, find_tensors
from secateurs.running.untouched import untouched


@final
@dataclass(frozen=True)
class ActivationMemory:
    """Bytes of one forward pass in eager PyTorch, parameters and inputs not counted.

    written: sum over all activations that operators write (views and in-place results add none), as in
    `Budget(memory=...)`. peak: largest sum alive at one moment, which a device needs besides the weights.
    """

    written: int
    peak: int


def activation_memory(model: nn.Module, example_inputs: Any) -> ActivationMemory:
    """Run a model once in eval mode on `example_inputs` and count the bytes of its activations.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> activation_memory(net, torch.zeros(1, 4))  # 32 + 32 + 8 bytes; the two of 32 are alive together
    ActivationMemory(written=72, peak=64)
    """
    args, kwargs = as_call(example_inputs)
    given = [*model.parameters(), *model.buffers(), *find_tensors((args, kwargs))]
    watch = _Watch(given)
    with untouched(model), torch.no_grad(), watch:
        model(*args, **kwargs)
    return ActivationMemory(watch.written, watch.peak)


@final
class _Watch(TorchDispatchMode):
    """Counts the storages that operators allocate, until they are freed."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()
        self.written = self.alive = self.peak = 0
        self._known: dict[int, Any] = {}
        self._given = {t.untyped_storage()._cdata for t in given}  # noqa: SLF001 (how torch tells storages apart)

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in find_tensors(out):
            self._see(tensor.untyped_storage())
        self.peak = max(self.peak, self.alive)
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001 (as above)
        if key in self._given or key in self._known:
            return
        self.written += size
        self.alive += size

        def gone(_: Any) -> None:
            self.alive -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
