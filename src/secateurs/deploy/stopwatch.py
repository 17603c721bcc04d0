"""Time programs alternately, robust to other load on the machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from secateurs.types import Floats

BLOCK = 5e-3
"""Seconds that one sample should last, well above the resolution of the clock."""

LEAST = 11
"""Fewest samples of each program."""

PRECISE, STEADY = 0.01, 0.03
"""Relative standard errors of a median: sampling stops below the first; above the second, it is not `steady`."""

LONGER, MORE = 6, 44
"""Limits of an imprecise measurement: so many times its planned time, and so many samples."""


@final
@dataclass(frozen=True)
class Ratio:
    """Ratio of two latencies: its `value` and its standard error `error`.

    It is the median over rounds in which both were measured, so that load which slows both cancels.
    """

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
    """Latency of one forward pass in seconds: the median over `runs` forwards, and its quartiles `low` and `high`.

    disturbed: share of samples in which the operating system preempted the process. clock: "wall" time over undisturbed
    samples; or "processor" time, if too few were undisturbed and one thread works (with several threads: "wall" over
    all samples). error: relative standard error of the median. ratio: to the reference, if one was measured
    alternately. conditions: a description of the device.
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
    def doubt(self) -> float:
        """Relative standard error of the ratio, if there is one, else of the median."""
        return self.ratio.error / self.ratio.value if self.ratio else self.error

    @property
    def steady(self) -> bool:
        """True if `doubt` is at most 3 %; decisions are refused on measurements that are not steady."""
        return self.doubt <= STEADY

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
            words.append(f"unsteady: known to within {self.doubt:.0%} only")
        return f"{1e3 * self.median:.2f} ms ({'; '.join([*words, self.conditions])})"


def race(
    programs: Sequence[Callable[[], Any]], *, seconds: float, single: bool, conditions: str = ""
) -> tuple[Measurement, ...]:
    """Time programs alternately for about `seconds` in all, and longer if that is not precise.

    Other load then affects all programs alike. single: one thread works, so that processor time is meaningful. The
    first program is the reference of the ratios. A sample is the mean of as many runs as fill `BLOCK` seconds.
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
        measured = _summaries(samples, repeats, clock, disturbed, conditions)
        if all(one.doubt <= PRECISE for one in measured[len(measured) > 1 :]):
            return measured
        if spent >= LONGER * seconds and len(rows[0]) >= MORE:
            return measured


def _clocked(rows: list[Floats], *, single: bool) -> tuple[list[Floats], str, float]:
    """Return the valid samples (NaN for others), the clock, and the disturbed share."""
    disturbed = float(np.mean([found[:, 2].mean() for found in rows]))
    calm = [np.where(found[:, 2] == 0, found[:, 0], np.nan) for found in rows]
    if all(np.isfinite(taken).sum() >= LEAST for taken in calm) and disturbed <= 0.5:
        return calm, "wall", disturbed
    if single and all((found[:, 1] <= 1.1 * found[:, 0]).mean() > 0.9 for found in rows):
        return [found[:, 1] for found in rows], "processor", disturbed
    return [found[:, 0] for found in rows], "wall", disturbed


def _summaries(
    samples: list[Floats], repeats: list[int], clock: str, disturbed: float, conditions: str
) -> tuple[Measurement, ...]:
    found: list[Measurement] = []
    for taken, n in zip(samples, repeats, strict=True):
        own = taken[np.isfinite(taken)]
        low, median, high = (float(v) for v in np.quantile(own, (0.25, 0.5, 0.75)))
        ratio = _ratio(taken, samples[0]) if found else None
        found.append(Measurement(median, low, high, len(own) * n, disturbed, clock, _error(own), conditions, ratio))
    return tuple(found)


def _ratio(taken: Floats, reference: Floats) -> Ratio:
    """Return the median of ratios over rounds in which both samples are valid; of the medians, if these are too few."""
    turns = taken / reference
    turns = turns[np.isfinite(turns)]
    if len(turns) >= LEAST:
        value = float(np.median(turns))
        return Ratio(value, value * _error(turns))
    one, other = taken[np.isfinite(taken)], reference[np.isfinite(reference)]
    value = float(np.median(one) / np.median(other))
    return Ratio(value, value * math.hypot(_error(one), _error(other)))


def _error(taken: Floats) -> float:
    """Relative standard error of a median: 1.2533 σ / √n, with σ = interquartile range / 1.349."""
    low, median, high = np.quantile(taken, (0.25, 0.5, 0.75))
    return float(1.2533 * (high - low) / 1.349 / math.sqrt(len(taken)) / median)


def _sample(program: Callable[[], Any], repeats: int) -> tuple[float, float, bool]:
    """Return mean wall and processor seconds of some runs, and whether the process was preempted."""
    before = _switches()
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        program()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    after = _switches()
    taken = processor < 0.9 * wall if after is None else after != before
    return wall / repeats, processor / repeats, taken


def _switches() -> int | None:
    """Number of involuntary context switches of this process, where the system counts them."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _repeats(program: Callable[[], Any]) -> int:
    """Warm up for ten blocks or three runs, whichever is longer; return the number of runs that fill a block."""
    end = time.perf_counter() + 10 * BLOCK
    times = [_sample(program, 1)[1] for _ in range(3)]
    while time.perf_counter() < end:
        times.append(_sample(program, 1)[1])
    return max(1, math.ceil(BLOCK / max(float(np.median(times)), 1e-6)))
