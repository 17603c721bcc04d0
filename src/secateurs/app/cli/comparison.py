"""`secateurs compare`: compare two finished runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secateurs.app.cli.report_file import finished
from secateurs.app.cli.requests import Comparison
from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.report import ROWS, Figures, Report
from secateurs.errors import InputError


def compare(comparison: Comparison, console: Console) -> None:
    """Compare the figures of two finished runs: the network after pruning, and the dense one."""
    reports = [finished(RunFolder(path)) for path in (comparison.first, comparison.second)]
    first, second = (
        _there(report, path) for report, path in zip(reports, (comparison.first, comparison.second), strict=True)
    )
    if comparison.json:
        figures = {str(p): _figures(r) for p, r in ((comparison.first, first), (comparison.second, second))}
        console.print_json(json.dumps(figures))
        return
    shown = Table(box=box.SIMPLE_HEAVY, pad_edge=False, caption=_caption(first, second), caption_justify="left")
    shown.add_column("")
    for name in ("dense", escape(str(comparison.first)), escape(str(comparison.second)), "difference"):
        shown.add_column(name, justify="right", overflow="fold")
    if None not in (first.before.accuracy, first.after.accuracy, second.after.accuracy):
        shown.add_row(f"test {first.metric}", *_accuracies(first, second))
    for name, read, write in ROWS:
        dense, one, other = (read(figures) for figures in (first.before, first.after, second.after))
        shown.add_row(name, write(dense), write(one), write(other), f"{100 * (other / one - 1):+.1f} %" if one else "–")
    console.print(shown)


def _there(report: Report | None, path: Path) -> Report:
    if report is None:
        raise InputError(f"{path} holds no finished run; name the --out folder of a secateurs prune")
    return report


def _accuracies(first: Report, second: Report) -> tuple[str, ...]:
    dense, one, other = (figures.accuracy or 0.0 for figures in (first.before, first.after, second.after))
    return *(f"{100 * a:.2f} %" for a in (dense, one, other)), f"{100 * (other - one):+.2f} points"


def _caption(first: Report, second: Report) -> str:
    """Titles of the two runs, and a note if their dense networks differ."""
    lines = [first.title, second.title]
    if _dense(first.before) != _dense(second.before):
        lines.append("The dense networks differ; the column is that of the first run.")
    return escape("\n".join(lines))


def _dense(figures: Figures) -> tuple[Any, ...]:
    return figures.accuracy, figures.macs, figures.params


def _figures(report: Report) -> dict[str, Any]:
    return {"title": report.title, "before": asdict(report.before), "after": asdict(report.after)}
