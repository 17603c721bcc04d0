"""The allow-list of module attributes that a plan may set: whole numbers that count channels."""

from __future__ import annotations

import re
from typing import Any, cast

from torch import nn

from secateurs.graph.integers import constants


def refusal(module: nn.Module, place: str, value: object) -> str:
    """Return the reason why a plan may not set a module's attribute to this value; empty if it may.

    >>> conv = nn.Conv2d(8, 8, 3, groups=8)
    >>> refusal(conv, "groups", 4), refusal(conv, "stride", 4)
    ('', 'it is no width of a Conv2d')
    """
    found = re.match(r"[^\W\d]\w*", place)
    name = found[0] if found else ""
    held = vars(module).get(name)
    if not name or name.startswith("__") or not _counts(held):
        return "the model keeps no whole number there"
    if name in constants(type(module)):
        return f"it is no width of a {type(module).__name__}"
    numbers = value if isinstance(value, tuple) else (value,)
    if not numbers or not all(type(n) is int and n > 0 for n in cast("tuple[Any, ...]", numbers)):
        return "it is no whole number above 0"
    return ""


def _counts(value: object) -> bool:
    """True if a value is an integer, or a list, tuple or dict that contains integers."""
    if isinstance(value, (list, tuple)):
        return any(map(_counts, cast("list[object]", value)))
    if isinstance(value, dict):
        return any(map(_counts, cast("dict[Any, object]", value).values()))
    return isinstance(value, int) and not isinstance(value, bool)
