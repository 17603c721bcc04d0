"""Weights that old-style hooks compute from others before each forward, and keep as a plain attribute meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


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
