"""Compare tensor signatures, cut tensors in their memory format, and copy whole models."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from secateurs.network import lock_of
from secateurs.running.caches import TORCHS
from secateurs.running.nested import find_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

M = TypeVar("M", bound="nn.Module")


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Describe how two signatures differ, with the names of the first tensors; empty if they agree.

    >>> differences({"a": (2, 3), "b": (1,)}, {"a": (2, 4), "c": (1,)})
    'missing: b; unexpected: c; other shape: a is 2×4, not 2×3'
    """
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    other = [
        f"{name} is {show(found[name])}, not {show(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    parts = {"missing": missing, "unexpected": extra, "other shape": other}
    return "; ".join(f"{kind}: {_first(names)}" for kind, names in parts.items() if names)


def show(shape: Sequence[int]) -> str:
    """Write a shape as `64×3×7×7`; a scalar is `scalar`."""
    return "×".join(map(str, shape)) or "scalar"


def physical_order(tensor: Tensor) -> tuple[int, ...]:
    """Return the dimensions from slowest to fastest in memory: (0, 2, 3, 1) for channels_last, (0, 1, 2, 3) by default.

    Strides of dimensions of size 1 are arbitrary; ties are ordered as in the default strides of both formats.
    """
    strides, sizes = tensor.stride(), tensor.shape
    return tuple(sorted(range(tensor.dim()), key=lambda d: (-strides[d], -sizes[d], d)))


def in_order(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """Copy a tensor so that its dimensions lie in memory in the given order.

    >>> in_order(torch.zeros(2, 3, 4, 4), (0, 2, 3, 1)).is_contiguous(memory_format=torch.channels_last)
    True
    """
    back = sorted(range(tensor.dim()), key=order.__getitem__)
    return tensor.permute(tuple(order)).clone(memory_format=torch.contiguous_format).permute(back)


def select(tensor: Tensor, dims: Mapping[int, Sequence[int] | Tensor]) -> Tensor:
    """Keep (or repeat) the given indices along the given dimensions, in a new tensor of the same memory format.

    >>> select(torch.arange(6).view(2, 3), {1: (0, 2)}).tolist()
    [[0, 2], [3, 5]]
    """
    chosen = {dim: as_index(index, tensor.device) for dim, index in dims.items()}
    if tensor.layout is not torch.strided:
        for dim, index in chosen.items():
            tensor = tensor.index_select(dim, index)
        return tensor
    order = physical_order(tensor)
    inner = tensor.permute(order)
    # the dimension that loses most is sliced first, so that the intermediate tensor is small
    for dim, index in sorted(chosen.items(), key=lambda cut: len(cut[1]) / max(tensor.shape[cut[0]], 1)):
        inner = inner.index_select(order.index(dim), index)
    back = sorted(range(tensor.dim()), key=order.__getitem__)
    return inner.permute(back)


def as_index(index: Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """Return indices as an int64 tensor on a device, without a copy if they already are one."""
    if isinstance(index, Tensor):
        return index.to(device)
    return torch.from_numpy(np.array(index, dtype=np.int64)).to(device)


def duplicate(model: M) -> M:
    """Copy a model, also if a module stores a tensor that requires grad but is not a leaf.

    `copy.deepcopy` refuses such tensors (a stored feature map, the `weight` of the old weight norm); they are copied by
    value.
    """
    memo: dict[int, object] = {}
    with lock_of(model):
        for module in model.modules():
            held = [value for name, value in vars(module).items() if name not in TORCHS]
            memo |= {id(t): t.detach().clone() for t in find_tensors(held) if not t.is_leaf}
        return copy.deepcopy(model, memo)


def _first(names: Sequence[str], count: int = 3) -> str:
    rest = len(names) - count
    return ", ".join(names[:count]) + (f" and {rest} more" if rest > 0 else "")
