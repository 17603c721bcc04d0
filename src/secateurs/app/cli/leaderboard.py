"""`secateurs leaderboard`: compare many runs from their records."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from secateurs.app.cli.requests import FORMATS, Board
from secateurs.app.leaderboard import Record, Standing, read_records, standings
from secateurs.app.leaderboard.archive import written
from secateurs.app.leaderboard.board import page
from secateurs.app.leaderboard.text import HEADINGS, cells, comma_separated, markdown
from secateurs.errors import InputError, near
from secateurs.store.files import write_files

SHOWN = (0, 2, 3, 4, 5, 6, 7, 9)
"""Columns that fit a terminal; the files have all."""


def leaderboard(board: Board, console: Console) -> None:
    """Compare finished runs in tables: accuracy, cost and latency, mean and spread over seeds, and controls."""
    for end in board.formats:
        if end not in FORMATS:
            raise InputError(f"--formats {end}: there is no such table; {near(end, FORMATS)}")
    records, unfinished = read_records(board.runs)
    if not records:
        raise InputError(f"none of the {len(unfinished)} runs there is finished; go on with one: --resume")
    show(standings(records), console)
    files = write(records, board, len(unfinished))
    console.print(f"[bold]{board.out}[/] holds {', '.join(files)}.", emoji=False)


def write(records: Sequence[Record], board: Board, unfinished: int) -> list[str]:
    """Write the files that are asked for; return their names."""
    tables = standings(records)
    chosen = "" if set(board.formats) == set(FORMATS) else f" --formats {' '.join(board.formats)}"
    titled = "" if board.title == Board.title else f" --title {board.title!r}"
    made = f"secateurs leaderboard {board.name}.json --name {board.name}{titled}{chosen}"
    texts = {
        "md": lambda: markdown(tables, unfinished, title=board.title, source=made if "json" in board.formats else ""),
        "csv": lambda: comma_separated(tables),
        "html": lambda: page(tables, unfinished, title=board.title),
        "json": lambda: written(records),
    }
    files = {f"{board.name}.{end}": texts[end]().encode() for end in board.formats}
    write_files(board.out, files, overwrite=True)
    return list(files)


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
