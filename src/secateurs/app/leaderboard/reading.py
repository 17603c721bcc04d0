"""Runs from where they are: folders of runs, and files that a project commits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from secateurs.app.cli.run_folder import RECIPE
from secateurs.app.leaderboard.archive import is_archive, read_archive
from secateurs.app.leaderboard.records import Record, read_record
from secateurs.errors import InputError


def read_records(places: Iterable[Path]) -> tuple[list[Record], list[Path]]:
    """Every finished run in these folders and below and in these files, and the folders of runs that are not finished.

    A run that stands in a file and in a folder is the folder's. InputError where a place is not there, or holds no run;
    DamageError where a record was changed or cut off.
    """
    found: list[Record] = []
    filed: list[Record] = []
    unfinished: list[Path] = []
    for top in places:
        if top.is_file():
            filed += read_archive(top)
            continue
        for place in _runs_of(top):
            record = read_record(place)
            found += [record] if record else []
            unfinished += [] if record else [place]
    there = {_same(record) for record in found}
    return [record for record in filed if _same(record) not in there] + found, unfinished


def read_committed(folder: Path) -> list[Record]:
    """The runs of every file of runs in a folder; none where the folder is not there."""
    files = sorted(folder.rglob("*.json")) if folder.is_dir() else []
    return [record for file in files if is_archive(file) for record in read_archive(file)]


def _runs_of(top: Path) -> list[Path]:
    if not top.is_dir():
        raise InputError(f"{top} is not there; name folders of runs, or folders that hold them")
    if places := sorted(file.parent for file in top.rglob(RECIPE)):
        return places
    raise InputError(f"{top} holds no run: nothing in it has a {RECIPE}; name the --out of a run, or its parent")


def _same(record: Record) -> object:
    return record.place, record.sort, record.seed
