"""`secateurs sweep`: many runs from one file, one after the other or on Ray Tune."""

from __future__ import annotations

from rich.console import Console

from secateurs.app.cli.leaderboard import show, write
from secateurs.app.cli.requests import Board, SweepOrder
from secateurs.app.leaderboard import read_records, standings
from secateurs.app.sweep import Outcome, read_sweep
from secateurs.app.sweep.jobs import LOGS, in_sequence, jobs, phases, runs_code
from secateurs.app.sweep.on_ray import available, on_ray
from secateurs.errors import InputError, SecateursError


class SweepError(SecateursError):
    """Raised if trials of a sweep failed; the others are finished."""


def sweep(order: SweepOrder, console: Console) -> None:
    """Run every method with every budget and seed of a file, with controls, and put the results in one table."""
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


def _tell(order: SweepOrder, outcomes: list[Outcome], console: Console) -> None:
    """Print and write the table of finished trials; SweepError names the others."""
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
