"""Which models cannot be traced or pruned as they are, and what to do about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from secateurs.errors import ModelError

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def check_model(model: Any) -> nn.Module:
    """The module that holds the weights: wrappers are taken off, what cannot be pruned is refused.

    Raises: ModelError for anything but an eager, floating-point `nn.Module`.
    """
    if isinstance(model, _WRAPPERS):
        return check_model(model.module)
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"{type(model).__name__} is a TorchScript module: its code is frozen and cannot be pruned. "
            "Prune the original nn.Module, then script it again."
        )
    original = getattr(model, "_orig_mod", None)
    if isinstance(original, nn.Module):
        return check_model(original)
    if not isinstance(model, nn.Module):
        raise ModelError(f"A model must be a torch.nn.Module, not {type(model).__name__}.")
    _refuse_parts(model)
    return model


def _refuse_parts(model: nn.Module) -> None:
    for path, module in model.named_modules():
        origin = type(module).__module__
        if origin.startswith(("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise ModelError(
                f"{path or 'The model'} is a quantised {type(module).__name__}: its weights are packed integers. "
                "Prune the floating-point model first, then quantise the result."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{path} is a TorchScript module: its code is frozen. Replace it by the original nn.Module."
            )
        for name, p in module._parameters.items():  # noqa: SLF001
            if isinstance(p, (UninitializedBuffer, UninitializedParameter)):
                raise ModelError(
                    f"{path + '.' if path else ''}{name} has no shape yet (a lazy module). "
                    "Run the model once on an example first."
                )
