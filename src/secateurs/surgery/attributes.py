"""Update module attributes that hold a width (`out_channels`, `num_features`) after pruning."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from secateurs.graph.fitting import fitting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def fit_attributes(model: nn.Module) -> dict[tuple[str, str], Any]:
    """Return (module path, attribute) -> new value, for attributes that no longer fit the shapes of tensors."""
    found: dict[tuple[str, str], Any] = {}
    for path, module in model.named_modules():
        for attribute, value in fitting(module, _shape_of(module), partial(getattr, module)).items():
            if getattr(module, attribute) != value:
                found[path, attribute] = value
    return found


def _shape_of(module: nn.Module) -> Callable[[str], tuple[int, ...] | None]:
    def read(name: str) -> tuple[int, ...] | None:
        value = getattr(module, name, None)
        return tuple(value.shape) if isinstance(value, Tensor) else None

    return read


def derived(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield module, attribute and recomputed value, for weight norm, spectral norm and `torch.nn.utils.prune` masks.

    Otherwise the attribute would have its old shape until the next forward.
    """
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001
            if isinstance(hook, WeightNorm):
                yield module, hook.name, hook.compute_weight(module)
            elif isinstance(hook, SpectralNorm):
                yield module, hook.name, hook.compute_weight(module, do_power_iteration=False)
            elif isinstance(hook, BasePruningMethod):
                yield module, hook._tensor_name, hook.apply_mask(module)  # noqa: SLF001
