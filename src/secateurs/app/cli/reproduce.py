"""`secateurs reproduce`: run a row of a paper's table by its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from secateurs.app.cli.arguments import Invocation
from secateurs.app.cli.pruning import prune
from secateurs.app.cli.recipe import Recipe
from secateurs.app.cli.requests import Reproduction
from secateurs.app.cli.run_folder import RECIPE
from secateurs.app.experiments import Row, find
from secateurs.app.experiments.listing import HEADINGS, listed
from secateurs.app.experiments.settling import Order, recipe_of
from secateurs.app.leaderboard import read_committed, read_records
from secateurs.errors import InputError

NARROW = tuple(HEADINGS.index(name) for name in ("row", "reported", "cost", "measured", "runnable here"))
"""Columns that fit a narrow terminal."""
WIDEST = 1000


def reproduce(reproduction: Reproduction, console: Console) -> None:
    """Run an experiment of a paper by the name of its row: the paper's network, data, recipe and method."""
    if reproduction.list:
        _show(reproduction, console)
        return
    if reproduction.row is None:
        raise InputError("no row is named; name one, or see all of them: --list")
    row = find(reproduction.row)
    order = Order(
        reproduction.seed,
        reproduction.quick,
        _absolute(reproduction.data),
        reproduction.weights,
        reproduction.control,
        _absolute(reproduction.like),
    )
    machine = {key: getattr(reproduction, key) for key in ("workers", "threads", "devices", "num_nodes")}
    recipe = replace(recipe_of(row, order), **machine)
    _introduce(row, console)
    given = frozenset(f.name for f in fields(Recipe))
    prune(Invocation(recipe, given, place_of(reproduction, row), reproduction.resume, {}), console)


def place_of(reproduction: Reproduction, row: Row) -> Path:
    """The folder of the run: the row's, by control and seed."""
    quick = "-quick" if reproduction.quick else ""
    control = "" if reproduction.control == "none" else f"{reproduction.control}-"
    return reproduction.out / f"{row.name}{quick}" / f"{control}seed{reproduction.seed}"


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


def _introduce(row: Row, console: Console) -> None:
    """Print the reported result, and the differences from the authors' experiment."""
    lines = [row.paper, f"Reported: {row.reported}, {row.reported.where}"]
    lines += [f"Differs: {sentence}" for sentence in row.differs]
    for line in lines:
        console.print(line, markup=False, emoji=False, highlight=False)


def _show(reproduction: Reproduction, console: Console) -> None:
    """Print the table of all rows, with what the files of --results and the runs in --out came to."""
    runs = read_records([reproduction.out])[0] if any(reproduction.out.rglob(RECIPE)) else []
    found = listed([*read_committed(reproduction.results), *runs], data=_absolute(reproduction.data))
    if reproduction.json:
        console.print_json(json.dumps([one.plain() for one in found]))
        return
    cells = [one.cells() for one in found]
    whole = _table(range(len(HEADINGS)), cells)
    wide = Measurement.get(console, console.options.update(max_width=WIDEST), whole).maximum
    if not console.is_terminal:
        console.width = wide
    narrow = console.width < wide
    console.print(_table(NARROW, cells) if narrow else whole)
    console.print(
        "reported: paper, abstract, code (the authors' repository), figure (there), log (computed from theirs), quoted "
        "(by somebody else), – (not public). cost: multiply-accumulates of all training, in 10^15 (P) or 10^18 (E). "
        f"measured: by runs in {reproduction.results} and {reproduction.out}.",
        highlight=False,
    )
    if narrow:
        console.print(f"All {len(HEADINGS)} columns: in a terminal of {wide} characters, or with | less -S, or --json.")


def _table(columns: Sequence[int], cells: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for place in columns:
        table.add_column(HEADINGS[place], overflow="fold")
    for line in cells:
        table.add_row(*(line[place] for place in columns))
    return table
