"""Write every parameter and buffer of a model as one safetensors file, and read it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from secateurs.errors import DamageError, StoreError
from secateurs.surgery.tensors import in_order, physical_order


def tied(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Return further name of a tied tensor -> its first name."""
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in named.items() if first.setdefault(id(t), name) != name}


def layouts(named: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the order of dimensions in memory where it is not the default (channels_last)."""
    orders = {name: physical_order(tensor) for name, tensor in named.items() if not tensor.is_contiguous()}
    return {name: order for name, order in orders.items() if order != tuple(range(len(order)))}


def to_bytes(named: Mapping[str, Tensor]) -> bytes:
    """Write each tensor once, under its first name."""
    other_names = tied(named)
    owned: dict[str, Tensor] = {}
    for name, tensor in named.items():
        if name in other_names:
            continue
        if tensor.is_meta or tensor.layout is not torch.strided:
            message = (
                f"{name} has no plain values to save (device {tensor.device}, layout {tensor.layout}). "
                "A file holds dense numbers. Materialise or densify it first."
            )
            raise StoreError(message)
        # a clone of its own: safetensors refuses tensors that share memory
        owned[name] = tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    try:
        return safetensors.torch.save(owned)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        message = f"the weights cannot be written as safetensors: {error}. Cast what it names to a common type."
        raise StoreError(message) from error


def from_bytes(content: bytes, aliases: Mapping[str, str], orders: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Read the content of `to_bytes`: every name -> its tensor, in its saved memory order."""
    try:
        owned = safetensors.torch.load(content)
        owned = {name: in_order(t, orders.get(name, range(t.dim()))) for name, t in owned.items()}
        return {**owned, **{alias: owned[name] for alias, name in aliases.items()}}
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError, IndexError) as error:
        message = f"the weights file is damaged: {error!r}. Nothing was loaded. Take an undamaged copy."
        raise DamageError(message) from error
