"""The table of all rows: reported result, requirements and cost, and the results of your runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from secateurs.app.experiments.row import Row, rows
from secateurs.app.experiments.settling import unavailable
from secateurs.app.leaderboard import read_records, standings

HEADINGS = ("row", "paper", "network", "data", "MACs left", "reported", "epochs", "cost", "needs", "here")


@final
@dataclass(frozen=True)
class Listed:
    """A row, the reason why it cannot be run (empty if it can), and the results of your runs."""

    row: Row
    reason: str
    here: str

    def cells(self) -> tuple[str, ...]:
        """One line of the table, in the order of `HEADINGS`."""
        row, reported = self.row, self.row.reported
        left = "–" if reported.macs is None else f"{100 * reported.macs:.1f} %"
        left = f"{100 * reported.filters:.0f} % of filters" if reported.filters is not None else left
        epochs = " + ".join(str(count) for count in row.epochs if count)
        cost = "–" if row.cost is None else f"{row.cost / 1e15:.3g} P"
        paper = row.paper.split(",", 1)[0].split(":", 1)[0]
        return (
            row.name,
            f"{paper}, {row.method}",
            row.network,
            DATA.get(row.data, row.data),
            left,
            str(reported),
            epochs or "–",
            cost,
            self.reason or needs(row),
            self.here,
        )


DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagefolder": "ImageNet", "coco": "COCO"}


def needs(row: Row) -> str:
    """Requirements of a row: data that the user provides, and published weights that are downloaded."""
    return DATA.get(row.data, row.data) + (f", {row.weights} (downloaded)" if row.weights else "")


def listed(runs: Sequence[Path] = ()) -> tuple[Listed, ...]:
    """Return every row with the results of its finished runs in these folders."""
    results = _results(runs)
    return tuple(Listed(row, unavailable(row), results.get(row.name, "not run")) for row in rows())


def _results(runs: Sequence[Path]) -> dict[str, str]:
    """Results of every row's runs: test accuracy of the last epoch, or of the chosen epoch if that is unknown."""
    records, _ = read_records(runs)
    found: dict[str, str] = {}
    for table in standings(records):
        for entry in table.entries:
            figure, which = (entry.last, "last epoch") if entry.last else (entry.picked, "picked epoch")
            if not entry.first.control and table.label not in found and figure is not None:
                seeds = "seed" if figure.count == 1 else "seeds"
                left = f"{100 * entry.macs:.1f} % of the MACs"
                found[table.label] = f"{figure} ({which}, {left}, {figure.count} {seeds})"
    return found


def markdown(every: Sequence[Listed]) -> str:
    """Return the table as Markdown."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [f"| {' | '.join(one.cells())} |" for one in every]
    return "\n".join(lines) + "\n"
