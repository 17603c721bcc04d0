"""`secateurs leaderboard`: tables of many runs from their records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rich.console import Console
from rich.table import Table

from secateurs.app.cli.flags import setting
from secateurs.app.leaderboard import Record, Standing, read_records, standings
from secateurs.app.leaderboard.archive import written
from secateurs.app.leaderboard.board import page
from secateurs.app.leaderboard.text import HEADINGS, cells, comma_separated, markdown
from secateurs.errors import InputError, near
from secateurs.store.files import write_files

SHOWN = (0, 2, 3, 4, 5, 6, 7, 9)
"""Columns that fit a terminal; the files have all."""
FORMATS = ("md", "csv", "html", "json")


@final
@dataclass(frozen=True)
class Board:
    """Where the runs are, and where the tables go."""

    runs: tuple[Path, ...] = setting("folders of runs, folders that hold them, or JSON files of runs", "PLACE")
    out: Path = setting("folder of the tables", "FOLDER", default=Path("leaderboard"))
    name: str = setting("name of the files, without ending", "NAME", default="leaderboard")
    title: str = setting("what stands above the tables", "TEXT", default="Leaderboard")
    formats: tuple[str, ...] = setting("files to write: md, csv, html, json; all by default", "END", default=FORMATS)


def leaderboard(board: Board, console: Console) -> None:
    """Put finished runs side by side: accuracy, cost and latency, seeds with their spread, and the controls.

    Everything comes from the records in the folders; nothing is run. Written are leaderboard.md, leaderboard.csv with a
    line a run, leaderboard.html, one page that needs no other file, and leaderboard.json, the records of all the runs
    without their networks and folders, from which the same tables can be made again, also together with later runs.

    examples:
      secateurs leaderboard runs
      secateurs leaderboard runs/half runs/small --out tables
      secateurs leaderboard results/half.json runs/later --out results --name half --formats md json
    """
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
