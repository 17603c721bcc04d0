"""Sorted indices as text, the way a printer is told its pages: `0-3,5,7-9`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_RUNS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def to_runs(indices: Sequence[int]) -> str:
    """Write ascending indices as inclusive runs.

    >>> to_runs((0, 1, 2, 3, 5, 7, 8))
    '0-3,5,7-8'
    """
    array = np.asarray(indices, dtype=np.int64)
    starts = np.flatnonzero(np.diff(array, prepend=-2) != 1)
    ends = np.append(starts[1:], array.size) - 1
    pairs = zip(array[starts].tolist(), array[ends].tolist(), strict=True)
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def from_runs(text: str) -> tuple[int, ...]:
    """Read what `to_runs` wrote; a ValueError says what is not ascending runs.

    >>> from_runs("0-3,5,7-8")
    (0, 1, 2, 3, 5, 7, 8)
    """
    if not _RUNS.fullmatch(text):
        message = f"{text[:40]!r} is not a list of runs such as '0-3,5,7-9'"
        raise ValueError(message)
    indices: list[int] = []
    for run in text.split(","):
        first, _, last = run.partition("-")
        start, stop = int(first), int(last or first)
        if stop < start or (indices and start <= indices[-1]):
            message = f"the runs {text[:40]!r} do not ascend at {run!r}"
            raise ValueError(message)
        indices.extend(range(start, stop + 1))
    return tuple(indices)
