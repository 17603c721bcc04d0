"""`secateurs sweep`: many runs from one file, one after the other or on Ray Tune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from rich.console import Console

from secateurs.app.cli.flags import setting
from secateurs.app.cli.leaderboard import Board, show, write
from secateurs.app.leaderboard import read_records, standings
from secateurs.app.sweep import Outcome, read_sweep
from secateurs.app.sweep.jobs import LOGS, in_sequence, jobs, phases, runs_code
from secateurs.app.sweep.on_ray import available, on_ray
from secateurs.errors import InputError, SecateursError


class SweepError(SecateursError):
    """Some trials of a sweep failed; the others are finished."""


@final
@dataclass(frozen=True)
class Order:
    """A sweep file, and where and how its trials run."""

    file: Path = setting("what is tried, in YAML", "FILE")
    out: Path = setting("folder that holds the runs and their tables", "FOLDER", default=Path("runs/sweep"))
    address: str | None = setting("of a Ray cluster; without it Ray runs here", "HOST:PORT", default=None)
    slots: int | None = setting("trials at a time; as many as there is room for otherwise", "N", default=None)
    sequence: bool = setting("one trial after the other, without Ray", default=False)
    trust_code: bool = setting("run Python files that the file names, unread by you", default=False)


def sweep(order: Order, console: Console) -> None:
    """Run every method with every budget and seed of a file, with controls, and put the results in one table.

    Each trial is a run folder of its own: it can be read, exported and compared like any other. Trials run on Ray Tune
    where it is installed, here or on a cluster, or else one after the other. The same command again goes on: finished
    trials take no time.

    The file, with everything that it may hold (rows of papers instead of a recipe: rows: [sfp-r20], folders: {...}):
      recipe: {model: resnet20, data: cifar10:DATA, weights: trained.safetensors, epochs: 12}
      methods: [l2, {name: taylor}, fpgm]
      budgets: [{macs: 0.5}, {macs: 0.3}]
      seeds: [0, 1, 2]
      controls: [random, l2, scratch, dense]
      cpus: 1
      gpus: 0

    examples:
      secateurs sweep methods.yaml --out runs/methods
      secateurs sweep methods.yaml --address ray://head:10001
    """
    settings = read_sweep(order.file)
    every = jobs(settings, order.out)
    if (code := runs_code(every)) and not order.trust_code:
        raise InputError(
            f"{order.file} names {code}, a Python file that a trial would run; read it, and add --trust-code"
        )
    if order.address and (order.sequence or not available()):
        raise InputError("--address is of a Ray cluster, and Ray Tune is not installed, or --sequence was given")
    outcomes: list[Outcome] = []
    for some in phases(settings, every):
        if some and (order.sequence or not available()):
            outcomes += in_sequence(some, tell=lambda line: console.print(line, markup=False, emoji=False))
        elif some:
            store = order.out / "ray"
            outcomes += on_ray(
                some, store=store, cpus=settings.cpus, gpus=settings.gpus, address=order.address, slots=order.slots
            )
    _tell(order, outcomes, console)


def _tell(order: Order, outcomes: list[Outcome], console: Console) -> None:
    """Print and write the table of what is finished; SweepError names what is not."""
    failed = [outcome for outcome in outcomes if outcome.failure]
    if len(failed) < len(outcomes):
        records, unfinished = read_records([order.out])
        show(standings(records), console)
        files = write(records, Board(runs=(order.out,), out=order.out), len(unfinished))
        console.print(f"[bold]{order.out}[/] holds the runs, {', '.join(files)}.", emoji=False)
    if failed:
        first = failed[0]
        raise SweepError(
            f"{len(failed)} of {len(outcomes)} trials failed; the first, {first.name}: {first.failure} "
            f"({order.out / LOGS / first.name}.log); mend it, and give the same command again"
        )
