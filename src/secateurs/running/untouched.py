"""Run a model in eval mode, and restore modes, hooks and random generators afterwards."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from itertools import chain

import torch
from torch import nn

from secateurs.running.process import process_kept


def device_of(model: nn.Module) -> torch.device:
    """Return the model's device: the device of its first parameter or buffer."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def untouched(model: nn.Module) -> Generator[ExitStack, None, None]:
    """Context in which `model` is in eval mode; modes, hooks and random generators are restored on leaving.

    Hooks go onto the yielded stack (`stack.callback(handle.remove)`). Modes are set as plain attributes, because a
    model may override `train()` with lasting effects. Parameters and buffers are not protected here: see
    `evidence.observe.Pass`.
    """
    modes = [(module, module.training) for module in model.modules()]
    with ExitStack() as stack, process_kept(device_of(model), unfused=True), torch.inference_mode(mode=False):
        try:
            for module, _ in modes:
                module.training = False
            yield stack
        finally:
            for module, mode in modes:
                module.training = mode
