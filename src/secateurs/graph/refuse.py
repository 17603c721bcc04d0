"""Which models cannot be traced or pruned as they are, and what to do about it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from secateurs.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATISTICS = ("running_mean", "running_var")
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
        if _is_quantised(type(module)):
            raise ModelError(
                f"{path or 'The model'} is a quantised {type(module).__name__}: its weights are packed integers. "
                "Prune the floating-point model first, then quantise the result."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{path} is a TorchScript module: its code is frozen. Replace it by the original nn.Module."
            )
        for name, p in module._parameters.items():  # noqa: SLF001
            if type(p) in (UninitializedBuffer, UninitializedParameter):
                raise ModelError(
                    f"{path + '.' if path else ''}{name} has no shape yet (a lazy module). "
                    "Run the model once on an example first."
                )


@cache
def _is_quantised(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith(
        ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")
    )


def check_values(named: Mapping[str, Tensor]) -> None:
    """Refuse parameters and running statistics without values, or with NaN or infinite ones.

    Masks of -inf are common among other buffers and harmless. A finite sum has finite terms; only where one is not are
    the terms looked at (a sum may overflow), and all sums of a kind are looked at together.
    """
    sums: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
    for name, tensor in named.items():
        if tensor.is_meta:
            raise ModelError(
                f"{name} is on the meta device: it has a shape and no values. Units cannot be scored without values. "
                "Load the weights (model.to_empty, then load_state_dict) first."
            )
        if isinstance(tensor, nn.Parameter) or name.rpartition(".")[2] in _STATISTICS:
            total = tensor.detach().sum()
            sums.setdefault((total.device, total.dtype), {})[name] = total
    for found in sums.values():
        if bool(torch.isfinite(torch.stack(list(found.values()))).all()):
            continue
        for name, total in found.items():
            count = 0 if bool(torch.isfinite(total)) else int((~torch.isfinite(named[name])).sum())
            if count:
                raise ModelError(
                    f"{name} holds {count} values that are NaN or infinite, of {named[name].numel()}. "
                    "Scores and sums over them mean nothing, and would choose units at random. "
                    "Find out where training diverged, and prune a checkpoint from before."
                )
