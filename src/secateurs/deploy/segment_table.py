"""Tables of segment times: one JSON file per device, which can be reused and merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import isotonic_regression

from secateurs.deploy.device import Device
from secateurs.deploy.segments import KERNELS, Abreast, Placed, Segment
from secateurs.errors import DeviceError, StoreError
from secateurs.store.files import read_file, write_files
from secateurs.types import Floats, Ints

FORMAT = 1
LARGEST = 2**28
"""Largest file size of a table in bytes; a large network needs some thousand."""

POINTS = 4
"""Number of widths at which each side of a segment is measured, equally spaced on the device's grid."""

ABREAST = 48
"""Number of segments that are measured in one program, where each by itself would take long to compile."""

RUNS, TURNS = 5, 3
"""A segment's time is the lowest of `TURNS` medians of `RUNS` runs: other load only makes it longer."""


@final
@dataclass
class Table:
    """Seconds of segments on one device: family -> (channels in, channels out) -> seconds."""

    key: dict[str, Any]
    seconds: dict[str, dict[tuple[int, int], float]] = field(default_factory=dict[str, dict[tuple[int, int], float]])

    @classmethod
    def of(cls, device: Device, path: str | Path | None = None) -> Self:
        """Return the table at a path, or an empty one. Raises DeviceError if it was measured on another device."""
        table = cls(device.key)
        if path is not None and Path(path).is_file():
            table.merge(cls.load(path))
        return table

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a table; DeviceError if the file is not a table, with the reason."""
        try:
            found = json.loads(read_file(Path(path), most=LARGEST))
            if found["format"] != FORMAT:
                raise DeviceError(
                    f"{path} has format {found['format']}, and this version reads {FORMAT}. Measure anew."
                )
            rows = found["seconds"].items()
            seconds = {k: {(int(i), int(o)): float(t) for i, o, t in row} for k, row in rows}
            _check_numbers(seconds)
            return cls(dict(found["key"]), seconds)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError, StoreError) as cause:
            raise DeviceError(f"{path} is no table of measured segments ({cause}). Choose another file.") from cause

    def save(self, path: str | Path) -> None:
        """Write the table atomically."""
        rows = {k: [[i, o, t] for (i, o), t in sorted(row.items())] for k, row in sorted(self.seconds.items())}
        text = json.dumps({"format": FORMAT, "key": self.key, "seconds": rows}, indent=1)
        target = Path(path)
        write_files(target.parent, {target.name: text.encode()}, overwrite=True)

    def merge(self, other: Table) -> None:
        """Add the times of another table; raises DeviceError if it is of another device."""
        differ = [name for name in self.key if self.key[name] != other.key.get(name)]
        if differ:
            words = ", ".join(f"{name} {other.key.get(name)!r}, not {self.key[name]!r}" for name in differ)
            raise DeviceError(f"the table was measured under other conditions: {words}. Times of both do not mix.")
        for family, row in other.seconds.items():
            self.seconds.setdefault(family, {}).update(row)

    def measure(self, device: Device, segments: Iterable[Segment]) -> int:
        """Measure the segments that are missing; return their number."""
        keyed = {(s.family, s.cin, s.cout): s for s in segments}
        missing = [s for (name, *widths), s in keyed.items() if tuple(widths) not in self.seconds.get(name, {})]
        for segment, seconds in zip(missing, segment_times(device, missing), strict=True):
            self.seconds.setdefault(segment.family, {})[segment.cin, segment.cout] = seconds
        return len(missing)

    def function(self, place: Placed, step: int) -> Callable[[Ints, Ints], Floats]:
        """Return seconds as a function of (cin, cout), linear between measured widths and non-decreasing."""
        segment, (ins, outs) = place.segment, sides(place, step)
        row = self.seconds[segment.family]
        if segment.depthwise:
            line = _rising(np.array([row[n, n] for n in ins]))
            return lambda cin, cout: np.interp(cin, ins, line)
        grid = np.array([[row[i, o] for o in outs] for i in ins])
        for axis in (0, 1):
            grid = np.apply_along_axis(_rising, axis, grid)
        if len(ins) == 1:
            return lambda cin, cout: np.interp(cout, outs, grid[0])
        if len(outs) == 1:
            return lambda cin, cout: np.interp(cin, ins, grid[:, 0])
        beyond: Any = None  # None extrapolates; SciPy's annotation is a number
        inside = RegularGridInterpolator((ins, outs), grid, bounds_error=False, fill_value=beyond)
        return lambda cin, cout: inside(np.stack([cin, cout], axis=-1)).reshape(np.shape(cin))


def _check_numbers(seconds: Mapping[str, Mapping[tuple[int, int], float]]) -> None:
    for row in seconds.values():
        for widths, time in row.items():
            if min(widths) < 1 or not 0 < time < 1e9:
                raise ValueError(f"{time} seconds for the widths {widths}")


def points(width: int, step: int) -> list[int]:
    """Widths to measure: equal parts of the whole, rounded up to a multiple.

    >>> points(64, 8), points(3, 8), points(40, 16)
    ([16, 32, 48, 64], [3], [16, 32, 40])
    """
    parts = {min(width, -(-width * k // POINTS // step) * step) for k in range(1, POINTS + 1)}
    return sorted(part for part in parts if part > 0)


def sides(place: Placed, step: int) -> tuple[list[int], list[int]]:
    """Return the input and output widths to measure: multiples of `groups`; only the whole where no unit changes it."""
    whole = place.segment
    step = step if whole.groups == 1 or whole.depthwise else int(np.lcm(step, whole.groups))
    ins = points(whole.cin, step) if place.inward[:-1].any() else [whole.cin]
    outs = points(whole.cout, step) if place.outward[:-1].any() else [whole.cout]
    return ins, outs


def needed(placed: Iterable[Placed], step: int) -> list[Segment]:
    """Return all distinct segments to measure for a network."""
    found: dict[tuple[str, int, int], Segment] = {}
    for place in placed:
        whole, (ins, outs) = place.segment, sides(place, step)
        pairs = [(n, n) for n in ins] if whole.depthwise else [(i, o) for i in ins for o in outs]
        for i, o in pairs:
            found.setdefault((whole.family, i, o), whole.at(i, o))
    return list(found.values())


def segment_times(device: Device, segments: Sequence[Segment]) -> Iterator[float]:
    """Yield the seconds of each segment; for ExecuTorch, whose lowering takes long, of `ABREAST` in one program."""
    if device.runtime != "executorch":
        yield from (segment_time(device, segment) for segment in segments)
        return
    for start in range(0, len(segments), ABREAST):
        part = segments[start : start + ABREAST]
        yield from _abreast(device, part) or [segment_time(device, segment) for segment in part]


def _abreast(device: Device, segments: Sequence[Segment]) -> list[float]:
    """Return the seconds of the kernels of segments in one program; none unless each has exactly one."""
    program = device.compile(Abreast(segments), tuple(segment.example() for segment in segments))
    assert program.profile is not None  # noqa: S101 (for the type checker: this runtime has a profiler)
    turns = [_own(program.profile(RUNS)) for _ in range(TURNS)]
    return [min(times) for times in zip(*turns, strict=True)] if len(turns[0]) == len(segments) else []


def segment_time(device: Device, segment: Segment) -> float:
    """Return seconds of a segment's own kernels if the runtime reports them, else of the whole program."""
    program = segment.program(device)
    if program.profile is None:
        return device.race([program], seconds=0.05)[0].low
    return min(_kernels(program.profile(RUNS)) for _ in range(TURNS))


def _kernels(nodes: Mapping[str, tuple[str, float]]) -> float:
    own = _own(nodes)
    return sum(own) if own else sum(seconds for _, seconds in nodes.values())


def _own(nodes: Mapping[str, tuple[str, float]]) -> list[float]:
    """Seconds of the nodes that execute segments, in order."""
    return [seconds for kind, seconds in nodes.values() if kind.lower() in KERNELS]


def _rising(values: Floats) -> Floats:
    return np.asarray(isotonic_regression(values).x)
