"""Read and map the tensors of nested inputs and outputs: tuples, lists, dicts, dataclasses and plain objects."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from secateurs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs as (positional arguments, keyword arguments).

    A tuple is the positional arguments, a dict the keyword arguments, anything else the one argument.
    """
    if isinstance(example_inputs, tuple) and not hasattr(example_inputs, "_fields"):
        return example_inputs, {}
    if isinstance(example_inputs, dict):
        if not all(isinstance(k, str) for k in example_inputs):
            raise InputError("A dict of example inputs is passed as keyword arguments: its keys must be strings.")
        return (), example_inputs
    return (example_inputs,), {}


def map_tensors(value: Any, change: Callable[[Tensor], Any], _depth: int = 0) -> Any:
    """Return a copy of a nested value with `change` applied to every tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, change, _depth + 1) for v in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(v, change, _depth + 1) for v in value)
    if isinstance(value, dict):
        changed = copy.copy(value)
        for k, v in value.items():
            changed[k] = map_tensors(v, change, _depth + 1)
        return changed
    if _is_record(value):
        changed = copy.copy(value)
        for name, v in _fields(value).items():
            object.__setattr__(changed, name, map_tensors(v, change, _depth + 1))
        return changed
    return value


def find_tensors(value: Any, _seen: set[int] | None = None) -> list[Tensor]:
    """Return every tensor of a nested value, in order."""
    seen = set() if _seen is None else _seen
    if isinstance(value, Tensor):
        return [value]
    if id(value) in seen:
        return []
    if isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        children = list(value)
    elif _is_record(value):
        children = list(_fields(value).values())
    else:
        return []
    seen.add(id(value))
    return [t for child in children for t in find_tensors(child, seen)]


def _is_record(value: Any) -> bool:
    if isinstance(value, (nn.Module, type)) or callable(value):
        return False
    if dataclasses.is_dataclass(value):
        return True
    return hasattr(value, "__dict__") and type(value).__module__.split(".")[0] not in ("builtins", "numpy", "torch")


def _fields(value: Any) -> Mapping[str, Any]:
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    fields: Mapping[str, Any] = vars(value)
    return fields
