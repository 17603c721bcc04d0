"""`secateurs reproduce`: a row of a paper's table by its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import final

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from secateurs.app.cli.arguments import Invocation
from secateurs.app.cli.flags import setting
from secateurs.app.cli.pruning import prune
from secateurs.app.cli.recipe import Control, Recipe
from secateurs.app.cli.run_folder import RECIPE
from secateurs.app.experiments import Row, find
from secateurs.app.experiments.listing import HEADINGS, listed
from secateurs.app.experiments.settling import Order, recipe_of
from secateurs.app.leaderboard import read_committed, read_records
from secateurs.errors import InputError

NARROW = tuple(HEADINGS.index(name) for name in ("row", "reported", "cost", "measured", "runnable here"))
"""Columns that fit a narrow terminal."""
WIDEST = 1000


@final
@dataclass(frozen=True)
class Reproduction:
    """Which row, with what, where."""

    row: str | None = setting("name of the row; --list shows all", "ROW", default=None, argument=True)
    list: bool = setting("show every row: what is reported, what it needs and costs, what was measured", default=False)
    json: bool = setting("with --list: as JSON", default=False)
    results: Path = setting(
        "with --list: folder of files of runs that were measured", "FOLDER", default=Path("results")
    )
    data: Path | None = setting("folder that holds the row's data", "FOLDER", default=None)
    weights: str | None = setting(
        "trained weights to begin with, in place of the row's: published ones by name, or a safetensors file",
        "NAME",
        default=None,
    )
    quick: bool = setting("every stage in minutes, on few images; its figures mean nothing", default=False)
    control: Control = setting("run a control in the method's place", default="none")
    like: Path | None = setting("finished run of the row, for a control as large as its network", "RUN", default=None)
    seed: int = setting("of initialisation, shuffling and whatever the method draws", "N", default=0)
    out: Path = setting("folder that holds the runs, one folder a row", "FOLDER", default=Path("runs"))
    resume: bool = setting("go on where an earlier start was interrupted", default=False)
    workers: int = setting("processes that read images", "N", default=0, group="machine")
    threads: int = setting("CPU threads; 0 takes torch's default", "N", default=0, group="machine")
    devices: int = setting("devices of each machine that train together", "N", default=1, group="machine")
    num_nodes: int = setting("machines that train together", "N", default=1, group="machine")

    def place(self, row: Row) -> Path:
        """The folder of the run: the row's, by control and seed."""
        quick = "-quick" if self.quick else ""
        control = "" if self.control == "none" else f"{self.control}-"
        return self.out / f"{row.name}{quick}" / f"{control}seed{self.seed}"


def reproduce(reproduction: Reproduction, console: Console) -> None:
    """Run an experiment of a paper by the name of its row: the paper's network, data, recipe and method.

    What is reported, its source, and how the run differs from what the authors did is said first. With --quick and no
    --data it runs on handwritten digits, to see that every stage works.

    examples:
      secateurs reproduce --list
      secateurs reproduce sfp-r56 --quick
      secateurs reproduce sfp-r56 --data DATA --seed 1
      secateurs reproduce sfp-r56 --data DATA --control scratch --like runs/sfp-r56/seed0
    """
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
    prune(Invocation(recipe, given, reproduction.place(row), reproduction.resume, {}), console)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()


def _introduce(row: Row, console: Console) -> None:
    """Say what is reported, and how this differs from what the authors did."""
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
