"""The table that a run prints at its end."""

from collections.abc import Callable

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from secateurs.app.report.figures import Figures, LayerWidth, Report

MOST_ROWS = 24
"""Largest number of rows of widths; report.json has all."""


def table(report: Report) -> Table:
    """Print the figures of the network before and after, then the widths of its layers."""
    title = escape(report.title)
    shown = Table(title=title, box=box.SIMPLE_HEAVY, title_style="bold", title_justify="left", pad_edge=False)
    shown.add_column("")
    for heading in ("before", "after", "change"):
        shown.add_column(heading, justify="right")
    before, after = report.before, report.after
    if before.accuracy is not None and after.accuracy is not None:
        points = 100 * (after.accuracy - before.accuracy)
        name = f"test {report.metric}"
        shown.add_row(name, _percent(before.accuracy), _percent(after.accuracy), f"{points:+.2f} points")
    if before.top5 is not None and after.top5 is not None:
        points = 100 * (after.top5 - before.top5)
        shown.add_row("top-5 accuracy", _percent(before.top5), _percent(after.top5), f"{points:+.2f} points")
    for name, read, write in ROWS:
        old, new = read(before), read(after)
        shown.add_row(name, write(old), write(new), _remains(old, new))
    shown.add_section()
    _add_widths(shown, report.widths)
    return shown


def _add_widths(shown: Table, widths: tuple[LayerWidth, ...]) -> None:
    """Return rows of widths; of many layers, unchanged ones are left out first, then the last ones."""
    rows = widths if len(widths) <= MOST_ROWS else tuple(w for w in widths if w.after < w.before)
    for width in rows[:MOST_ROWS]:
        bar = Text(_bar(width), style="cyan")
        shown.add_row(f"width of {escape(width.name)}", str(width.before), str(width.after), bar)
    hidden = len(widths) - len(rows[:MOST_ROWS])
    if hidden:
        shown.add_row(f"… and {hidden} more layers in report.json", "", "", "")


def _bar(width: LayerWidth, length: int = 10) -> str:
    """Draw the remaining share of a layer as a bar, to half a character.

    >>> _bar(LayerWidth("conv", 16, 8))
    '━━━━━─────'
    """
    filled = min(length, max(0, round(length * width.after / max(width.before, 1))))
    return "━" * filled + "─" * (length - filled)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _remains(old: float, new: float) -> str:
    return f"{100 * new / old:.1f} %" if old else "–"


def in_units(value: float) -> str:
    """Write a count in the unit that leaves one to three digits before the point.

    >>> in_units(40_813_184), in_units(269_722), in_units(640)
    ('40.81 M', '269.7 k', '640')
    """
    for factor, unit, digits in ((1e9, " G", 2), (1e6, " M", 2), (1e3, " k", 1)):
        if value >= factor:
            return f"{value / factor:.{digits}f}{unit}"
    return f"{value:.0f}"


def in_bytes(value: float) -> str:
    """Write bytes in powers of 1024.

    >>> in_bytes(1_100_000), in_bytes(2048)
    ('1.05 MiB', '2.0 KiB')
    """
    for factor, unit, digits in ((2**30, " GiB", 2), (2**20, " MiB", 2), (2**10, " KiB", 1)):
        if value >= factor:
            return f"{value / factor:.{digits}f}{unit}"
    return f"{value:.0f} B"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


ROWS: tuple[tuple[str, Callable[[Figures], float], Callable[[float], str]], ...] = (
    ("MACs", lambda f: f.macs, in_units),
    ("parameters", lambda f: f.params, in_units),
    ("activations written", lambda f: f.memory, in_bytes),
    ("peak activation memory", lambda f: f.peak_memory, in_bytes),
    ("file size", lambda f: f.file_bytes, in_bytes),
    ("latency", lambda f: f.latency, _milliseconds),
)
"""(name, function that reads it from the figures, function that formats it)."""
