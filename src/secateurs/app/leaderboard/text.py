"""The leaderboard as Markdown, and every run of it as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict

from secateurs.app.leaderboard.command import command
from secateurs.app.leaderboard.entries import Entry, Standing
from secateurs.app.leaderboard.records import Record
from secateurs.app.report.summary import in_units

HEADINGS = (
    "network",
    "asked to remain",
    "epochs",
    "MACs",
    "parameters",
    "latency",
    "test, picked epoch",
    "test, last epoch",
    "dense",
    "seeds",
)
NOTE = (
    "Accuracies are of the test split in per cent, mean ± sample deviation over the seeds. The picked epoch is the one "
    "that validated best; the test split decides nothing. Epochs are those of a first training, of pruning and of "
    "fine-tuning, as far as there were any. Latency is one image, measured beside the dense network."
)


def cells(entry: Entry) -> tuple[str, ...]:
    """One line of a table, in the order of `HEADINGS`."""
    run, after = entry.first, entry.first.report.after
    return (
        entry.name,
        "everything" if run.control == "dense" else run.budget,
        run.epochs,
        f"{100 * entry.macs:.1f} % ({in_units(after.macs)})",
        f"{100 * entry.params:.1f} % ({in_units(after.params)})",
        f"{1e3 * entry.latency:.2f} ms ({entry.speed:.2f}×)",
        str(entry.picked or "–"),
        str(entry.last or "not recorded"),
        str(entry.dense or "–"),
        ", ".join(map(str, entry.seeds)),
    )


def markdown(tables: Sequence[Standing], unfinished: int = 0, *, title: str = "Leaderboard", source: str = "") -> str:
    """Every table, what was not run, and how each line was made; source: the command that made the page."""
    parts = [f"# {title}", NOTE]
    parts += [f"Made by `{source}`; do not edit."] if source else []
    parts += [f"Runs that are not finished, and in no table: {unfinished}."] if unfinished else []
    for table in tables:
        lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        lines += [f"| {' | '.join(cells(entry))} |" for entry in table.entries]
        lines += [f"| {control} (control) |" + " not run |" * (len(HEADINGS) - 1) for control in table.missing]
        parts += [f"## {table.title}", "\n".join(lines), _made(table)]
    return "\n\n".join(parts) + "\n"


def _made(table: Standing) -> str:
    """Return commands, versions and machines of a table."""
    lines = ["How each was run:", ""]
    for entry in table.entries:
        seeds = ",".join(map(str, entry.seeds))
        lines.append(f"- {entry.name}: `{command(entry.first.keys, seed=seeds)}` ({entry.seconds:.0f} s)")
    for key in ("versions", "trained on"):
        found = sorted({run.report.conditions.get(key, "?") for entry in table.entries for run in entry.runs})
        lines.append(f"- {key}: {'; '.join(found)}")
    return "\n".join(lines)


def comma_separated(tables: Sequence[Standing]) -> str:
    """Return one CSV line per run, with all values of the tables as fractions, counts and seconds."""
    lines = [_line(table, run) for table in tables for entry in table.entries for run in entry.runs]
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=list(lines[0]) if lines else list(HEADINGS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return written.getvalue()


def _line(table: Standing, run: Record) -> dict[str, object]:
    report = run.report
    figures = {
        f"{when} {name}": value
        for when, found in (("dense", report.before), ("pruned", report.after))
        for name, value in asdict(found).items()
    }
    epochs = {epoch.epoch: epoch.accuracy for epoch in run.history}
    return {
        "model": table.model,
        "data": table.data,
        "label": table.label,
        "network": run.name,
        "control": run.control,
        "seed": run.seed,
        "asked to remain": run.budget,
        "epochs": run.epochs,
        **figures,
        "picked epoch": run.picked,
        "picked validation": epochs.get(run.picked or 0),
        "last validation": run.history[-1].accuracy if run.history else None,
        "last test accuracy": run.last,
        "seconds": report.seconds,
        "command": command(run.keys),
        "versions": report.conditions.get("versions"),
        "machine": report.conditions.get("trained on"),
        "latency": report.conditions.get("latency"),
    }
