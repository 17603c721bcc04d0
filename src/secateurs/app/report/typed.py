"""Read a dataclass from JSON, and check every value against the type of its field."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

LARGEST = 3.5e38
"""Largest number that is accepted, above all of float32; larger ones mean a damaged file."""


def typed(kind: type[T], found: Any) -> T:
    """Make a dataclass, and those inside it, from the values of a JSON document.

    TypeError for a missing or unknown field and for a value of another type; numbers have to be finite.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Size:
    ...     name: str
    ...     sides: tuple[float, ...]
    >>> typed(Size, {"name": "a", "sides": [1, 2.5]})
    Size(name='a', sides=(1, 2.5))
    >>> typed(Size, {"name": 3, "sides": []})
    Traceback (most recent call last):
    TypeError: 3 is no str
    """
    return _read(kind, found)


def _read(hint: Any, value: Any) -> Any:
    if hint is Any:
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint)
        unknown = set(_mapping(value)) - set(hints)
        if unknown:
            raise TypeError(f"{hint.__name__} has no {min(unknown)!r}")
        return hint(**{name: _read(hints[name], held) for name, held in _mapping(value).items()})
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return (
            None if value is None and NoneType in inner else _read(next(h for h in inner if h is not NoneType), value)
        )
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], held) for held in value)  # pyright: ignore[reportUnknownVariableType]
    if origin in (dict, Mapping):
        return {name: _read(inner[1], held) for name, held in _mapping(value).items()}
    return _plain(hint, value)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{str(value)[:40]!r} is no object")
    return value  # pyright: ignore[reportUnknownVariableType]


def _plain(hint: Any, value: Any) -> Any:
    """Return a number, text or truth value of exactly this type; an int is accepted as float."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = whole or isinstance(value, float) if hint is float else whole if hint is int else type(value) is hint
    if not fits or (hint in (int, float) and not -LARGEST < value < LARGEST):
        raise TypeError(f"{str(value)[:40]} is no {getattr(hint, '__name__', hint)}")
    return value
