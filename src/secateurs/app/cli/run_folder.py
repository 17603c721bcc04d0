"""The folder of a run: new or taken up again, held by one process, and safe from a kill at any moment."""

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from secateurs.app.cli.recipe import Recipe
from secateurs.errors import InputError, StoreError
from secateurs.store.files import write_files

RECIPE = "recipe.yaml"
STAGES = "stages"
LOCK = ".lock"

HEADER = """\
# The resolved recipe of this run. The same again, into another folder:
#   secateurs prune --config {} --out NEW
"""


@final
@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it made, and which of its stages are done."""

    path: Path

    def done(self, stage: str) -> dict[str, Any] | None:
        """What was recorded when a stage was finished, or None."""
        record = self.path / STAGES / f"{stage}.json"
        return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None

    def finish(self, stage: str, record: dict[str, Any]) -> None:
        """Record that a stage is done; call it when all its files are written."""
        write_files(self.path / STAGES, {f"{stage}.json": json.dumps(record, indent=2).encode()}, overwrite=True)

    def put(self, files: dict[str, bytes]) -> None:
        """Write files, all whole or none."""
        write_files(self.path, files, overwrite=True)

    def recipe(self) -> Path | None:
        """The recipe of the run that this folder holds, if it holds one."""
        return self.path / RECIPE if (self.path / RECIPE).is_file() else None

    def put_recipe(self, recipe: Recipe) -> None:
        """Write the resolved recipe."""
        text = HEADER.format(self.path / RECIPE) + yaml.safe_dump(recipe.as_keys(), sort_keys=False)
        self.put({RECIPE: text.encode()})


def check_folder(path: Path, *, resume: bool) -> RunFolder:
    """Refuse a folder that holds something else than a run to resume; creates nothing."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, and a run needs a folder; choose another --out")
    folder = RunFolder(path)
    inhabited = path.is_dir() and any(entry.name != LOCK for entry in path.iterdir())
    if inhabited and not resume:
        remedy = "go on with it: --resume; or choose another --out" if folder.recipe() else "choose another --out"
        raise InputError(f"{path} exists and is not empty, and nothing is overwritten; {remedy}")
    if inhabited and folder.recipe() is None:
        raise InputError(f"{path} holds no {RECIPE}, so there is no run in it to resume; choose another --out")
    return folder


def check_space(path: Path, needed: int) -> None:
    """Refuse a disk on which the run would not fit."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise InputError(f"{existing} cannot be written to, so {path} cannot be made; choose another --out")
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"{path} needs about {needed / 2**20:,.0f} MiB and its disk has {free / 2**20:,.0f} MiB left; "
            "free some space or choose another --out"
        )


@contextmanager
def held(folder: RunFolder) -> Generator[None]:
    """Make the folder and hold it, so that no second process works in it; let go when killed, too."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = (folder.path / LOCK).open("w")
    except OSError as cause:
        raise StoreError(f"{folder.path} cannot be made: {cause.strerror}; choose another --out") from cause
    with lock:
        _lock(lock.fileno(), folder)
        yield


def _lock(handle: int, folder: RunFolder) -> None:
    try:
        import fcntl  # POSIX only; elsewhere nothing is held
    except ImportError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        raise InputError(f"another process works in {folder.path}; wait for it, or choose another --out") from cause
