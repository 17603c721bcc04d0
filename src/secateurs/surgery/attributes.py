"""Module attributes that follow a width, so that a pruned module describes itself truly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RMS = getattr(nn, "RMSNorm", nn.LayerNorm)


def fit_attributes(model: nn.Module) -> dict[tuple[str, str], Any]:
    """(module path, attribute) -> the value that the module's tensors call for, only where it differs."""
    found: dict[tuple[str, str], Any] = {}
    for path, module in model.named_modules():
        for attribute, value in _fitting(module, _tensor_of(module)).items():
            if getattr(module, attribute) != value:
                found[path, attribute] = value
    return found


def _tensor_of(module: nn.Module) -> Callable[[str], Tensor | None]:
    def read(name: str) -> Tensor | None:
        value = getattr(module, name, None)
        return value if isinstance(value, Tensor) else None

    return read


def _fitting(module: nn.Module, tensor: Callable[[str], Tensor | None]) -> dict[str, Any]:
    weight = tensor("weight")
    if weight is None:
        statistic = tensor("running_mean")
        return {"num_features": statistic.shape[0]} if statistic is not None and hasattr(module, "num_features") else {}
    shape = tuple(weight.shape)
    if isinstance(module, _CONVS):
        return {"out_channels": shape[0], "in_channels": shape[1] * module.groups}
    if isinstance(module, _TRANSPOSED):
        return {"in_channels": shape[0], "out_channels": shape[1] * module.groups}
    if isinstance(module, nn.Linear):
        return {"out_features": shape[0], "in_features": shape[1]}
    if isinstance(module, nn.Bilinear):
        return {"out_features": shape[0], "in1_features": shape[1], "in2_features": shape[2]}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    if isinstance(module, (nn.LayerNorm, _RMS)):
        return {"normalized_shape": shape}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": shape[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": shape[0]}
    if isinstance(module, nn.modules.batchnorm._NormBase):  # noqa: SLF001
        return {"num_features": shape[0]}
    return {}


def derived(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Give module, attribute and its value computed anew, for weight norm, spectral norm and torch's own pruning masks.

    Until the next forward the attribute would keep its old shape, and the module would describe itself by it.
    """
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001
            if isinstance(hook, WeightNorm):
                yield module, hook.name, hook.compute_weight(module)
            elif isinstance(hook, SpectralNorm):
                yield module, hook.name, hook.compute_weight(module, do_power_iteration=False)
            elif isinstance(hook, BasePruningMethod):
                yield module, hook._tensor_name, hook.apply_mask(module)  # noqa: SLF001
