"""Integers of standard modules (`in_channels`, `num_features`, ...), computed from the shapes of their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Shape = tuple[int, ...]
ShapeOf = Callable[[str], Shape | None]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RMS = getattr(nn, "RMSNorm", nn.LayerNorm)


def fitting(module: nn.Module, shape_of: ShapeOf, number: Callable[[str], Any]) -> dict[str, Any]:
    """Return attribute -> the value that a module of torch.nn needs for tensors of these shapes.

    `shape_of`: a tensor's name in the module -> its shape, or None; `number`: an attribute's value (`groups`, ...).

    >>> fitting(nn.Linear(3, 4), {"weight": (2, 3), "bias": (2,)}.get, lambda name: None)
    {'out_features': 2, 'in_features': 3}
    """
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module, shape_of, number)
    if isinstance(module, nn.RNNBase):
        return _recurrent(module, shape_of)
    weight = shape_of("weight")
    if weight is None:
        statistic = shape_of("running_mean")
        return {"num_features": statistic[0]} if statistic is not None and hasattr(module, "num_features") else {}
    return _plain(module, weight, number)


def _plain(module: nn.Module, weight: Shape, number: Callable[[str], Any]) -> dict[str, Any]:
    if isinstance(module, _CONVS):
        return {"out_channels": weight[0], "in_channels": weight[1] * number("groups")}
    if isinstance(module, _TRANSPOSED):
        return {"in_channels": weight[0], "out_channels": weight[1] * number("groups")}
    if isinstance(module, nn.Linear):
        return {"out_features": weight[0], "in_features": weight[1]}
    if isinstance(module, nn.Bilinear):
        return {"out_features": weight[0], "in1_features": weight[1], "in2_features": weight[2]}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    if isinstance(module, (nn.LayerNorm, _RMS)):
        return {"normalized_shape": weight}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": weight[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight[0]}
    if isinstance(module, nn.modules.batchnorm._NormBase):  # noqa: SLF001
        return {"num_features": weight[0]}
    return {}


def _attention(module: nn.MultiheadAttention, shape_of: ShapeOf, number: Callable[[str], Any]) -> dict[str, Any]:
    packed, query = shape_of("in_proj_weight"), shape_of("q_proj_weight")
    first = packed or query
    if first is None:
        return {}
    width = first[1]
    key, value = shape_of("k_proj_weight"), shape_of("v_proj_weight")
    return {
        "embed_dim": width,
        "kdim": key[1] if key else width,
        "vdim": value[1] if value else width,
        "head_dim": width // number("num_heads"),
    }


def _recurrent(module: nn.RNNBase, shape_of: ShapeOf) -> dict[str, Any]:
    reads, carries = shape_of("weight_ih_l0"), shape_of("weight_hh_l0")
    if reads is None or carries is None or module.proj_size:
        return {}
    return {"input_size": reads[1], "hidden_size": carries[1]}
