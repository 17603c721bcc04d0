"""The tensors among the arguments and results of operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN = frozenset({int, float, bool, type(None), torch.dtype, torch.device, str})


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among operator arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from tensors(v)


def replaced(value: Any, old: Tensor, new: Tensor) -> Any:
    """Return operator arguments or results with one tensor in place of another."""
    if value is old:
        return new
    if type(value) is dict:
        return {name: replaced(v, old, new) for name, v in value.items()}
    return type(value)(replaced(v, old, new) for v in value) if type(value) in (list, tuple) else value


def all_meta(args: Any) -> bool:
    """True if every argument is a plain tensor without storage, or no tensor at all."""
    for a in args:
        kind = type(a)
        if kind is Tensor or kind is nn.Parameter:
            if not a.is_meta:
                return False
        elif kind is list:
            if a and type(a[0]) not in _PLAIN and not all_meta(a):
                return False
        elif kind not in _PLAIN:
            return False
    return True


def kinds(args: Any) -> tuple[list[Tensor], bool]:
    """Tensors with storage among the arguments, and whether there is one without."""
    strays: list[Tensor] = []
    metas = False
    for a in args:
        if isinstance(a, Tensor):
            if a.is_meta:
                metas = True
            else:
                strays.append(a)
        elif isinstance(a, (list, tuple)) and a and isinstance(a[0], Tensor):
            for t in a:
                if isinstance(t, Tensor) and not t.is_meta:
                    strays.append(t)
                else:
                    metas = True
    return strays, metas
