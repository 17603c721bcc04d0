"""The allow-list of module attributes that a plan may set: whole numbers that count channels."""

from __future__ import annotations

import re
from typing import Any, cast

from torch import nn

WIDTHS = frozenset(
    {
        "groups",
        "num_groups",
        "num_heads",
        "num_features",
        "num_channels",
        "num_parameters",
        "num_embeddings",
        "embedding_dim",
        "normalized_shape",
        "in_channels",
        "out_channels",
        "in_features",
        "in1_features",
        "in2_features",
        "out_features",
        "input_size",
        "hidden_size",
        "proj_size",
    }
)
"""Names of the width attributes of PyTorch's layers; other constants (stride, kernel size) are not changed by plans."""


def refusal(module: nn.Module, place: str, value: object) -> str:
    """Return the reason why a plan may not set a module's attribute to this value; empty if it may.

    >>> conv = nn.Conv2d(8, 8, 3, groups=8)
    >>> refusal(conv, "groups", 4), refusal(conv, "stride", 4)
    ('', 'it is no width of a Conv2d')
    """
    found = re.match(r"[^\W\d]\w*", place)
    name = found[0] if found else ""
    held = vars(module).get(name)
    if not name or name.startswith("_") or not _counts(held):
        return "the model keeps no whole number there"
    if name in _constants(type(module)) - WIDTHS:
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


def _constants(kind: type[nn.Module]) -> set[str]:
    """Constants that PyTorch's classes among the bases of a class declare."""
    torchs = [base for base in kind.__mro__ if base.__module__.startswith("torch.nn.")]
    return {name for base in torchs for name in getattr(base, "__constants__", ())}
