"""Group runs into tables: one network and data set each, seeds combined, controls listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev
from typing import final

from secateurs.app.leaderboard.records import CONTROLS, Record


@final
@dataclass(frozen=True)
class Mean:
    """Mean over seeds, sample standard deviation (None for one seed), and their number."""

    value: float
    spread: float | None
    count: int

    def __str__(self) -> str:
        """Format an accuracy in per cent.

        >>> str(mean([0.91, 0.92])), str(mean([0.9])), mean([0.9, None])
        ('91.50 ± 0.71', '90.00', None)
        """
        spread = "" if self.spread is None else f" ± {100 * self.spread:.2f}"
        return f"{100 * self.value:.2f}{spread}"


def mean(values: Sequence[float | None]) -> Mean | None:
    """The mean over seeds; None unless every seed has a value."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Mean(fmean(known), stdev(known) if len(known) > 1 else None, len(known))


@final
@dataclass(frozen=True)
class Entry:
    """Runs that differ only in seed and machine; at least one.

    apart: settings in which they differ from others of the same name, budget and epochs.
    """

    runs: tuple[Record, ...]
    apart: str = ""

    @property
    def name(self) -> str:
        """Name in a table, with the settings that tell it from others of this name."""
        return self.first.name + (f" ({self.apart})" if self.apart else "")

    @property
    def first(self) -> Record:
        """The first run, for all common properties."""
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return tuple(sorted(run.seed for run in self.runs))

    @property
    def dense(self) -> Mean | None:
        """Test accuracy of the dense networks; None if they were not trained before pruning."""
        untrained = not self.first.keys.get("train_epochs", 1) and not self.first.keys.get("weights")
        return None if untrained else mean([run.report.before.accuracy for run in self.runs])

    @property
    def picked(self) -> Mean | None:
        """Test accuracy of the epoch that validated best."""
        return mean([run.report.after.accuracy for run in self.runs])

    @property
    def last(self) -> Mean | None:
        """Test accuracy after the last epoch."""
        return mean([run.last for run in self.runs])

    @property
    def macs(self) -> float:
        """Remaining share of the MACs, the mean over seeds."""
        return fmean(run.report.after.macs / run.report.before.macs for run in self.runs)

    @property
    def params(self) -> float:
        """Remaining share of the parameters, the mean over seeds."""
        return fmean(run.report.after.params / run.report.before.params for run in self.runs)

    @property
    def latency(self) -> float:
        """Seconds of one image, the median over seeds."""
        return median(run.report.after.latency for run in self.runs)

    @property
    def speed(self) -> float:
        """Speed-up over the dense network, the median over seeds."""
        return median(run.report.before.latency / run.report.after.latency for run in self.runs)

    @property
    def seconds(self) -> float:
        """Seconds of all stages, the mean over seeds."""
        return fmean(run.report.seconds for run in self.runs)


@final
@dataclass(frozen=True)
class Standing:
    """One table: a network, its data, entries from the most MACs to the fewest, and controls that were not run."""

    model: str
    data: str
    label: str
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """Title: the network, the data and the row."""
        return f"{self.model} on {self.data}" + (f": {self.label}" if self.label else "")

    @property
    def missing(self) -> tuple[str, ...]:
        """Controls that no run of this table is."""
        there = {entry.first.control for entry in self.entries}
        return tuple(control for control in CONTROLS if control not in there)


def standings(records: Iterable[Record]) -> tuple[Standing, ...]:
    """Group runs into tables, and seeds of one recipe into one entry."""
    tables: dict[tuple[str, str, str], dict[object, list[Record]]] = {}
    for record in records:
        tables.setdefault((*record.place, record.label), {}).setdefault(record.sort, []).append(record)
    return tuple(
        Standing(*place, tuple(sorted(_told_apart([Entry(tuple(runs)) for runs in sorts.values()]), key=_order)))
        for place, sorts in sorted(tables.items(), key=lambda item: item[0])
    )


def _order(entry: Entry) -> tuple[float, float, str]:
    """Sort key: decreasing MACs in steps of five per cent, then decreasing accuracy."""
    accuracy = entry.picked.value if entry.picked else 0.0
    return -round(20 * entry.macs), -accuracy, entry.name


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Name the settings in which entries differ that look alike otherwise."""
    alike: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        alike.setdefault((entry.first.name, entry.first.budget, entry.first.epochs), []).append(entry)
    told: list[Entry] = []
    for group in alike.values():
        settings = [entry.first.settings for entry in group]
        names = {name for each in settings for name in each}
        differing = sorted(name for name in names if len({each.get(name) for each in settings}) > 1)
        for entry, each in zip(group, settings, strict=True):
            told.append(replace(entry, apart=", ".join(f"{name} {each[name]}" for name in differing if name in each)))
    return told
