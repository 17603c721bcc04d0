"""Mutable state of a module that a shallow copy has to copy: instance dictionary, slots, mutable class attributes."""

from __future__ import annotations

import enum
import functools
import types
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator


PLAIN = frozenset(
    {int, float, bool, str, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size}
    | {types.ModuleType, types.BuiltinFunctionType}
)
"""Classes whose instances are immutable or shared by the whole process."""


def is_plain(kind: type) -> bool:
    """True if instances have only a `__dict__` (no slots), so that copying it copies the instance."""
    if kind is types.SimpleNamespace:
        return True
    if issubclass(kind, (enum.Enum, type, BaseException)) or kind.__module__.partition(".")[0] in ("torch", "numpy"):
        return False
    special = ("__new__", "__reduce__", "__reduce_ex__", "__getstate__", "__del__", "__copy__", "__deepcopy__")
    usual = all(getattr(kind, name, None) is getattr(object, name, None) for name in special)
    slots = any(vars(base).get("__slots__") for base in kind.__mro__)
    return usual and not slots and kind.__dictoffset__ != 0


def blank(module: nn.Module) -> nn.Module:
    """Return a new instance of the same class, with its slots copied and an empty `__dict__`."""
    kind = type(module)
    copy = object.__new__(kind)
    for name in _slots(kind):
        if hasattr(module, name):
            object.__setattr__(copy, name, getattr(module, name))
    return copy


@cache
def _slots(kind: type) -> tuple[str, ...]:
    found: list[str] = []
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        found += [names] if isinstance(names, str) else list(names)
    return tuple(name for name in found if name not in ("__dict__", "__weakref__"))


_STATE = (dict, list, set, deque, functools._lru_cache_wrapper)  # noqa: SLF001


@cache
def _stateful(kind: type) -> tuple[tuple[type, str], ...]:
    """Mutable class attributes of a user's module that a forward could write to: containers, and caches of methods."""
    found: dict[str, type] = {}
    for base in kind.__mro__:
        if base is nn.Module or base.__module__.startswith("torch.nn."):
            continue
        for name, value in vars(base).items():
            if isinstance(value, _STATE) and not name.startswith("__"):
                found.setdefault(name, base)
    return tuple((base, name) for name, base in found.items())


def of_class(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield name and value of the mutable class attributes (lists, dicts, sets) of a module's class."""
    return ((name, vars(base)[name]) for base, name in _stateful(kind))
