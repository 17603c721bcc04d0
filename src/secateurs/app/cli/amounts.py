"""Parse amounts with units: 50%, 20M, 1e6, 16MiB, 10ms."""

import argparse
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

SUFFIXES = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "b": 10**9,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
"""Lower-case suffix of a number -> its factor."""

Amount = float | int | None


class AmountError(argparse.ArgumentTypeError, ValueError):
    """Raised for text that is not an amount; the message names valid forms."""


def amount(value: object) -> Amount:
    """Read a share or a count: a float up to 1 is a share, a whole number above 1 a count.

    >>> amount("50%"), amount("20M"), amount("1e6"), amount("16MiB"), amount(0.5), amount(2e7)
    (0.5, 20000000, 1000000, 16777216, 0.5, 20000000)
    >>> amount("half")
    Traceback (most recent call last):
    secateurs.app.cli.amounts.AmountError: takes a share such as 0.5 or 50%, or a number such as 20M or 1e6, not 'half'
    """
    if value is None or value == "null":
        return None
    read = _read(str(value), SUFFIXES)
    if read is None or isinstance(value, bool):
        raise AmountError(f"takes a share such as 0.5 or 50%, or a number such as 20M or 1e6, not {str(value)!r}")
    whole = isinstance(value, int) or (math.isfinite(read) and read > 1 and float(read).is_integer())
    return int(read) if whole else read


def duration(value: object) -> float | None:
    """Read a share of a latency, or a latency in milliseconds.

    >>> duration("50%"), duration("10ms"), duration("0.2s"), duration(8)
    (0.5, 10.0, 200.0, 8.0)
    """
    if value is None or value == "null":
        return None
    read = _read(str(value), {"": 1, "ms": 1, "s": 1000})
    if read is None or isinstance(value, bool):
        raise AmountError(f"takes a share such as 0.5 or 50%, or a time such as 10ms, not {str(value)!r}")
    return float(read)


def _read(text: str, suffixes: dict[str, int]) -> float | None:
    """Return the number in a text, or None."""
    number = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
    if found := re.fullmatch(rf"\s*({number})\s*%\s*", text):
        return float(found[1]) / 100
    if found := re.fullmatch(rf"\s*({number})\s*([A-Za-z]*)\s*", text):
        factor = suffixes.get(found[2].lower())
        return None if factor is None else float(found[1]) * factor
    return float(text.strip().lstrip(".")) if text.strip().lstrip(".").lower() in {"nan", "inf", "-inf"} else None


ByPattern = int | Mapping[str, int]
"""A number of units, or one for each pattern of modules."""


def by_pattern(value: object) -> ByPattern | None:
    """Read a number, or numbers by the path or class of modules.

    >>> by_pattern("8"), by_pattern("{layer4.*: 32, nn.Linear: 8}")
    (8, {'layer4.*': 32, 'nn.Linear': 8})
    >>> by_pattern("eight")
    Traceback (most recent call last):
    secateurs.app.cli.amounts.AmountError: takes a whole number, or {layer4.*: 32, nn.Linear: 8}, not 'eight'
    """
    try:
        read: Any = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        read = "?"
    read = dict(read) if isinstance(read, Mapping) else read
    numbers = list(read.values()) if isinstance(read, dict) else [read]
    if read is None or (numbers and all(type(number) is int for number in numbers)):
        return read
    raise AmountError(f"takes a whole number, or {{layer4.*: 32, nn.Linear: 8}}, not {str(value)!r}")


def with_classes(numbers: ByPattern | None) -> Any:
    """Numbers by pattern as a budget takes them: `nn.Linear` is the class.

    >>> with_classes({"layer4.*": 32, "nn.Linear": 8})
    {'layer4.*': 32, <class 'torch.nn.modules.linear.Linear'>: 8}
    """
    if not isinstance(numbers, Mapping):
        return numbers
    return {_class_or_path(pattern): number for pattern, number in numbers.items()}


def _class_or_path(pattern: str) -> Any:
    from torch import nn

    kind = getattr(nn, pattern.removeprefix("nn."), None) if pattern.startswith("nn.") else None
    return kind if isinstance(kind, type) and issubclass(kind, nn.Module) else pattern
