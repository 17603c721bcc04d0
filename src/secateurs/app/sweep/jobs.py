"""Trials as run folders: recipe, work and outcome; run one after the other, or by Ray's workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

from rich.console import Console

from secateurs.app.cli.arguments import Invocation, compose
from secateurs.app.cli.method_file import absolute, is_file
from secateurs.app.cli.pruning import prune
from secateurs.app.cli.recipe import Recipe
from secateurs.app.experiments import find
from secateurs.app.experiments.settling import Order, recipe_of
from secateurs.app.sweep.file import Sweep, Trial
from secateurs.errors import InputError

LOGS = "logs"


@final
@dataclass(frozen=True)
class Job:
    """A trial that can run on any machine that can write its folder: recipe, folder and log."""

    name: str
    recipe: Recipe
    folder: Path
    log: Path


@final
@dataclass(frozen=True)
class Outcome:
    """Outcome of a trial; `failure` is empty if it finished."""

    name: str
    failure: str = ""


def jobs(sweep: Sweep, out: Path) -> tuple[Job, ...]:
    """Return every trial with its recipe; InputError before any work if one cannot be run."""
    out = out.absolute()
    return tuple(
        Job(trial.name, _recipe(sweep, trial, out), out / trial.name, out / LOGS / f"{trial.name}.log")
        for trial in sweep.trials()
    )


def phases(sweep: Sweep, every: Sequence[Job]) -> tuple[tuple[Job, ...], tuple[Job, ...]]:
    """Return the jobs that depend on none, and those whose reference trial is finished."""
    waiting = {trial.name for trial in sweep.trials() if trial.like}
    return tuple(job for job in every if job.name not in waiting), tuple(job for job in every if job.name in waiting)


def in_sequence(
    every: Sequence[Job], *, tell: Callable[[str], None], run: Callable[[Job], Outcome] | None = None
) -> tuple[Outcome, ...]:
    """Run one job after the other; a failed one does not stop the others."""
    found: list[Outcome] = []
    for number, job in enumerate(every, 1):
        tell(f"{number}/{len(every)} {job.name}")
        found.append((run or finish)(job))
        if found[-1].failure:
            tell(f"    failed: {found[-1].failure}")
    return tuple(found)


def finish(job: Job) -> Outcome:
    """Run a job or resume it; a finished one is skipped."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8") as log:
        console = Console(file=log, width=120)
        given = frozenset(f.name for f in fields(Recipe))
        try:
            prune(Invocation(job.recipe, given, job.folder, resume=True, flags={"trust_code": True}), console)
        except Exception as cause:  # noqa: BLE001 (whatever stops one trial is told, and the others go on)
            console.print_exception()
            return Outcome(job.name, " ".join(f"{type(cause).__name__}: {cause}".split())[:500])
    return Outcome(job.name)


def _recipe(sweep: Sweep, trial: Trial, out: Path) -> Recipe:
    """Return the recipe of a trial: the row's, if it has one, overridden by the file's keys."""
    keys: dict[str, Any] = dict(trial.keys)
    like = out / trial.like if trial.like else None
    base = Recipe()
    if trial.row:
        row = find(trial.row)
        root = sweep.folders.get(row.data)
        weights = keys.pop("weights", None)
        order = Order(
            seed=int(keys["seed"]),
            quick=sweep.quick,
            root=None if root is None else Path(root).expanduser().absolute(),
            weights=weights,
        )
        base = recipe_of(row, order)
    known = {f.name for f in fields(Recipe)}
    if unknown := keys.keys() - known:
        raise InputError(f"the sweep's recipe has the unknown key {min(unknown)!r}; secateurs prune --help lists them")
    made = compose(base, _method_keys(keys))
    return replace(
        made, like=like, threads=sweep.cpus, device="cuda" if sweep.gpus else "cpu", method=absolute(made.method)
    )


def _method_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys with a method's options separate from its name, for `compose`."""
    plain = dict(keys)
    method = plain.get("method")
    if isinstance(method, Mapping):
        options = dict(method)
        plain["method"] = options.pop("name", None)
        if plain["method"] is None:
            raise InputError(f"the method {dict(method)} of the sweep has no name; write {{name: taylor, …}}")
        plain["options"] = options
    return plain


def runs_code(every: Sequence[Job]) -> str | None:
    """Return the first Python file that a job would run, for consent; None if there is none."""
    for job in every:
        for name in (job.recipe.method, job.recipe.model):
            if is_file(name):
                return name
    return None
