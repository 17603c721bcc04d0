"""`secateurs leaderboard`: compare many runs from their records."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from secateurs.app.cli.requests import Board
from secateurs.app.leaderboard import Standing, read_records, standings
from secateurs.app.leaderboard.board import page
from secateurs.app.leaderboard.text import HEADINGS, cells, comma_separated, markdown
from secateurs.errors import InputError
from secateurs.store.files import write_files

SHOWN = (0, 2, 3, 4, 5, 6, 8)
"""Columns of the terminal's table; the files have all."""
FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.html")


def leaderboard(board: Board, console: Console) -> None:
    """Compare finished runs in tables: accuracy, cost and latency, mean and spread over seeds, and controls."""
    records, unfinished = read_records(board.runs)
    if not records:
        raise InputError(f"none of the {len(unfinished)} runs there is finished; go on with one: --resume")
    tables = standings(records)
    show(tables, console)
    write(tables, board.out, len(unfinished))
    written = ", ".join(FILES)
    console.print(f"[bold]{board.out}[/] holds {written}.", emoji=False)


def write(tables: tuple[Standing, ...], out: Path, unfinished: int) -> None:
    """Write the three files."""
    texts = (markdown(tables, unfinished), comma_separated(tables), page(tables, unfinished))
    write_files(out, {name: text.encode() for name, text in zip(FILES, texts, strict=True)}, overwrite=True)


def show(tables: tuple[Standing, ...], console: Console) -> None:
    """Print the tables."""
    for table in tables:
        shown = Table(title=table.title, title_justify="left")
        for place in SHOWN:
            shown.add_column(HEADINGS[place], justify="right" if place else "left")
        for entry in table.entries:
            line = cells(entry)
            shown.add_row(*(line[place] for place in SHOWN))
        for control in table.missing:
            shown.add_row(f"{control} (control)", *["not run"] * (len(SHOWN) - 1), style="dim")
        console.print(shown)
