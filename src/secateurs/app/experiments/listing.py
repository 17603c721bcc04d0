"""The table of all rows: reported result, requirements, cost, availability, and measured result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from secateurs.app.data import seems_there
from secateurs.app.experiments.row import Row, rows
from secateurs.app.experiments.settling import unavailable
from secateurs.app.leaderboard import Entry, Record, standings

HEADINGS = (
    "row", "paper", "network", "data", "method", "left", "reported", "epochs", "cost", "measured", "runnable here",
)  # fmt: skip
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagefolder": "ImageNet", "coco": "COCO"}
NOT_RUN = "not run"
QUICK = " (quick)"
NEAR = 0.1
"""Runs of another recipe stand beside a row where they left as much of the MACs, up to this share."""


@final
@dataclass(frozen=True)
class Measured:
    """Measured result of a row: accuracy in per cent, its epoch, the remaining share of the MACs, and the seeds.

    own: True if the runs used the row's recipe, False if only its method, network and data.
    """

    accuracy: float
    spread: float | None
    epoch: str
    macs: float
    seeds: tuple[int, ...]
    epochs: str
    own: bool

    def __str__(self) -> str:
        """Say it in one cell.

        >>> str(Measured(91.5, 0.2, "last", 0.498, (0, 1, 2), "12", own=False))
        '91.50 ± 0.20 (last epoch of 12, 49.8 % of the MACs, 3 seeds, not this recipe)'
        """
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        other = "" if self.own else ", not this recipe"
        left = f"{100 * self.macs:.1f} % of the MACs"
        return f"{self.accuracy:.2f}{spread} ({self.epoch} epoch of {self.epochs}, {left}, {seeds}{other})"


@final
@dataclass(frozen=True)
class Listed:
    """A row, the reason why it cannot be run (empty if it can), and if its data were found (None without a folder)."""

    row: Row
    reason: str
    data: bool | None
    measured: Measured | None

    @property
    def runnable(self) -> str:
        """Availability of the row: yes, or the missing data or feature; without a folder of data, the data it needs."""
        if self.reason:
            return f"no: {self.reason}"
        downloads = f", downloads {self.row.weights}" if self.row.weights else ""
        if self.data is None:
            return f"with {DATA.get(self.row.data, self.row.data)}{downloads}"
        return f"yes{downloads}" if self.data else f"no: {DATA.get(self.row.data, self.row.data)} is not there"

    def cells(self) -> tuple[str, ...]:
        """One line of the table, in the order of `HEADINGS`."""
        row, reported = self.row, self.row.reported
        left = "–" if reported.macs is None else f"{100 * reported.macs:.1f} %"
        left = f"{100 * reported.filters:.0f} % of filters" if reported.filters is not None else left
        return (
            row.name,
            row.paper.split(",", 1)[0].split(":", 1)[0],
            row.network,
            DATA.get(row.data, row.data),
            row.method,
            left,
            str(reported),
            " + ".join(str(count) for count in row.epochs if count) or "–",
            "–" if row.cost is None else f"{row.cost / 1e15:,.3g} P" if row.cost < 1e18 else f"{row.cost / 1e18:.2f} E",
            str(self.measured or NOT_RUN),
            self.runnable,
        )

    def plain(self) -> dict[str, Any]:
        """The row for a program: accuracies in per cent, cost in multiply-accumulates."""
        row = self.row
        return {
            "row": row.name,
            "paper": row.paper,
            "network": row.network,
            "data": row.data,
            "method": row.method,
            "reported": asdict(row.reported),
            "epochs": dict(zip(("train", "prune", "after"), row.epochs, strict=True)),
            "cost": row.cost,
            "weights": row.weights or None,
            "runnable": None if not self.reason and self.data is None else not self.reason and bool(self.data),
            "needs": self.runnable,
            "measured": None if self.measured is None else asdict(self.measured),
        }


def listed(records: Sequence[Record] = (), *, data: Path | None = None) -> tuple[Listed, ...]:
    """Every row, with what finished runs came to; `data` is a folder in which rows look for theirs."""
    entries = [entry for table in standings(records) for entry in table.entries if not table.label.endswith(QUICK)]
    return tuple(_listed(row, entries, data) for row in rows())


def _listed(row: Row, entries: Sequence[Entry], data: Path | None) -> Listed:
    reason = unavailable(row)
    there = None if data is None or reason else seems_there(row.data, data)
    return Listed(row, reason, there, _measured(row, entries))


def _measured(row: Row, entries: Sequence[Entry]) -> Measured | None:
    """Return the result of the row's runs, or of its method on its network and data at nearly the same MACs."""
    method = [entry for entry in entries if not entry.first.control]
    own = [entry for entry in method if entry.first.label == row.name]
    left = row.reported.macs or row.recipe.get("macs")
    near = [e for e in method if _alike(row, e.first) and (left is None or abs(e.macs - left) < NEAR)]
    found = [told for entry in own or near if (told := _told(entry, own=bool(own))) is not None]
    return max(found, key=lambda told: len(told.seeds), default=None)


def _alike(row: Row, record: Record) -> bool:
    return not record.label and record.method == row.method and record.place == (row.recipe["model"], row.data)


def _told(entry: Entry, *, own: bool) -> Measured | None:
    """The last epoch, or the picked one where the last is unknown."""
    figure, epoch = (entry.last, "last") if entry.last else (entry.picked, "picked")
    if figure is None:
        return None
    spread = None if figure.spread is None else 100 * figure.spread
    return Measured(100 * figure.value, spread, epoch, entry.macs, entry.seeds, entry.first.epochs, own)


def markdown(every: Sequence[Listed]) -> str:
    """Return the table as Markdown."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [f"| {' | '.join(one.cells())} |" for one in every]
    return "\n".join(lines) + "\n"
