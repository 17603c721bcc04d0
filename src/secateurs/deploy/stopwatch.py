"""Programs timed in turns, on a machine that may have other things to do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from secateurs.types import Floats

BLOCK = 5e-3
"""Seconds that one sample should last, so that the clock's grain does not show."""

LEAST = 11
"""Samples of each program, however slow it is."""

PRECISE, STEADY = 0.01, 0.03
"""Relative standard errors of a median: up to the first no more samples are taken; above the second, it is noise."""

LONGER = 4
"""A measurement that is not precise goes on for so many times its time."""


@final
@dataclass(frozen=True)
class Ratio:
    """One time over another, taken in turns, and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        """Two digits and the error.

        >>> print(Ratio(0.5312, 0.004))
        0.531 ± 0.004
        """
        return f"{self.value:.3f} ± {self.error:.3f}"


@final
@dataclass(frozen=True)
class Measurement:
    """Seconds of one forward pass: the median over `runs` forwards, and the quartiles around it.

    disturbed: share of the samples in which the operating system took the processor away. clock: "wall", over
    undisturbed samples; or "processor", the time that the processor worked on it, where too few were undisturbed and
    one thread works (on several threads: "wall" over all samples). error: relative standard error of the median.
    ratio: to the reference, if one was measured in turns. conditions: the device, in words.
    """

    median: float
    low: float
    high: float
    runs: int
    disturbed: float
    clock: str
    error: float
    conditions: str
    ratio: Ratio | None = None

    @property
    def steady(self) -> bool:
        """Whether the median is known to within 3 %; no decision follows from one that is not."""
        return self.error <= STEADY

    def __str__(self) -> str:
        """Milliseconds, spread and conditions.

        >>> print(Measurement(0.0021, 0.002, 0.0023, 90, 0.0, "wall", 0.004, "eager, 1 thread, float32, a CPU"))
        2.10 ms (quartiles 2.00-2.30, 90 runs; eager, 1 thread, float32, a CPU)
        """
        words = [f"quartiles {1e3 * self.low:.2f}-{1e3 * self.high:.2f}, {self.runs} runs"]
        if self.ratio:
            words.append(f"{self.ratio} of the reference")
        if self.clock == "processor":
            words.append(f"processor time: other work disturbed {self.disturbed:.0%} of the samples")
        if not self.steady:
            words.append(f"unsteady: known to within {self.error:.0%} only")
        return f"{1e3 * self.median:.2f} ms ({'; '.join([*words, self.conditions])})"


def race(
    programs: Sequence[Callable[[], Any]], *, seconds: float, single: bool, conditions: str = ""
) -> tuple[Measurement, ...]:
    """Time programs in turns for about `seconds` altogether, and longer where that is not precise.

    What else the machine does falls on all alike. single: one thread works, so that its processor time is its time.
    The first program is the reference of the ratios. A sample is the mean of as many runs as fill `BLOCK` seconds.
    """
    repeats = [_repeats(program) for program in programs]
    rows: list[list[tuple[float, float, bool]]] = [[] for _ in programs]
    start = time.perf_counter()
    while True:
        for program, found, n in zip(programs, rows, repeats, strict=True):
            found.append(_sample(program, n))
        spent = time.perf_counter() - start
        if len(rows[0]) < LEAST or spent < seconds:
            continue
        samples, clock, disturbed = _clocked([np.array(found, np.float64) for found in rows], single=single)
        if spent >= LONGER * seconds or all(_error(taken) <= PRECISE for taken in samples):
            return _summaries(samples, repeats, clock, disturbed, conditions)


def _clocked(rows: list[Floats], *, single: bool) -> tuple[list[Floats], str, float]:
    """The samples to believe, by which clock, and the share that was disturbed."""
    disturbed = float(np.mean([found[:, 2].mean() for found in rows]))
    calm = [found[found[:, 2] == 0, 0] for found in rows]
    if all(len(taken) >= LEAST for taken in calm) and disturbed <= 0.5:
        return calm, "wall", disturbed
    if single and all((found[:, 1] <= 1.1 * found[:, 0]).mean() > 0.9 for found in rows):
        return [found[:, 1] for found in rows], "processor", disturbed
    return [found[:, 0] for found in rows], "wall", disturbed


def _summaries(
    samples: list[Floats], repeats: list[int], clock: str, disturbed: float, conditions: str
) -> tuple[Measurement, ...]:
    found: list[Measurement] = []
    first, first_error = float(np.median(samples[0])), _error(samples[0])
    for taken, n in zip(samples, repeats, strict=True):
        low, median, high = (float(v) for v in np.quantile(taken, (0.25, 0.5, 0.75)))
        error = _error(taken)
        ratio = Ratio(median / first, median / first * math.hypot(error, first_error)) if found else None
        found.append(Measurement(median, low, high, len(taken) * n, disturbed, clock, error, conditions, ratio))
    return tuple(found)


def _error(taken: Floats) -> float:
    """Relative standard error of a median: 1.2533 σ / √n, with σ = interquartile range / 1.349."""
    low, median, high = np.quantile(taken, (0.25, 0.5, 0.75))
    return float(1.2533 * (high - low) / 1.349 / math.sqrt(len(taken)) / median)


def _sample(program: Callable[[], Any], repeats: int) -> tuple[float, float, bool]:
    """Mean wall and processor seconds of some runs, and whether the processor was taken away meanwhile."""
    before = _switches()
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        program()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    after = _switches()
    taken = processor < 0.9 * wall if after is None else after != before
    return wall / repeats, processor / repeats, taken


def _switches() -> int | None:
    """How often this process lost the processor against its will, where the system counts that."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _repeats(program: Callable[[], Any]) -> int:
    """Warm up for ten blocks or three runs, whichever is longer; then how many runs fill a block."""
    end = time.perf_counter() + 10 * BLOCK
    times = [_sample(program, 1)[1] for _ in range(3)]
    while time.perf_counter() < end:
        times.append(_sample(program, 1)[1])
    return max(1, math.ceil(BLOCK / max(float(np.median(times)), 1e-6)))
