"""Parse amounts with units: 50%, 20M, 1e6, 16MiB, 10ms."""

import argparse
import math
import re

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
