"""Capture a network by torch.export, with a fixed or a free batch size."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from secateurs.errors import DeviceError
from secateurs.running.compare import Call
from secateurs.running.nested import find_tensors, map_tensors


def captured(model: nn.Module, call: Call, *, dynamic_batch: bool = False, most: int | None = None) -> Any:
    """Return the torch.export.ExportedProgram of a model in eval mode.

    dynamic_batch: the first dimension of every input tensor is free, up to `most`. Raises DeviceError if torch.export
    cannot capture the model.
    """
    args, kwargs = call if not dynamic_batch else doubled(call) if most is None else repeated(call, most)
    shapes = free_batch(args, kwargs, most) if dynamic_batch else None
    try:
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
    except Exception as cause:
        reason = " ".join(str(cause).split())[:300]
        raise DeviceError(f"torch.export cannot capture the model ({type(cause).__name__}): {reason}") from cause


def free_batch(args: tuple[Any, ...], kwargs: dict[str, Any], most: int | None = None) -> Any:
    """Return dynamic shapes for torch.export in which the first dimension of every input is the batch, up to `most`."""
    batch = torch.export.Dim("batch", max=most)  # one for all inputs, because they count the same samples
    free, named = map_tensors((args, kwargs), lambda t: {0: batch} if t.dim() else {})
    return (*free, *named.values())


def doubled(call: Call) -> Call:
    """Repeat every sample of the inputs: torch.export treats a dimension of size 1 as a constant."""
    return map_tensors(call, lambda t: torch.cat([t, t]) if t.dim() else t)


def repeated(call: Call, size: int) -> Call:
    """Repeat the samples of the inputs, or leave some out, to a batch size."""
    return map_tensors(call, lambda t: t.repeat(-(-size // t.shape[0]), *[1] * (t.dim() - 1))[:size] if t.dim() else t)


def batch_of(call: Call) -> int:
    """Return the batch size of the inputs: the first dimension of the first tensor that has one."""
    return next((len(t) for t in find_tensors(call) if t.dim()), 1)
