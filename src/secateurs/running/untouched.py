"""Run a model without leaving a trace on it."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from itertools import chain

import numpy as np
import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """Return where the model lives: the device of its first parameter or buffer."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def untouched(model: nn.Module) -> Generator[ExitStack, None, None]:
    """Evaluate `model` for a while: eval mode inside; modes, hooks, every random generator as before outside.

    Hooks go onto the yielded stack (`stack.callback(handle.remove)`). Modes are set as plain attributes, because a
    model may override `train()` with lasting effects. Parameters and buffers are the caller's business: see `Pass`.
    """
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack, _generators(device_of(model)), torch.inference_mode(mode=False):
        try:
            # The fused encoder never calls its inner modules, so their hooks would stay silent.
            torch.backends.mha.set_fastpath_enabled(False)
            for module, _ in modes:
                module.training = False
            yield stack
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, mode in modes:
                module.training = mode


@contextmanager
def _generators(device: torch.device) -> Generator[None, None, None]:
    """Put the generators of torch, NumPy and Python back: a loader draws seeds, an augmentation draws numbers."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is what must be restored
    accelerated = device.type not in ("cpu", "meta")
    devices = [device.index or 0] if accelerated else []
    fork = torch.random.fork_rng(devices, device_type=device.type) if accelerated else torch.random.fork_rng(devices)
    with fork:
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
